"""A setting `device` becomes a place for tensors, or a clear error."""

import pytest
import torch

from infra.device import torch_device
from infra.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "is_there", "given"),
    [("auto", False, "cpu"), ("auto", True, "cuda"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_a_gpu_where_one_is_seen(name, is_there, given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    assert torch_device("x.device", name).type == given


def test_a_gpu_that_is_not_there_is_refused_by_the_settings_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"x\.device: cuda"):
        torch_device("x.device", "cuda")
