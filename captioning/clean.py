"""Hygiene of captions: one line of plain text, and a verdict whether it may be used."""

import re
from typing import Literal

Status = Literal["ok", "truncated", "refused", "empty", "error"]

_SPECIAL = re.compile(r"<\|?[a-z_/ ]{1,30}\|?>", re.IGNORECASE)
_REFUSAL = re.compile(
    r"^(i.?m (very )?sorry|sorry,|i (can(not|.?t)|am (not able|unable)|won.?t)\b|as an ai\b)",
    re.IGNORECASE,
)


def clean(text: str) -> str:
    """Return a model's answer without control tokens, as one line with single spaces."""
    return " ".join(_SPECIAL.sub(" ", text).split()).strip("\"'` ")


def verdict(text: str, truncated: bool) -> Status:
    """Return whether a cleaned caption may be used.

    Args:
        text: What `clean` returned.
        truncated: The answer reached the longest length.
    """
    if not re.search(r"\w", text):
        return "empty"
    if _REFUSAL.match(text):
        return "refused"
    return "truncated" if truncated else "ok"
