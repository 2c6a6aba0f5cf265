"""Where a model runs: a setting `device` (auto, cpu or cuda) as torch's own."""

import torch

from infra.errors import ConfigError


def torch_device(setting: str, name: str) -> torch.device:
    """Return the device that a setting names; `auto` takes a GPU where one is seen.

    Args:
        setting: The setting's name, for the error.
        name: Its value: auto, cpu or cuda.

    Raises:
        ConfigError: `cuda` is asked for where none is seen.
    """
    is_there = torch.cuda.is_available()
    if name == "cuda" and not is_there:
        raise ConfigError(
            f"{setting}: cuda is asked for, but no GPU is seen here; set it to auto or cpu, or "
            "install the CUDA build of torch and check `nvidia-smi`"
        )
    return torch.device("cuda" if name == "auto" and is_there else name.replace("auto", "cpu"))
