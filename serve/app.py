"""The serving application on Ray Serve: one HTTP ingress, sampling replicas, a job table between.

Ray Serve places, restarts and stops the processes; work reaches the replicas through the table
(`serve.jobs`), so a lost replica or ingress loses no job.

    server = run(settings, served)        # Ray is initialised already
    openai.OpenAI(base_url=server.url + "/v1", api_key="none").videos.create(prompt="...")
    server.shutdown()
"""

import logging
import socket
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

import ray.serve
import torch

from infra.device import torch_device
from infra.errors import ConfigError, ServiceError
from serve import table
from serve.api import Ingress
from serve.config import ServeSettings
from serve.jobs import Jobs
from serve.schema import Served
from serve.worker import Sampler

log = logging.getLogger(__name__)

_POLL_S = 0.2
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Server:
    """A running application."""

    url: str
    database_url: str

    def wait(self) -> None:
        """Block until the process is interrupted."""
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            log.info("interrupted; running jobs are saved and handed back")

    def shutdown(self) -> None:
        """Stop; unfinished jobs stay in the table and go on at the next start."""
        _shutdown()


def run(settings: ServeSettings, served: Served) -> Server:
    """Start serving and return once every replica takes jobs; Ray must be initialised.

    Args:
        settings: Where and how to serve.
        served: The weights, as `serve.weights.find` returned them.

    Raises:
        ConfigError: The port is taken, or a GPU is asked for and absent.
        ServiceError: The job table cannot be opened, or the replicas do not come up.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    device = torch_device("serve.device", settings.device)
    check_port(settings.host, settings.port)
    database_url = table.url_for(settings.database, settings.folder)
    table.migrate(database_url)
    ray.serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
        logging_config=_QUIET,
    )
    server = Server(_url(settings), database_url)
    jobs = Jobs(database_url)
    left_over = set(jobs.living_workers(settings.lease_s))
    try:
        _deploy(settings, served, device, database_url)
        _wait_ready(server.url, jobs, settings, left_over)
    except (RuntimeError, TimeoutError) as fault:
        reason = _replica_fault() or str(fault)
        _shutdown()
        raise ServiceError(
            f"serve: the application did not come up: {reason}; see the log lines above, "
            "serve.start_timeout_s, serve.replicas and serve.threads"
        ) from fault
    log.info(
        "serving url=%s model=%s replicas=%d", server.url, served.facts.name, settings.replicas
    )
    return server


def check_port(host: str, port: int) -> None:
    """Check that the port can be listened on.

    Raises:
        ConfigError: It cannot.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            raise ConfigError(
                f"serve.port: {host}:{port} cannot be listened on ({fault}); stop what uses it, "
                "or set serve.port to a free port (and serve.host to an address of this machine)"
            ) from fault


def _url(settings: ServeSettings) -> str:
    """Return the address under which this machine reaches the ingress."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _shutdown() -> None:
    ray.serve.shutdown()  # type: ignore[no-untyped-call]  # Ray leaves this one untyped


def _deploy(
    settings: ServeSettings, served: Served, device: torch.device, database_url: str
) -> None:
    """Start both applications at once: the API answers while the weights load."""
    resources: dict[str, Any] = {
        "num_cpus": settings.threads,
        "num_gpus": int(device.type == "cuda"),
    }
    ingress = ray.serve.deployment(
        name="ingress", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0}
    )(ray.serve.ingress()(Ingress))
    sampler = ray.serve.deployment(
        name="sampler",
        num_replicas=settings.replicas,
        ray_actor_options=resources,
        health_check_period_s=2,
        max_constructor_retry_count=2,
    )(Sampler)
    targets = [
        ray.serve.RunTarget(
            target=ingress.bind(settings, served, database_url),
            name="snapvideo-api",
            route_prefix="/",
            logging_config=_QUIET,
        ),
        ray.serve.RunTarget(
            target=sampler.bind(settings, served, database_url),
            name="snapvideo-sampler",
            route_prefix=None,
            logging_config=_QUIET,
        ),
    ]
    ray.serve.run_many(targets)


def _replica_fault() -> str:
    """Return the last line of what a replica that cannot start has said; empty for none."""
    for application in ray.serve.status().applications.values():
        for deployment in application.deployments.values():
            lines = deployment.message.strip().splitlines()
            if deployment.status == "DEPLOY_FAILED" and lines:
                return lines[-1]
    return ""


def _wait_ready(url: str, jobs: Jobs, settings: ServeSettings, left_over: set[str]) -> None:
    """Wait for every replica; `left_over` names those of an earlier server that was killed."""
    deadline = time.monotonic() + settings.start_timeout_s
    while len(jobs.living_workers(settings.lease_s).keys() - left_over) < settings.replicas:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no replica was ready after {settings.start_timeout_s:g} s")
        time.sleep(_POLL_S)
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=10).close()
    except OSError as fault:
        raise TimeoutError(
            f"{url} does not answer: {fault}; a Ray Serve that already runs in this cluster keeps "
            "its own address, end it with `serve shutdown`"
        ) from fault
