"""A replica's pull loop: claim jobs, denoise them together, write what comes of it.

Each step is reported under the job's fence, which renews its lease and brings back whether its
user has cancelled it. Every few steps the state of each job is saved beside the videos, so that
whoever claims the job next goes on from there. On shutdown running jobs are saved and handed back.

Plain threads, no Ray: `Worker(...).run()` works in any process that reaches the job table.
"""

import hashlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy.exc
import torch
from safetensors import SafetensorError

from infra import logs, storage
from infra.errors import SnapvideoError
from infra.stills import encode_image
from infra.video import encode_video
from serve import weights
from serve.config import ServeSettings
from serve.generate import Denoising, Frames, Generator
from serve.jobs import Job, Jobs, Progress
from serve.schema import Served, VideoRequest
from serve.state import Saved

log = logging.getLogger(__name__)

_BEATS_PER_LEASE = 3
_LEAVE_TIMEOUT_S = 30


class Worker:
    """One puller of jobs over one generator."""

    def __init__(
        self, jobs: Jobs, generator: Generator, digest: str, settings: ServeSettings
    ) -> None:
        self.id = f"worker_{uuid.uuid4().hex[:12]}"
        self._jobs, self._generator, self._digest = jobs, generator, digest
        self._settings, self._folder = settings, storage.absolute(settings.folder)
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask the loop to save its jobs, hand them back and end."""
        self._stop.set()

    def run(self) -> None:
        """Take jobs until `stop`."""
        beat = threading.Thread(target=self._beat, name="serve-beat", daemon=True)
        beat.start()
        log.info("worker ready id=%s pid=%d", self.id, os.getpid())
        settings = self._settings
        try:
            while not self._stop.is_set():
                claimed = self._jobs.claim(
                    self.id, settings.batch, settings.lease_s, settings.max_attempts
                )
                if claimed:
                    self._work(claimed)
                else:
                    self._stop.wait(settings.idle_poll_s)
        finally:
            self._stop.set()
            beat.join()
            returned = self._jobs.hand_back(self.id)
            self._jobs.leave(self.id)
            log.info("worker left id=%s handed_back=%d", self.id, returned)

    def _beat(self) -> None:
        """Keep the leases of a step that outlasts them, and say that this replica lives."""
        period_s = self._settings.lease_s / _BEATS_PER_LEASE
        while True:
            try:
                self._jobs.beat(self.id, socket.gethostname(), os.getpid(), self._digest)
                self._jobs.renew(self.id, self._settings.lease_s)
            except sqlalchemy.exc.OperationalError as fault:
                log.warning("the job table does not answer (%s)", fault)
            if self._stop.wait(period_s):
                return

    def _work(self, claimed: Sequence[Job]) -> None:
        """Bring claimed jobs to an end; a fault of one must not cost the others."""
        try:
            self._denoise(claimed)
        except (MemoryError, torch.OutOfMemoryError) as fault:
            self._retry_alone(claimed, "out_of_memory", fault)
        except (RuntimeError, ValueError, OSError, SnapvideoError) as fault:
            self._retry_alone(claimed, "generation_failed", fault)

    def _retry_alone(self, claimed: Sequence[Job], code: str, fault: BaseException) -> None:
        log.warning("jobs failed jobs=%s", [job.id for job in claimed], exc_info=fault)
        if len(claimed) > 1:
            for job in claimed:
                self._work([job])
            return
        self._jobs.fail(claimed[0].id, claimed[0].fence, code, f"{type(fault).__name__}: {fault}")

    def _denoise(self, claimed: Sequence[Job]) -> None:
        started = time.monotonic()
        denoising = self._open(claimed)
        active = dict(enumerate(claimed))
        while not denoising.done:
            denoising.advance()
            due = denoising.steps_done % self._settings.checkpoint_every == 0
            active = self._report(denoising, active, save=due or self._stop.is_set())
            if not active or (self._stop.is_set() and not denoising.done):
                return
        videos = denoising.videos()
        for index, job in active.items():
            self._deliver(job, videos[index])
        log.info(
            "made videos=%d rows=%d steps=%d seconds=%.2f",
            len(active),
            denoising.rows,
            denoising.steps_done,
            time.monotonic() - started,
        )

    def _open(self, claimed: Sequence[Job]) -> Denoising:
        """Return the jobs' group where it was last saved, else before its first step."""
        requests = [VideoRequest.model_validate(job.request) for job in claimed]
        if claimed[0].checkpoint_group.partition("/")[0] != self._digest[:16]:
            return self._generator.begin(requests)
        try:
            saved = [Saved.unpack(storage.read_bytes(str(job.checkpoint_ref))) for job in claimed]
        except (SnapvideoError, SafetensorError, KeyError, ValueError) as fault:
            log.warning("saved state unreadable, starting over (%s)", fault)
            return self._generator.begin(requests)
        resumed = self._generator.resume(requests, saved)
        log.info("resumed jobs=%d step=%d", len(claimed), resumed.steps_done)
        return resumed

    def _report(
        self, denoising: Denoising, active: dict[int, Job], *, save: bool
    ) -> dict[int, Job]:
        """Write where the jobs stand; return those to go on with."""
        group = f"{self._digest[:16]}/{uuid.uuid4().hex[:16]}" if save else ""
        steps = [
            Progress(
                id=job.id,
                fence=job.fence,
                stage=denoising.stage,
                step=denoising.step,
                progress=denoising.progress,
                checkpoint_ref=self._save(denoising, index, job) if save else None,
                checkpoint_group=group,
            )
            for index, job in active.items()
        ]
        verdicts = self._jobs.report(steps, self._settings.lease_s)
        for job in active.values():
            if verdicts[job.id] == "cancel" and self._jobs.stop(job.id, job.fence):
                log.info("cancelled job=%s step=%d", job.id, denoising.steps_done)
            if verdicts[job.id] != "go":
                self._forget(job)
        kept = {index: job for index, job in active.items() if verdicts[job.id] == "go"}
        if not save:
            return kept
        saved = {step.id: step.checkpoint_ref for step in steps}
        for job in kept.values():
            if job.checkpoint_ref:
                storage.delete(job.checkpoint_ref)
        return {i: replace(job, checkpoint_ref=saved[job.id]) for i, job in kept.items()}

    def _save(self, denoising: Denoising, index: int, job: Job) -> str:
        name = f"{job.fence}-{denoising.steps_done}.safetensors"
        uri = storage.join(self._folder, "states", job.id, name)
        storage.write_bytes(uri, denoising.save(index).pack())
        return uri

    def _forget(self, job: Job) -> None:
        """Remove the saved states that this claim wrote, unless they may still be needed."""
        current = self._jobs.get(job.id)
        if current is None or current.status not in ("queued", "in_progress"):
            storage.delete(storage.join(self._folder, "states", job.id))

    def _deliver(self, job: Job, frames: Frames) -> None:
        """Write the files first, then the row that names them."""
        request = VideoRequest.model_validate(job.request)
        folder = storage.join(self._folder, "videos", job.id, str(job.fence))
        video = encode_video(frames, request.fps)
        thumbnail = encode_image(frames[len(frames) // 2], "webp")
        assets = {
            "video": _put(storage.join(folder, "video.mp4"), video, "video/mp4"),
            "thumbnail": _put(storage.join(folder, "thumbnail.webp"), thumbnail, "image/webp"),
        }
        warnings = self._generator.warnings(request)
        for warning in warnings:
            log.warning("job=%s %s", job.id, warning)
        result = {"assets": assets, "digest": self._digest, "warnings": warnings}
        if not self._jobs.complete(job.id, job.fence, result):
            storage.delete(folder)
        self._forget(job)


class Sampler:
    """The deployment that denoises: loads the weights, then pulls jobs in a thread."""

    def __init__(self, settings: ServeSettings, served: Served, database_url: str) -> None:
        logs.setup()
        torch.set_num_threads(settings.threads)
        generator = weights.load(served, settings.device)
        self._worker = Worker(Jobs(database_url), generator, served.facts.digest, settings)
        self._thread = threading.Thread(target=self._worker.run, name="serve-worker", daemon=True)
        self._thread.start()

    def check_health(self) -> None:
        """Tell Ray Serve to replace this replica when its loop has died."""
        if not self._thread.is_alive():
            raise RuntimeError("the worker thread has ended; see the log above")

    def __del__(self) -> None:
        """Save and hand back what runs; Ray Serve calls this on a graceful stop."""
        if hasattr(self, "_thread"):
            self._worker.stop()
            self._thread.join(timeout=_LEAVE_TIMEOUT_S)


def _put(uri: str, data: bytes, media_type: str) -> dict[str, Any]:
    storage.write_bytes(uri, data)
    digest = hashlib.sha256(data).hexdigest()
    return {"uri": uri, "size_bytes": len(data), "media_type": media_type, "sha256": digest}
