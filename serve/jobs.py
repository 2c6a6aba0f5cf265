"""Jobs: one row each, claimed under a lease, written under a fence.

Replicas pull. `claim` hands out the oldest open jobs of one shape and raises their `fence`;
every later write of the claimer carries that fence, so a replica that was given up for dead
and is not can never overwrite the work of its successor. A job whose lease has run out is
open again, with its last saved state; one that was started too often is failed.

    jobs = Jobs(url)
    for job in jobs.claim("worker-1", count=8, lease_s=15, max_attempts=3): ...
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
import sqlalchemy.engine
import sqlalchemy.exc

from serve import table

Order = Literal["asc", "desc"]
Verdict = Literal["go", "cancel", "lost"]
_FORGET_WORKER_S = 24 * 3600
OPEN = ("queued", "in_progress")


@dataclass(frozen=True)
class NewJob:
    """What a request asks for, checked and complete."""

    model: str
    model_digest: str
    request: Mapping[str, Any]
    batch_key: str
    fingerprint: str
    tenant: str = "default"
    idempotency_key: str | None = None
    priority: int = 0


@dataclass(frozen=True)
class Job:
    """One row of the table (see `serve.table`)."""

    seq: int
    id: str
    tenant: str
    idempotency_key: str | None
    fingerprint: str
    model: str
    model_digest: str
    request: Mapping[str, Any]
    batch_key: str
    priority: int
    status: str
    progress: int
    stage: int
    step: int
    created_at: float
    completed_at: float | None
    expires_at: float | None
    worker: str | None
    lease_until: float
    fence: int
    attempt: int
    cancel_requested: bool
    checkpoint_ref: str | None
    checkpoint_group: str
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True)
class Progress:
    """Where a claimed job stands; `checkpoint_*` only when a state was saved just now."""

    id: str
    fence: int
    stage: int
    step: int
    progress: int
    checkpoint_ref: str | None = None
    checkpoint_group: str = ""


@dataclass(frozen=True)
class Page:
    """Some jobs of a listing, and whether more follow."""

    jobs: list[Job]
    has_more: bool


class Jobs:
    """The job table behind one URL."""

    def __init__(self, url: str) -> None:
        self._engine = table.engine(url)

    def create(self, new: NewJob) -> Job:
        """Return the queued job; with a known idempotency key, the job it already made.

        The caller compares `fingerprint` to learn whether that was the same request.
        """
        values = _columns(new) | {"id": f"video_{uuid.uuid4().hex}", "created_at": time.time()}
        try:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(table.jobs).values(**values))
        except sqlalchemy.exc.IntegrityError:
            again = self._by_key(new)
            if again is None:
                raise
            return again
        made = self.get(values["id"])
        assert made is not None
        return made

    def get(self, job_id: str) -> Job | None:
        """Return the job, or None."""
        found = self._select(sa.select(table.jobs).where(table.jobs.c.id == job_id))
        return found[0] if found else None

    def page(self, after: Job | None, limit: int, order: Order) -> Page:
        """Return up to `limit` jobs by time of creation, those behind `after` if given."""
        seq = table.jobs.c.seq
        query = sa.select(table.jobs).order_by(seq.asc() if order == "asc" else seq.desc())
        if after is not None:
            query = query.where(seq > after.seq if order == "asc" else seq < after.seq)
        found = self._select(query.limit(limit + 1))
        return Page(found[:limit], len(found) > limit)

    def cancel(self, job_id: str) -> Job | None:
        """Cancel a queued job now, ask a running one to stop; return it as it then is."""
        columns = table.jobs.c
        with self._engine.begin() as connection:
            connection.execute(
                _update(columns.id == job_id, columns.status == "queued").values(
                    status="cancelled", cancel_requested=True, completed_at=time.time()
                )
            )
            connection.execute(
                _update(columns.id == job_id, columns.status == "in_progress").values(
                    cancel_requested=True
                )
            )
        return self.get(job_id)

    def delete(self, job_id: str) -> bool:
        """Remove a job in any state; a replica that works on it stops at its next step."""
        with self._engine.begin() as connection:
            gone = connection.execute(sa.delete(table.jobs).where(table.jobs.c.id == job_id))
        return gone.rowcount == 1

    def claim(self, worker: str, count: int, lease_s: float, max_attempts: int) -> list[Job]:
        """Return up to `count` open jobs that can be denoised together, now leased to `worker`.

        They share `batch_key` and `checkpoint_group`: same shape, same step to resume from.
        Failed on the way: jobs started `max_attempts` times that never came to an end.
        """
        now, columns = time.time(), table.jobs.c
        with self._engine.begin() as connection:
            _settle_abandoned(connection, now, max_attempts)
            query = _open_jobs(now).with_for_update(skip_locked=True)
            first = connection.execute(query.limit(1)).first()
            if first is None:
                return []
            mates = query.where(
                columns.batch_key == first.batch_key,
                columns.checkpoint_group == first.checkpoint_group,
            )
            ids = [row.id for row in connection.execute(mates.limit(count))]
            connection.execute(
                _update(columns.id.in_(ids)).values(
                    status="in_progress",
                    worker=worker,
                    lease_until=now + lease_s,
                    fence=columns.fence + 1,
                    attempt=columns.attempt + 1,
                )
            )
            rows = connection.execute(
                sa.select(table.jobs).where(columns.id.in_(ids)).order_by(columns.seq)
            )
            return [_job(row) for row in rows]

    def report(self, steps: Sequence[Progress], lease_s: float) -> dict[str, Verdict]:
        """Write where jobs stand, extend their leases, and say for each what to do next.

        "lost": another replica has it, or it was deleted; "cancel": its user wants it stopped.
        """
        until, columns = time.time() + lease_s, table.jobs.c
        verdicts: dict[str, Verdict] = {}
        with self._engine.begin() as connection:
            for step in steps:
                values: dict[str, Any] = {
                    "stage": step.stage,
                    "step": step.step,
                    "progress": step.progress,
                    "lease_until": until,
                }
                if step.checkpoint_ref is not None:
                    values["checkpoint_ref"] = step.checkpoint_ref
                    values["checkpoint_group"] = step.checkpoint_group
                held = _held(step.id, step.fence)
                kept = connection.execute(_update(*held).values(**values)).rowcount == 1
                asked = connection.execute(sa.select(columns.cancel_requested).where(*held))
                verdicts[step.id] = ("cancel" if asked.scalar() else "go") if kept else "lost"
        return verdicts

    def renew(self, worker: str, lease_s: float) -> None:
        """Extend the leases of everything `worker` holds (a step may outlast a lease)."""
        with self._engine.begin() as connection:
            connection.execute(
                _update(table.jobs.c.worker == worker, table.jobs.c.status == "in_progress").values(
                    lease_until=time.time() + lease_s
                )
            )

    def complete(self, job_id: str, fence: int, result: Mapping[str, Any]) -> bool:
        """Record the finished video; False if the job was lost meanwhile."""
        return self._finish(job_id, fence, status="completed", progress=100, result=dict(result))

    def fail(self, job_id: str, fence: int, code: str, message: str) -> bool:
        """Record why there is no video; False if the job was lost meanwhile."""
        return self._finish(job_id, fence, status="failed", error=_error(code, message))

    def stop(self, job_id: str, fence: int) -> bool:
        """Record that a running job was cancelled; False if it was lost meanwhile."""
        return self._finish(job_id, fence, status="cancelled")

    def hand_back(self, worker: str) -> int:
        """Queue again what `worker` holds, at no cost in attempts; return how many."""
        columns = table.jobs.c
        with self._engine.begin() as connection:
            done = connection.execute(
                _update(columns.worker == worker, columns.status == "in_progress").values(
                    status="queued",
                    worker=None,
                    lease_until=0.0,
                    fence=columns.fence + 1,
                    attempt=columns.attempt - 1,
                )
            )
        return int(done.rowcount)

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are by status."""
        status = table.jobs.c.status
        query = sa.select(status, sa.func.count()).group_by(status)
        with self._engine.begin() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}

    def beat(self, worker: str, host: str, pid: int, model_digest: str) -> None:
        """Record that a replica lives and has its weights loaded."""
        values = {"host": host, "pid": pid, "model_digest": model_digest, "seen_at": time.time()}
        with self._engine.begin() as connection:
            known = connection.execute(
                sa.update(table.workers).where(table.workers.c.id == worker).values(**values)
            )
            if known.rowcount == 0:
                old = table.workers.c.seen_at < time.time() - _FORGET_WORKER_S
                connection.execute(sa.delete(table.workers).where(old))
                connection.execute(sa.insert(table.workers).values(id=worker, **values))

    def leave(self, worker: str) -> None:
        """Record that a replica is gone."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(table.workers).where(table.workers.c.id == worker))

    def living_workers(self, within_s: float) -> dict[str, int]:
        """Return process id by worker of the replicas seen in the last `within_s` seconds."""
        columns = table.workers.c
        query = sa.select(columns.id, columns.pid).where(columns.seen_at > time.time() - within_s)
        with self._engine.begin() as connection:
            return {row.id: row.pid for row in connection.execute(query)}

    def _select(self, query: sa.Select[Any]) -> list[Job]:
        with self._engine.begin() as connection:
            return [_job(row) for row in connection.execute(query)]

    def _by_key(self, new: NewJob) -> Job | None:
        columns = table.jobs.c
        found = self._select(
            sa.select(table.jobs).where(
                columns.tenant == new.tenant, columns.idempotency_key == new.idempotency_key
            )
        )
        return found[0] if found else None

    def _finish(self, job_id: str, fence: int, **values: Any) -> bool:  # noqa: ANN401 - column values
        with self._engine.begin() as connection:
            done = connection.execute(
                _update(*_held(job_id, fence)).values(completed_at=time.time(), **values)
            )
        return done.rowcount == 1


def _columns(new: NewJob) -> dict[str, Any]:
    return {
        "tenant": new.tenant,
        "idempotency_key": new.idempotency_key,
        "fingerprint": new.fingerprint,
        "model": new.model,
        "model_digest": new.model_digest,
        "request": dict(new.request),
        "batch_key": new.batch_key,
        "priority": new.priority,
        "status": "queued",
        "progress": 0,
        "stage": 0,
        "step": 0,
        "lease_until": 0.0,
        "fence": 0,
        "attempt": 0,
        "cancel_requested": False,
        "checkpoint_group": "",
    }


def _job(row: sa.Row[Any]) -> Job:
    return Job(**row._mapping)


def _update(*conditions: sa.ColumnElement[bool]) -> sa.Update:
    return sa.update(table.jobs).where(*conditions)


def _held(job_id: str, fence: int) -> tuple[sa.ColumnElement[bool], ...]:
    columns = table.jobs.c
    return columns.id == job_id, columns.fence == fence, columns.status == "in_progress"


def _open_jobs(now: float) -> sa.Select[Any]:
    columns = table.jobs.c
    expired = sa.and_(columns.status == "in_progress", columns.lease_until < now)
    return (
        sa.select(columns.id, columns.batch_key, columns.checkpoint_group)
        .where(sa.or_(columns.status == "queued", expired))
        .order_by(columns.priority.desc(), columns.seq)
    )


def _settle_abandoned(
    connection: sqlalchemy.engine.Connection, now: float, max_attempts: int
) -> None:
    """End the jobs whose replica is gone and that must not be started again."""
    columns = table.jobs.c
    expired = (columns.status == "in_progress", columns.lease_until < now)
    connection.execute(
        _update(*expired, columns.cancel_requested).values(status="cancelled", completed_at=now)
    )
    message = f"the job's replica was lost {max_attempts} times; it is not started again"
    connection.execute(
        _update(*expired, columns.attempt >= max_attempts).values(
            status="failed", completed_at=now, error=_error("replica_lost", message)
        )
    )


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "type": "server_error"}
