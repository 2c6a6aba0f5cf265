"""Follow a run's stats.jsonl from the driver: one status line and one MLflow record a report.

Workers write numbers to a file and nothing else, so a slow or vanished MLflow never stops them.
"""

import json
import logging
import threading
from types import TracebackType
from typing import Any, Self

from infra import storage
from infra.errors import ServiceError
from infra.tracking import Tracker

log = logging.getLogger(__name__)

_POLL_S = 2.0
_NOT_METRICS = ("step", "steps")


class Follower:
    """A thread that lives as long as its `with` block."""

    def __init__(self, stats_uri: str, tracker: Tracker, run_id: str, name: str) -> None:
        self.last: dict[str, Any] = {}
        """The newest line."""
        self._uri, self._tracker, self._run_id, self._name = stats_uri, tracker, run_id, name
        self._sent = tracker.last_step(run_id, "loss")
        self._tracking = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-stats", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_S):
            self._look()

    def _look(self) -> None:
        if not storage.exists(self._uri):
            return
        rows = [json.loads(line) for line in storage.read_text(self._uri).splitlines()]
        shown = int(self.last.get("step", 0))
        for row in rows:
            if row["step"] > max(shown, self._sent):
                log.info(_status(self._name, row))
            if row["step"] > self._sent and self._tracking:
                self._send(row)
        self.last = rows[-1] if rows else self.last

    def _send(self, row: dict[str, Any]) -> None:
        numbers = {k: v for k, v in row.items() if k not in _NOT_METRICS}
        try:
            self._tracker.log(self._run_id, numbers, row["step"])
        except ServiceError as fault:
            log.warning("MLflow is not told any more, the numbers are in %s: %s", self._uri, fault)
            self._tracking = False
        self._sent = max(self._sent, int(row["step"]))


def _status(name: str, row: dict[str, Any]) -> str:
    minutes, seconds = divmod(int(row["left_s"]), 60)
    return (
        f"{name} step={row['step']}/{row['steps']} clips={row['clips']} loss={row['loss']:.4f} "
        f"clips/s={row['clips_per_s']:.0f} left={minutes}:{seconds:02d}"
    )
