"""How far a long job is, as one line: rewritten in place on a terminal, else logged now and then.

status = Status()
for step in range(100):
    ...
    status.say(f"step {step + 1} of 100")
status.clear()
"""

import logging
import shutil
import sys
import time
from typing import TextIO

log = logging.getLogger(__name__)

_TERMINAL_S, _LOG_S = 0.1, 5.0
_HIDE = "\r\x1b[K"


class Status:
    """The line; `clear` it before anything else is written."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Take the stream that may be a terminal; default is standard error."""
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._said_s = time.monotonic() - (_LOG_S if self._on_terminal else 0.0)

    def say(self, text: str) -> None:
        """Show the line, unless one was shown a moment ago."""
        now_s = time.monotonic()
        if now_s - self._said_s < (_TERMINAL_S if self._on_terminal else _LOG_S):
            return
        self._said_s = now_s
        if self._on_terminal:
            self._stream.write(_HIDE + text[: shutil.get_terminal_size().columns - 1])
            self._stream.flush()
        else:
            log.info("%s", text)

    def clear(self) -> None:
        """Remove the line from the terminal; what was logged stays."""
        if self._on_terminal:
            self._stream.write(_HIDE)
            self._stream.flush()
