"""MLflow: runs, metrics and the registry of trained models.

A run is found again by its key, so a command that was killed and repeated continues the run it had
begun. A registered version names a checkpoint folder by its URI; nothing is copied.

    tracker = connect(settings.tracking, workspace="runs/demo")
    run_id = tracker.start_run("stage1", key, params={...}, tags={...})
    tracker.log(run_id, {"loss": 0.4}, step=100)
    version = tracker.register("snapvideo-stage1", bundle_uri, run_id, tags={...})
    tracker.resolve("snapvideo-stage1", "champion")        # -> bundle_uri
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from infra import storage
from infra.config import Settings
from infra.errors import ConfigError, DataError, ServiceError

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

CHAMPION = "champion"
"""The alias of the version that serving takes by default."""

_KEY = "snapvideo.key"
_BUNDLE = "snapvideo.bundle"
_PARAM_CHARS = 6000


class TrackingSettings(Settings):
    """Where runs are recorded and models registered."""

    uri: str = ""
    """MLflow's tracking URI: http(s)://server, sqlite:///file or postgresql://...; empty is a
    SQLite file in the run's folder."""
    experiment: str = "snapvideo"
    """MLflow experiment that runs belong to."""


def tracking_uri(settings: TrackingSettings, workspace: str) -> str:
    """Return the URI that MLflow is called with.

    Args:
        settings: Where `uri` may be empty.
        workspace: The run's folder.

    Raises:
        ConfigError: `uri` is empty and the run's folder lies in S3, where SQLite cannot.
    """
    if settings.uri:
        return settings.uri
    if storage.is_s3(workspace):
        raise ConfigError(
            f"tracking.uri: empty means a SQLite file in the run's folder, which is {workspace}; "
            "give http://server, postgresql://... or sqlite:////local/path.db"
        )
    return f"sqlite:///{storage.local_path(workspace).absolute() / 'mlflow.db'}"


def connect(settings: TrackingSettings, workspace: str) -> "Tracker":
    """Return a tracker whose MLflow has answered.

    Raises:
        ConfigError: See `tracking_uri`.
        ServiceError: MLflow does not answer within about 10 s.
    """
    uri = tracking_uri(settings, workspace)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with _faults(uri):
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        artifacts = None
        if uri.startswith("sqlite:///"):
            file = storage.local_path(uri.removeprefix("sqlite:///"))
            file.parent.mkdir(parents=True, exist_ok=True)
            artifacts = str(file.parent / "mlflow-artifacts")
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(settings.experiment)
        experiment = (
            found.experiment_id
            if found
            else client.create_experiment(settings.experiment, artifact_location=artifacts)
        )
    return Tracker(uri, client, experiment)


