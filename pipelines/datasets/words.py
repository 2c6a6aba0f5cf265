"""Facts as a person reads them on a terminal: sizes, counts, columns."""

from collections.abc import Mapping, Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def size(num_bytes: float) -> str:
    """Return bytes in the unit that leaves at most four digits."""
    value, unit = float(num_bytes), _UNITS[0]
    for unit in _UNITS:
        if abs(value) < _STEP or unit == _UNITS[-1]:
            break
        value /= _STEP
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def counts(found: Mapping[str, int]) -> str:
    """Return "name number" of each, or "none"."""
    return ", ".join(f"{name} {num}" for name, num in found.items()) or "none"


def columns(rows: Sequence[Sequence[object]], indent: str = "  ") -> list[str]:
    """Return rows as lines whose columns stand below each other; numbers to the right."""
    if not rows:
        return []
    texts = [[clean(str(cell)) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in texts) for at in range(len(texts[0]))]
    right = [all(isinstance(row[at], int | float) for row in rows) for at in range(len(rows[0]))]
    return [
        indent
        + "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]


def clean(text: str, longest: int = 160) -> str:
    """Return one line of text without what would steer a terminal, shortened."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
