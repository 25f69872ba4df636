"""The index of a study in MLflow: a parent run, a child run per model, search and ensemble, and trials in searches.

Everything published is derived from the run directory, so it can be published again at any time: a run is found by its
tag `rspipe.key`, and one whose content is already there is left alone. That MLflow cannot be reached is a warning.
"""

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np

from rspipe.errors import first_line
from rspipe.report.results import Results
from rspipe.report.summaries import Summary
from rspipe.report.tables import flattened
from rspipe.spec import content_id
from rspipe.storage.files import read_json
from rspipe.storage.paths import Place, local_copy, local_part
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.tracking.runs import TrackedRun, study_runs

T = TypeVar("T")

_log = logging.getLogger(__name__)


_EXPERIMENT = "rspipe"

# Otherwise the UI takes it for one of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_BATCH = 500

_ENVIRONMENT = {
    # A server that is not there should cost seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # One bar, and two lines with a server, per run would flood the terminal.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def tracking_uri(run_dir: Place) -> str:
    """Return where MLflow keeps runs: MLFLOW_TRACKING_URI, or mlflow.db beside the run directory's local part."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{local_part(run_dir).parent / 'mlflow.db'}"


def without_secrets(text: str, uri: str) -> str:
    """Return a text without the password of an address, or one that MLflow finds in the environment."""
    password = urlsplit(uri).password or ""
    known = [password, unquote(password), *(os.environ.get(name, "") for name in _SECRETS)]
    for secret in filter(None, known):
        text = text.replace(secret, "***")
    return text


def ui_command(uri: str) -> str:
    """Return what to type, or to open, to see the runs; a password is left out."""
    uri = without_secrets(uri, uri)
    return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"


def connect_mlflow(uri: str) -> Any:
    """Return MLflow's client, imported here and made quiet: seconds, not minutes, for a server that is not there."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Migrations of a new database are told at length.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # Each request that it tries again; what comes of it is told once.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _monitor(run: str, uri: str) -> Any | None:
    """Return what logs the load of this machine to a run every ten seconds, in a thread; None where it cannot."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING as WANTED

    if WANTED.is_set() and not WANTED.get():
        return None
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run, resume_logging=True, tracking_uri=uri)
    except ImportError as error:
        _log.info("the load of this machine is not logged: %s", error)
        return None
    monitor.start()
    return monitor


class Tracker:
    """Publishes a study in MLflow. No method raises: what MLflow refuses is warned of once, and tried again later."""

    def __init__(self, store: Store, study: StudyConfig) -> None:
        self._store, self._study = store, study
        self._uri = tracking_uri(store.run_dir)
        self._failed = False
        # A run directory made anew is another run of the same study.
        self._identity = f"{study.id}/{content_id(read_json(store.run_dir / 'environment.json'))}"
        self._connected: Any = None
        self._monitor: Any = None

    def publish(
        self, results: Results, summaries: Sequence[Summary] = (), files: Mapping[str, Place] | None = None
    ) -> None:
        """Bring MLflow up to date with what a study has produced.

        Args:
            results: Everything so far.
            summaries: Of the classifiers whose certification is finished: MLflow keeps a number that it has shown.
            files: Artifacts of the parent run, by their path there.
        """
        try:
            parent = self._parent()
            known = self._known(parent)
            runs = {run.key: run for run in study_runs(results, summaries, self._store)}
            for run in runs.values():
                self._publish_run(run, parent, known)
            for key in known.keys() - runs.keys():
                # Of parameters that are gone: kept, as MLflow deletes nothing, but told apart.
                self._client.set_tag(known[key].info.run_id, "rspipe.superseded", "yes")
            for name, path in (files or {}).items():
                folder = str(Path(name).parent)
                self._log_file(parent, path, None if folder == "." else folder)
        except Exception as error:  # noqa: BLE001 whatever MLflow throws: the results are on disk
            self._warn(error)

    def finish(self, status: str) -> None:
        """Close the parent run with one of MLflow's states: FINISHED, FAILED, KILLED."""
        if self._connected is None:
            return
        try:
            if self._monitor is not None:
                self._monitor.finish()
            self._client.set_terminated(self._parent(), status)
        except Exception as error:  # noqa: BLE001 as above
            self._warn(error)

    def open(self) -> None:
        """Make the parent run, or mark it as running again."""
        try:
            self._client.update_run(self._parent(), status="RUNNING")
            self._monitor = _monitor(self._parent(), self._uri)
        except Exception as error:  # noqa: BLE001 as above
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            reason = first_line(error)
            reason = without_secrets(reason, self._uri)
            _log.warning(
                "warning: MLflow at %s cannot be written (%s); the study goes on, all results are in %s, and "
                "pipelines/report.py publishes them later",
                without_secrets(self._uri, self._uri),
                reason if len(reason) <= 160 else f"{reason[:157]}...",
                self._store.run_dir,
            )
        self._failed = True

    @property
    def _client(self) -> Any:
        if self._connected is None:
            self._connected = connect_mlflow(self._uri)
        return self._connected

    def _log_file(self, run: str, path: Place, folder: str | None = None) -> None:
        with local_copy(path) as copy:
            self._client.log_artifact(run, str(copy), folder)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        folder = local_part(self._store.run_dir).parent / "mlartifacts"
        # A server has a place of its own for artifacts.
        location = None if self._uri.startswith("http") else folder.as_uri()
        return str(self._client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))

    def _search(self, where: str) -> Iterator[Any]:
        token = None
        while token != "":
            page = self._client.search_runs([self._experiment()], where, max_results=1000, page_token=token)
            yield from page
            token = page.token or ""

    def _parent(self) -> str:
        """Return the parent run, made when there is none and completed when its making was cut off."""
        study, found = self._study, next(self._search(f"tags.`rspipe.key` = 'study/{self._identity}'"), None)
        described = content_id(study.model_dump(mode="json"))
        if found is not None and found.data.tags.get("rspipe.logged") == described:
            return str(found.info.run_id)
        tags = {
            "rspipe.key": f"study/{self._identity}",
            "rspipe.kind": "study",
            "rspipe.stage": "study",
            "rspipe.study.loading": study.id,
            "rspipe.data": study.data.name,
        }
        run = found or self._client.create_run(self._experiment(), tags=tags, run_name=study.id)
        parent = str(run.info.run_id)
        several = ("models", "search", "ensembles")
        shown = {name: value for name, value in study.identity.items() if name not in several}
        for name, value in flattened(shown).items():
            self._client.log_param(parent, name, value)
        for name in ("study.toml", "study.json", "environment.json"):
            self._log_file(parent, self._store.run_dir / name)
        self._client.set_tag(parent, "mlflow.note.content", study.title)
        self._client.set_tag(parent, "rspipe.logged", described)
        return parent

    def _known(self, parent: str) -> dict[str, Any]:
        """Return the child runs by key, and the trials that are the children of searches."""
        nested = f"tags.`mlflow.parentRunId` = '{parent}'"
        found = {run.data.tags["rspipe.key"]: run for run in self._search(nested)}
        for search in [run for key, run in found.items() if key.startswith("search/")]:
            found |= self._known(search.info.run_id)
        return found

    def _publish_run(self, run: TrackedRun, parent: str, known: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        old, client = known.get(run.key), self._client
        parent = known[run.parent].info.run_id if run.parent else parent
        if old is not None and old.data.tags["mlflow.parentRunId"] != parent:
            client.set_tag(old.info.run_id, "mlflow.parentRunId", parent)
        if old is not None and old.data.tags.get("rspipe.logged") == run.digest:
            return
        if old is None:
            tags = {
                **run.tags,
                "rspipe.key": run.key,
                "rspipe.study.loading": self._study.id,
                "mlflow.parentRunId": parent,
            }
            old = known[run.key] = client.create_run(self._experiment(), tags=tags, run_name=run.name)
        id_, began, told = old.info.run_id, old.info.start_time, old.data.tags
        about = {**run.tags, "mlflow.note.content": run.note(id_)}
        client.log_batch(id_, tags=[RunTag(*pair) for pair in about.items() if told.get(pair[0], "") != pair[1]])
        for parameters in _chunks([*run.parameters.items()], 100):
            client.log_batch(id_, params=[Param(name, value) for name, value in parameters])
        finite = [point for point in run.points if np.isfinite(point.value)]
        for points in _chunks(finite, _BATCH):
            metrics = [Metric(p.name, p.value, began + round(1000 * p.seconds), p.step) for p in points]
            client.log_batch(id_, metrics=metrics)
        files = content_id([path.name for path in run.files])
        # The key of a run holds what its files hold: once is enough.
        if told.get("rspipe.files") != files:
            for path in run.files:
                self._log_file(id_, path)
            client.set_tag(id_, "rspipe.files", files)
        end = None if run.seconds is None else began + round(1000 * run.seconds)
        client.set_terminated(id_, run.status, end)
        if "rspipe.superseded" in told:
            client.delete_tag(id_, "rspipe.superseded")
        # Last: a run without it is not complete.
        client.set_tag(id_, "rspipe.logged", run.digest)
