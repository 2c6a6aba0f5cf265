"""Ray: start a local cluster or join one, safely.

Pages bind to loopback. The ports between Ray's own processes do not (Ray has no setting for it);
token authentication is on, so nobody else can hand a worker code to run.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import psutil
from pydantic import NonNegativeInt, PositiveInt

from infra.config import Settings
from infra.errors import ConfigError, ServiceError

log = logging.getLogger(__name__)

_KNOCK_S = 5.0
_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves the machine unasked
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # our own stages say how far they are
    "RAY_DATA_LOG_LEVEL": "WARNING",
}


class ClusterSettings(Settings):
    """Where Ray runs and what it may use."""

    address: str = ""
    """Address of a running cluster, such as `auto` or `ray://host:10001`; empty starts one here."""
    num_cpus: NonNegativeInt = 0
    """CPU slots of a cluster started here; 0 takes the machine's, at least 4 (slots, not cores)."""
    num_gpus: NonNegativeInt = 0
    """GPUs that a cluster started here must have."""
    object_store_mib: PositiveInt = 512
    """Shared memory of a cluster started here, MiB."""
    dashboard: bool = True
    """Serve Ray's own page on loopback while a cluster started here runs."""
    dashboard_host: str = "127.0.0.1"
    """Interface of that page."""
    worker_logs: bool = False
    """Show the log lines of workers too; they are kept in Ray's session folder either way."""


def start(settings: ClusterSettings) -> str:
    """Start or join Ray and return the address of its dashboard, empty if it has none.

    Raises:
        ConfigError: More GPUs are asked for than the machine has.
        ServiceError: The cluster at `address` does not answer.
    """
    prepare()
    import ray

    if settings.address:
        with _our_sigterm():
            return _join(settings)
    _check_gpus(settings.num_gpus)
    if ray.is_initialized():
        return ""
    with _our_sigterm():
        context = ray.init(
            address="local",  # else one that happens to run on this machine would be joined
            num_cpus=settings.num_cpus or max(4, psutil.cpu_count() or 1),
            num_gpus=settings.num_gpus,
            object_store_memory=settings.object_store_mib * 2**20,
            include_dashboard=settings.dashboard,
            dashboard_host=settings.dashboard_host,
            log_to_driver=settings.worker_logs,
            configure_logging=False,
            runtime_env={"env_vars": _worker_environment()},
        )
    url = str(context.dashboard_url or "")
    log.info("ray started dashboard=%s", url or "off")
    return f"http://{url}" if url else ""


def prepare() -> None:
    """Set the environment that Ray reads when it is first imported; call this before."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def stop() -> None:
    """Leave Ray; a cluster started here ends."""
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@contextlib.contextmanager
def running(settings: ClusterSettings) -> Iterator[None]:
    """Have Ray inside the block; what was started for it ends with it, an earlier one stays.

    Raises:
        ConfigError, ServiceError: See `start`.
    """
    prepare()
    import ray

    ours = not ray.is_initialized()
    start(settings)
    try:
        yield
    finally:
        if ours:
            stop()


@contextlib.contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keep what the caller does on SIGTERM: Ray's handler aborts the process with a C++ trace."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if ours is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


def _join(settings: ClusterSettings) -> str:
    import ray

    address = settings.address
    try:
        _knock(address)
        if ray.is_initialized():
            return ""
        context = ray.init(
            address=address,
            log_to_driver=settings.worker_logs,
            configure_logging=False,
            runtime_env={"env_vars": _worker_environment()},
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as fault:
        raise ServiceError(
            f"cluster.address: no Ray cluster answers at '{address}' ({fault}); start one with "
            "`ray start --head`, or leave cluster.address empty to start one here"
        ) from fault
    return f"http://{context.dashboard_url}" if context.dashboard_url else ""


def _knock(address: str) -> None:
    """Connect once, since Ray itself waits for minutes where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()


def _check_gpus(num_gpus: int) -> None:
    if not num_gpus:
        return
    import torch

    found = torch.cuda.device_count()
    if found < num_gpus:
        raise ConfigError(
            f"cluster.num_gpus: {num_gpus} asked for, {found} found; set it to {found}, or install "
            "the CUDA build of torch and check `nvidia-smi`"
        )


def _worker_environment() -> dict[str, str]:
    """Return what every worker sees: one thread a task, and the S3 endpoint of the driver."""
    values = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "")}
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "SNAPVIDEO_LOG"):
        values[name] = os.environ.get(name, "")
    return {name: value for name, value in values.items() if value}
