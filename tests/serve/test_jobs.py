"""The job table: leases, fences, attempts, cancelling, paging."""

import multiprocessing
import sqlite3
import time

import pytest

from serve import table
from serve.jobs import Job, Jobs, NewJob, Progress


@pytest.fixture
def jobs(tmp_path):
    url = table.url_for("", str(tmp_path / "serve"))
    table.migrate(url)
    return Jobs(url)


def new_job(shape="a", key=None, fingerprint="f"):
    return NewJob("snapvideo", "d1", {"prompt": "p"}, shape, fingerprint, idempotency_key=key)


def claim(jobs, worker="w1", count=8, lease_s=30.0, max_attempts=3) -> list[Job]:
    return jobs.claim(worker, count, lease_s, max_attempts)


def test_migrating_twice_changes_nothing(tmp_path):
    url = table.url_for("", str(tmp_path))
    table.migrate(url)
    table.migrate(url)
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        assert connection.execute("select version_num from alembic_version").fetchall() == [
            ("0001",)
        ]


def test_the_migrated_tables_are_those_the_code_describes(tmp_path):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    url = table.url_for("", str(tmp_path))
    table.migrate(url)
    with table.engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, table.metadata) == []


def test_a_claim_takes_the_oldest_jobs_of_one_shape_in_order(jobs):
    made = [jobs.create(new_job(shape)).id for shape in "aabab"]
    assert [job.id for job in claim(jobs, count=2)] == [made[0], made[1]]
    assert [job.id for job in claim(jobs)] == [made[2], made[4]]
    assert [job.id for job in claim(jobs)] == [made[3]]
    assert claim(jobs) == []


def test_a_job_whose_lease_ran_out_goes_to_another_worker_with_its_saved_state(jobs):
    jobs.create(new_job())
    [mine] = claim(jobs, "w1", lease_s=0.01)
    jobs.report([Progress(mine.id, mine.fence, 1, 16, 25, "state.safetensors", "1/16/1")], 0.01)
    time.sleep(0.05)
    [theirs] = claim(jobs, "w2")
    assert (theirs.fence, theirs.attempt) == (mine.fence + 1, 2)
    assert (theirs.checkpoint_ref, theirs.step) == ("state.safetensors", 16)


def test_a_worker_that_lost_its_job_can_write_nothing_more(jobs):
    jobs.create(new_job())
    [mine] = claim(jobs, "w1", lease_s=0.01)
    time.sleep(0.05)
    [theirs] = claim(jobs, "w2")
    assert jobs.report([Progress(mine.id, mine.fence, 1, 5, 9)], 30) == {mine.id: "lost"}
    assert not jobs.complete(mine.id, mine.fence, {"by": "w1"})
    assert jobs.complete(theirs.id, theirs.fence, {"by": "w2"})
    assert jobs.get(mine.id).result == {"by": "w2"}


def test_a_job_that_kills_every_replica_fails_after_its_attempts(jobs):
    made = jobs.create(new_job())
    for _ in range(3):
        assert len(claim(jobs, lease_s=0.01)) == 1
        time.sleep(0.05)
    assert claim(jobs) == []
    failed = jobs.get(made.id)
    assert (failed.status, failed.error["code"]) == ("failed", "replica_lost")


def test_handing_back_costs_no_attempt(jobs):
    made = jobs.create(new_job())
    for _ in range(5):
        assert [job.id for job in claim(jobs)] == [made.id]
        assert jobs.hand_back("w1") == 1
    assert jobs.get(made.id).status == "queued"


def test_a_queued_job_is_cancelled_at_once_and_never_claimed(jobs):
    made = jobs.create(new_job())
    assert jobs.cancel(made.id).status == "cancelled"
    assert claim(jobs) == []


def test_a_running_job_is_told_to_stop_at_its_next_step(jobs):
    jobs.create(new_job())
    [mine] = claim(jobs)
    assert jobs.cancel(mine.id).status == "in_progress"
    assert jobs.report([Progress(mine.id, mine.fence, 1, 1, 1)], 30) == {mine.id: "cancel"}
    assert jobs.stop(mine.id, mine.fence)
    assert jobs.get(mine.id).status == "cancelled"


def test_a_cancelled_job_whose_replica_died_is_not_started_again(jobs):
    jobs.create(new_job())
    [mine] = claim(jobs, lease_s=0.01)
    jobs.cancel(mine.id)
    time.sleep(0.05)
    assert claim(jobs) == []
    assert jobs.get(mine.id).status == "cancelled"


def test_deleting_a_running_job_makes_its_worker_lose_it(jobs):
    jobs.create(new_job())
    [mine] = claim(jobs)
    assert jobs.delete(mine.id)
    assert not jobs.delete(mine.id)
    assert jobs.report([Progress(mine.id, mine.fence, 1, 1, 1)], 30) == {mine.id: "lost"}


def test_an_idempotency_key_makes_one_job(jobs):
    first = jobs.create(new_job(key="k"))
    assert jobs.create(new_job(key="k")).id == first.id
    assert jobs.create(new_job(key="k", fingerprint="other")).fingerprint == "f"
    assert jobs.create(new_job()).id != jobs.create(new_job()).id


def test_pages_follow_each_other_in_both_orders(jobs):
    made = [jobs.create(new_job()).id for _ in range(5)]
    for order, expected in (("asc", made), ("desc", made[::-1])):
        first = jobs.page(None, 2, order)
        second = jobs.page(first.jobs[-1], 3, order)
        assert [job.id for job in first.jobs + second.jobs] == expected
        assert (first.has_more, second.has_more) == (True, False)


def test_a_worker_lives_as_long_as_it_beats(jobs):
    jobs.beat("w1", "host", 42, "d1")
    jobs.beat("w1", "host", 42, "d1")
    assert jobs.living_workers(10) == {"w1": 42}
    jobs.leave("w1")
    assert jobs.living_workers(10) == {}


def _claim_all(url: str, worker: str) -> list[str]:
    jobs, mine = Jobs(url), []
    while claimed := jobs.claim(worker, 3, 30.0, 3):
        mine += [job.id for job in claimed]
    return mine


def test_processes_that_claim_at_once_never_share_a_job(tmp_path):
    url = table.url_for("", str(tmp_path))
    table.migrate(url)
    jobs = Jobs(url)
    made = [jobs.create(new_job()).id for _ in range(60)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        claimed = pool.starmap(_claim_all, [(url, "w1"), (url, "w2")])
    assert sorted(claimed[0] + claimed[1]) == sorted(made)
