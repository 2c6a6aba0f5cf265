"""Hygiene of captions."""

import pytest

from captioning.clean import clean, verdict


def test_control_tokens_lines_and_quotes_go():
    assert clean('<|im_start|> "A dog\n runs. "</s>') == "A dog runs."


@pytest.mark.parametrize(
    ("text", "truncated", "status"),
    [
        ("a red circle moves left", False, "ok"),
        ("a red circle moves", True, "truncated"),
        ("...", False, "empty"),
        ("", True, "empty"),
        ("I'm sorry, but I cannot describe people.", False, "refused"),
        ("I can’t see this video", False, "refused"),  # noqa: RUF001 - models write this apostrophe
        ("Icarus, an old man, sits.", False, "ok"),
    ],
)
def test_each_answer_gets_its_verdict(text, truncated, status):
    assert verdict(text, truncated) == status
