"""Run file work in processes that may hang or die.

FFmpeg is C code that meets hostile input: it can crash, or loop where Python cannot interrupt
it. Files go to a Ray task of their own that answers one by one; a silence longer than the limit
gets the process killed, a death is laid to the file it was busy with, and a fresh process goes
on with the next file.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.exceptions

from infra.errors import SnapvideoError
from pipelines.steps.source import Outcome, Refusal

log = logging.getLogger(__name__)

Work = Callable[[list[str]], Iterator[Outcome]]

_AHEAD = 4  # outcomes that may wait to be fetched; bounds the bytes in the object store
_START_S = 60.0  # on top of the first file's limit: a new process has to import


def examine_apart(uris: list[str], work: Work, timeout_s: float) -> Iterator[Outcome]:
    """Yield one outcome a file, in order, whatever the files do to the process.

    Args:
        uris: Files.
        work: Yields an outcome a file; runs in the other process, so it must pickle.
        timeout_s: Longest silence, seconds.
    """
    done = 0
    while done < len(uris):
        for outcome in _one_process(uris[done:], work, timeout_s):
            done += 1
            yield outcome


def _one_process(uris: list[str], work: Work, timeout_s: float) -> Iterator[Outcome]:
    """Yield outcomes until the files are done or the process has failed on one."""
    remote: Any = ray.remote(num_cpus=1, max_retries=0)(_answers)
    stream = remote.options(_generator_backpressure_num_objects=_AHEAD).remote(work, uris)
    for index, uri in enumerate(uris):
        patience_s = timeout_s if index else timeout_s + _START_S
        ready, _ = ray.wait([stream], timeout=patience_s, fetch_local=False)
        if not ready:
            ray.cancel(stream, force=True)
            yield _refused(uri, "timeout", f"no result within {timeout_s:.0f} s; process killed")
            return
        try:
            outcome: Outcome = ray.get(next(stream))
        except ray.exceptions.RayTaskError as fault:
            if isinstance(fault.cause, SnapvideoError):
                raise fault.cause from fault
            yield _refused(uri, "crashed", repr(fault.cause))
            return
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError):
            yield _refused(uri, "crashed", "the decoding process died")
            return
        yield outcome


def _answers(work: Work, uris: list[str]) -> Iterator[Outcome]:
    yield from work(uris)


def _refused(uri: str, reason: str, message: str) -> Outcome:
    log.warning("refused file=%s reason=%s message=%s", uri, reason, message)
    return Outcome(uri, refusals=[Refusal("decode", reason, message[:500])])
