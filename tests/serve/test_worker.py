"""The pull loop in this process: faults, cancelling, handing back, resuming."""

import threading
import time
from contextlib import contextmanager

import pytest
import safetensors.torch
import torch

from infra import storage
from serve import table
from serve.config import ServeSettings
from serve.jobs import Jobs, NewJob
from serve.worker import Worker

DIGEST = "d" * 64
MANY = 2000


@pytest.fixture
def desk(tmp_path, generator, ask, facts):
    return Desk(tmp_path, generator, ask, facts)


class Desk:
    """A job table, its folder, and workers over them."""

    def __init__(self, folder, generator, ask, facts):
        self.settings = ServeSettings(folder=str(folder), idle_poll_s=0.01, batch=4, lease_s=5.0)
        self.generator, self.ask, self.folder, self.facts = generator, ask, folder, facts
        url = table.url_for("", str(folder))
        table.migrate(url)
        self.jobs = Jobs(url)

    def put(self, seed=1, **values):
        wanted = self.ask(seed, **values)
        new = NewJob("m", DIGEST, wanted.model_dump(), wanted.batch_key(self.facts), "f")
        return self.jobs.create(new).id

    @contextmanager
    def worker(self, digest=DIGEST):
        worker = Worker(self.jobs, self.generator, digest, self.settings)
        thread = threading.Thread(target=worker.run)
        thread.start()
        try:
            yield worker
        finally:
            worker.stop()
            thread.join(30)
            assert not thread.is_alive()

    def wait(self, job_id, *statuses, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while (job := self.jobs.get(job_id)).status not in statuses:
            assert time.monotonic() < deadline, job
            time.sleep(0.01)
        return job

    def video(self, job_id):
        return storage.read_bytes(self.jobs.get(job_id).result["assets"]["video"]["uri"])

    def files(self, kind):
        return [info.uri for info in storage.list_files(str(self.folder / kind))]


def test_jobs_of_one_shape_are_made_together_and_leave_only_their_videos(desk):
    ids = [desk.put(seed) for seed in (1, 2, 3)]
    with desk.worker():
        jobs = [desk.wait(job_id, "completed") for job_id in ids]
    assert len({desk.video(job_id) for job_id in ids}) == 3
    assert [job.progress for job in jobs] == [100] * 3
    assert desk.files("states") == []
    assert len(desk.files("videos")) == 6


def test_a_stopped_workers_job_goes_on_elsewhere_to_the_identical_video(desk):
    reference = desk.put(7, steps=60)
    with desk.worker():
        desk.wait(reference, "completed")
    job_id = desk.put(7, steps=60)
    with desk.worker():
        while desk.jobs.get(job_id).step < 20:
            time.sleep(0.005)
    handed_back = desk.jobs.get(job_id)
    assert (handed_back.status, handed_back.attempt) == ("queued", 0)
    assert handed_back.step >= 20
    assert len(desk.files("states")) == 1
    with desk.worker():
        desk.wait(job_id, "completed")
    assert desk.video(job_id) == desk.video(reference)


def test_a_stopped_workers_long_job_goes_on_elsewhere_to_the_identical_video(desk):
    long = {"num_frames": 7, "fps": 12.0, "steps": 8, "steps_2": 2}
    reference = desk.put(7, **long)
    with desk.worker():
        desk.wait(reference, "completed")
    job_id = desk.put(7, **long)
    with desk.worker():
        while desk.jobs.get(job_id).step < 18:  # into the second window of the second level
            time.sleep(0.002)
    handed_back = desk.jobs.get(job_id)
    assert (handed_back.status, handed_back.stage) == ("queued", 1)
    with desk.worker():
        desk.wait(job_id, "completed")
    assert desk.video(job_id) == desk.video(reference)


def test_a_state_of_another_format_starts_over_to_the_same_video(desk, caplog):
    reference, job_id = (desk.put(7, steps=20) for _ in range(2))
    with desk.worker():
        while desk.jobs.get(job_id).step < 5:
            time.sleep(0.005)
    for each in (reference, job_id):
        uri = desk.jobs.get(each).checkpoint_ref
        old = {"x": torch.zeros(3, 4, 12, 16), "position": torch.tensor([1, 10, 0, 2])}
        storage.write_bytes(uri, safetensors.torch.save(old))
    with desk.worker():
        desk.wait(job_id, "completed")
    assert "starting over" in caplog.text
    assert desk.video(job_id) == desk.video(reference)


def test_a_prompt_that_is_cut_says_so_in_its_result(desk):
    short, long = desk.put(1), desk.put(1, prompt="red circle " * 40)
    with desk.worker():
        said = [desk.wait(each, "completed").result["warnings"] for each in (short, long)]
    assert said[0] == []
    assert len(said[1]) == 1
    assert "prompt: only the first 16 of its" in said[1][0]


def test_a_state_of_other_weights_is_not_resumed(desk):
    job_id = desk.put(7, steps=MANY)
    with desk.worker():
        while desk.jobs.get(job_id).step < 20:
            time.sleep(0.005)
    left_at = desk.jobs.get(job_id).step
    with desk.worker(digest="e" * 64):
        while (step := desk.jobs.get(job_id).step) == left_at:
            time.sleep(0.001)
        assert step < left_at
        desk.jobs.cancel(job_id)
        desk.wait(job_id, "cancelled")


def test_one_broken_job_fails_alone(desk):
    good, other = desk.put(1), desk.put(2)
    wanted = desk.ask(3)
    broken = desk.jobs.create(
        NewJob("m", DIGEST, {"prompt": "no seed"}, wanted.batch_key(desk.facts), "f")
    ).id
    with desk.worker():
        assert desk.wait(broken, "failed").error["code"] == "generation_failed"
        for job_id in (good, other):
            desk.wait(job_id, "completed")


def test_a_cancelled_job_stops_within_steps_and_its_mates_go_on(desk):
    mate, unwanted = desk.put(1, steps=200), desk.put(2, steps=200)
    with desk.worker():
        while desk.jobs.get(unwanted).step < 3:
            time.sleep(0.005)
        asked = time.monotonic()
        desk.jobs.cancel(unwanted)
        job = desk.wait(unwanted, "cancelled")
        assert time.monotonic() - asked < 2
        assert job.step < 200
        desk.wait(mate, "completed")
    assert desk.files("states") == []


def test_deleting_every_job_of_a_group_frees_the_worker(desk):
    running = desk.put(1, steps=MANY)
    with desk.worker():
        while desk.jobs.get(running).step < 3:
            time.sleep(0.005)
        desk.jobs.delete(running)
        began = time.monotonic()
        desk.wait(desk.put(2), "completed")
        assert time.monotonic() - began < 5
    assert desk.files("states") == []


def test_a_worker_says_that_it_lives_and_that_it_left(desk):
    with desk.worker() as worker:
        while not desk.jobs.living_workers(5):
            time.sleep(0.01)
        assert list(desk.jobs.living_workers(5)) == [worker.id]
    assert desk.jobs.living_workers(5) == {}