class Tracker:
    """One experiment of an MLflow that answers; made by `connect`."""

    def __init__(self, uri: str, client: "MlflowClient", experiment_id: str) -> None:
        self.uri = uri
        self._client = client
        self._experiment = experiment_id

    def start_run(
        self, name: str, key: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> str:
        """Return the id of the run with this key: the one begun earlier, or a new one.

        Args:
            name: Shown in MLflow.
            key: Identity of the work; the same work continues the same run.
            params: Settings, one entry each.
            tags: Code version, release digest and the like.
        """
        from mlflow.entities import Param

        with _faults(self.uri):
            where = f"tags.`{_KEY}` = '{key}'"
            found = self._client.search_runs([self._experiment], where, max_results=1)
            if found:
                self._client.update_run(found[0].info.run_id, status="RUNNING")
                return str(found[0].info.run_id)
            run = self._client.create_run(self._experiment, run_name=name, tags={**tags, _KEY: key})
            short = [Param(k, str(v)[:_PARAM_CHARS]) for k, v in params.items()]
            for start in range(0, len(short), 100):
                self._client.log_batch(run.info.run_id, params=short[start : start + 100])
            return str(run.info.run_id)

    def log(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers at a step."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        with _faults(self.uri):
            rows = [Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
            self._client.log_batch(run_id, metrics=rows)

    def last_step(self, run_id: str, metric: str) -> int:
        """Return the largest step at which a metric was recorded; -1 for none."""
        with _faults(self.uri):
            history = self._client.get_metric_history(run_id, metric)
        return max((entry.step for entry in history), default=-1)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Keep a text, such as the resolved settings, as an artifact of the run."""
        with _faults(self.uri):
            self._client.log_text(run_id, text, name)

    def finish(self, run_id: str, ok: bool) -> None:
        """Mark a run as finished or failed."""
        with _faults(self.uri):
            self._client.set_terminated(run_id, "FINISHED" if ok else "FAILED")

    def register(
        self,
        name: str,
        bundle_uri: str,
        run_id: str,
        tags: Mapping[str, str],
        alias: str = CHAMPION,
    ) -> int:
        """Return the version of model `name` that stands for a checkpoint folder.

        The same folder registered twice is one version. The alias moves to it. A server refuses
        sources on its clients' disks, so there a note in the run's artifacts is the source; the
        folder's URI stands in the version's tags either way.

        Raises:
            ServiceError: MLflow does not answer.
        """
        with _faults(self.uri):
            known = {m.name for m in self._client.search_registered_models(f"name = '{name}'")}
            if name not in known:
                self._client.create_registered_model(name)
            versions = self._client.search_model_versions(f"name = '{name}'")
            same = [int(v.version) for v in versions if v.tags.get(_BUNDLE) == bundle_uri]
            version = max(same, default=0) or int(
                self._client.create_model_version(
                    name,
                    source=self._source(bundle_uri, run_id),
                    run_id=run_id,
                    tags={**tags, _BUNDLE: bundle_uri},
                ).version
            )
            self._client.set_registered_model_alias(name, alias, str(version))
        log.info("registered model=%s version=%d alias=%s", name, version, alias)
        return version

    def _source(self, bundle_uri: str, run_id: str) -> str:
        if not self.uri.startswith("http") or storage.is_s3(bundle_uri):
            return bundle_uri
        self._client.log_text(run_id, bundle_uri, "checkpoint/location.txt")
        artifacts = str(self._client.get_run(run_id).info.artifact_uri)
        return storage.join(artifacts, "checkpoint")

    def resolve(self, name: str, which: str = CHAMPION) -> str:
        """Return the checkpoint folder of a registered model.

        Args:
            name: The model.
            which: An alias, or a version number.

        Raises:
            DataError: There is no such model, alias or version.
            ServiceError: MLflow does not answer.
        """
        from mlflow.exceptions import MlflowException

        client = self._client
        look = client.get_model_version if which.isdigit() else client.get_model_version_by_alias
        try:
            with _faults(self.uri):
                found = look(name, which)
        except ServiceError as fault:
            cause = fault.__cause__
            unknown = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
            if isinstance(cause, MlflowException) and cause.error_code in unknown:
                raise DataError(
                    f"model {name}@{which} is not registered at {self.uri}; train first, or name "
                    "a checkpoint folder"
                ) from fault
            raise
        return str(found.tags.get(_BUNDLE) or found.source)


@contextlib.contextmanager
def _faults(uri: str) -> Iterator[None]:
    """Turn MLflow's and its database's faults into ours."""
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError) as fault:
        raise _silent(uri, fault) from fault


def _silent(uri: str, fault: BaseException) -> ServiceError:
    reason = str(fault).splitlines()[0][:300] if str(fault) else type(fault).__name__
    way_out = "start it, mend the address, or leave tracking.uri empty for a SQLite file in the "
    way_out += "run's folder"
    if uri.startswith("sqlite:"):
        way_out = "free space or mend rights there, or name another place (it is in the run's "
        way_out += "folder, --output, where tracking.uri is empty)"
    return ServiceError(f"tracking.uri: MLflow at {uri} does not do as asked ({reason}); {way_out}")
