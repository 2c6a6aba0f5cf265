"""Run file work in processes that may hang or die.

FFmpeg is C code that meets hostile input: it can crash, or loop where Python cannot interrupt
it. Sources go to a Ray task of their own that answers one by one; one that takes too long gets the
process killed, and a fresh process goes on with the next. A process that dies may have been killed
from outside, so the source it was busy with is tried again before the death is laid to it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import ray.exceptions

from infra.errors import ServiceError, SnapvideoError
from pipelines.steps.source import Found, Outcome, Planned, Refusal

log = logging.getLogger(__name__)

Answers = Callable[[Sequence[Planned]], Iterator[Found]]

_AHEAD = 4  # answers that may wait to be fetched; bounds the bytes in the object store
_TRIES = 3  # processes that a source may take down before it is refused
_STARTS = 20  # processes in a row that may die before they have begun
_DEATHS = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
)


@dataclass(frozen=True)
class Limits:
    """What the other process may take."""

    timeout_s: float
    """Longest time for one source, seconds."""
    cpus: float = 1.0
    """CPU slots."""
    memory_mib: int = 0
    """Memory that is reserved for it, MiB."""


def examine_apart(planned: Sequence[Planned], work: Answers, limits: Limits) -> Iterator[Found]:
    """Yield clips and outcomes of sources, in order, whatever the files do to the process.

    A source that is tried again gives its clips again: only those that its outcome names count.

    Args:
        planned: Sources.
        work: Yields an outcome a source, after its clips; runs elsewhere, so it must pickle.
        limits: Of the other process.
    """
    done = deaths = 0
    while done < len(planned):
        stream, before = _begun(planned[done:], work, limits), done
        try:
            for found in _answered(stream, planned[done:], limits.timeout_s):
                done += isinstance(found, Outcome)
                yield found
            deaths = 0
        except _DEATHS as fault:
            deaths = deaths + 1 if done == before else 1
            log.warning("decoding process died file=%s fault=%r", planned[done].entry.uri, fault)
            if deaths == _TRIES:
                yield _refused(planned[done], "crashed", "the decoding process died")
                done, deaths = done + 1, 0


def _begun(planned: Sequence[Planned], work: Answers, limits: Limits) -> Any:  # noqa: ANN401 - a Ray stream
    """Return the answers of a process that has begun, however long it had to wait for a slot.

    Raises:
        ServiceError: Process after process dies before it can begin.
    """
    remote: Any = ray.remote(num_cpus=limits.cpus, max_retries=0)(_answers)
    options = {"_generator_backpressure_num_objects": _AHEAD, "memory": limits.memory_mib << 20}
    for _ in range(_STARTS):
        stream = remote.options(**options).remote(work, planned)
        try:
            ray.get(next(stream))
        except _DEATHS as fault:
            log.warning("decoding process died before it began fault=%r", fault)
        else:
            return stream
    raise ServiceError(
        f"{_STARTS} decoding processes in a row died before they began; look into Ray's session "
        "folder for what they wrote last, and at the memory of the node"
    )


def _answered(stream: Any, planned: Sequence[Planned], timeout_s: float) -> Iterator[Found]:  # noqa: ANN401 - a Ray stream
    """Yield answers until the sources are done or one has taken too long or raised."""
    for one in planned:
        deadline_s = time.monotonic() + timeout_s
        closed = False
        while not closed:
            try:
                found = _next(stream, deadline_s)
            except TimeoutError:
                ray.cancel(stream, force=True)
                message = f"no result within {timeout_s:.0f} s; process killed"
                yield _refused(one, "timeout", message)
                return
            except ray.exceptions.RayTaskError as fault:
                if isinstance(fault.cause, SnapvideoError):
                    raise fault.cause from fault
                yield _refused(one, "crashed", repr(fault.cause))
                return
            closed = isinstance(found, Outcome)
            yield found


def _next(stream: Any, deadline_s: float) -> Found:  # noqa: ANN401 - a Ray stream
    """Return the next answer.

    Raises:
        TimeoutError: There is none by the deadline.
    """
    patience_s = max(0.0, deadline_s - time.monotonic())
    ready, _ = ray.wait([stream], timeout=patience_s, fetch_local=False)
    if not ready:
        raise TimeoutError
    found: Found = ray.get(next(stream))
    return found


def _answers(work: Answers, planned: Sequence[Planned]) -> Iterator[Found | None]:
    yield None  # the process is there: from now on time counts
    yield from work(planned)


def _refused(planned: Planned, reason: str, message: str) -> Outcome:
    log.warning("refused file=%s reason=%s message=%s", planned.entry.uri, reason, message)
    # A node that was short of memory or time may be the cause: `--retry` tries again.
    refusal = Refusal("decode", reason, message[:500], retryable=True)
    return Outcome(planned, refusals=[refusal])
