"""The question a captioner is asked: a text file, known by the hash of its words."""

from importlib import resources

from infra import storage
from infra.errors import ConfigError, DataError
from infra.store.texts import text_hash


def load_prompt(prompt_file: str) -> str:
    """Return the prompt in a file, or the built-in one where none is named.

    Raises:
        ConfigError: The file is missing, not UTF-8, or empty.
    """
    if not prompt_file:
        built_in = resources.files("captioning").joinpath("prompts/video.txt")
        return built_in.read_text(encoding="utf-8").strip()
    try:
        text = storage.read_text(prompt_file).strip()
    except DataError as fault:
        raise ConfigError(f"captioning.prompt_file: {fault}") from fault
    if not text:
        raise ConfigError(f"captioning.prompt_file {prompt_file}: is empty; write a question")
    return text


def prompt_id(prompt: str) -> str:
    """Return the identity of a prompt."""
    return text_hash(prompt)[:16]
