"""The index of a study in MLflow: a parent run, a child run per model, search and ensemble, and trials in searches.

Everything published is derived from the run directory, so it can be published again at any time: a run is found by its
tag `rspipe.key`, and one whose content is already there is left alone. That MLflow cannot be reached is a warning.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rspipe.errors import first_line
from rspipe.report.results import Results
from rspipe.report.summaries import Summary
from rspipe.report.tables import flattened
from rspipe.spec import content_id
from rspipe.storage.files import read_json
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.tracking.client import connect_mlflow, monitor_load, tracking_uri, without_secrets
from rspipe.tracking.runs import TrackedRun, study_runs

T = TypeVar("T")

_log = logging.getLogger(__name__)


_EXPERIMENT = "rspipe"

# Otherwise the UI takes it for one of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_BATCH = 500


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


class Tracker:
    """Publishes a study in MLflow. No method raises: what MLflow refuses is warned of once, and tried again later."""

    def __init__(self, store: Store, study: StudyConfig) -> None:
        self._store, self._study = store, study
        self._uri = tracking_uri(store.run_dir)
        self._failed = False
        # A run directory that was recreated is another run of the same study.
        self._identity = f"{study.id}/{content_id(read_json(store.run_dir / 'environment.json'))}"
        self._connected: Any = None
        self._monitor: Any = None

    def publish(
        self, results: Results, summaries: Sequence[Summary] = (), files: Mapping[str, StorePath] | None = None
    ) -> None:
        """Bring MLflow up to date with a study's results.

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
                # Of parameters that are gone: kept, as MLflow deletes nothing, but marked.
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
            self._monitor = monitor_load(self._parent(), self._uri)
        except Exception as error:  # noqa: BLE001 as above
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            reason = without_secrets(first_line(error), self._uri)
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

    def _log_file(self, run: str, path: StorePath, folder: str | None = None) -> None:
        with path.as_local_file() as copy:
            self._client.log_artifact(run, str(copy), folder)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        folder = self._store.run_dir.local_part.parent / "mlartifacts"
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
        """Return the parent run, created where there is none and completed where its creation was cut off."""
        study = self._study
        run = next(self._search(f"tags.`rspipe.key` = 'study/{self._identity}'"), None)
        digest = content_id(study.model_dump(mode="json"))
        if run is not None and run.data.tags.get("rspipe.logged") == digest:
            return str(run.info.run_id)
        tags = {
            "rspipe.key": f"study/{self._identity}",
            "rspipe.kind": "study",
            "rspipe.stage": "study",
            "rspipe.study": study.id,
            "rspipe.data": study.data.name,
        }
        run = run or self._client.create_run(self._experiment(), tags=tags, run_name=study.id)
        parent = str(run.info.run_id)
        lists = ("models", "search", "ensembles")
        parameters = {name: value for name, value in study.identity.items() if name not in lists}
        for name, value in flattened(parameters).items():
            self._client.log_param(parent, name, value)
        for name in ("study.toml", "study.json", "environment.json"):
            self._log_file(parent, self._store.run_dir / name)
        self._client.set_tag(parent, "mlflow.note.content", study.title)
        self._client.set_tag(parent, "rspipe.logged", digest)
        return parent

    def _known(self, parent: str) -> dict[str, Any]:
        """Return the child runs by key, and the trials that are the children of searches."""
        nested = f"tags.`mlflow.parentRunId` = '{parent}'"
        known = {run.data.tags["rspipe.key"]: run for run in self._search(nested)}
        for search in [run for key, run in known.items() if key.startswith("search/")]:
            known |= self._known(search.info.run_id)
        return known

    def _publish_run(self, run: TrackedRun, parent: str, known: dict[str, Any]) -> None:
        """Publish one run, unless its content is there already; `known` gets it."""
        parent = known[run.parent].info.run_id if run.parent else parent
        if run.key not in known:
            tags = {
                **run.tags,
                "rspipe.key": run.key,
                "rspipe.study": self._study.id,
                "mlflow.parentRunId": parent,
            }
            known[run.key] = self._client.create_run(self._experiment(), tags=tags, run_name=run.name)
        there = known[run.key]
        tags, run_id = there.data.tags, there.info.run_id
        if tags["mlflow.parentRunId"] != parent:
            self._client.set_tag(run_id, "mlflow.parentRunId", parent)
        if tags.get("rspipe.logged") != run.digest:
            self._write(run, there)

    def _write(self, run: TrackedRun, there: Any) -> None:
        """Write the content of a run into MLflow's run."""
        from mlflow.entities import Metric, Param, RunTag

        client, run_id, began, tags = self._client, there.info.run_id, there.info.start_time, there.data.tags
        described = {**run.tags, "mlflow.note.content": run.note(run_id)}
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in described.items() if tags.get(tag[0], "") != tag[1]])
        for parameters in _chunks([*run.parameters.items()], 100):
            client.log_batch(run_id, params=[Param(name, value) for name, value in parameters])
        finite = [point for point in run.points if np.isfinite(point.value)]
        for points in _chunks(finite, _BATCH):
            metrics = [Metric(p.name, p.value, began + round(1000 * p.seconds), p.step) for p in points]
            client.log_batch(run_id, metrics=metrics)
        files = content_id([path.name for path in run.files])
        # The key of a run stands for the content of its files: once is enough.
        if tags.get("rspipe.files") != files:
            for path in run.files:
                self._log_file(run_id, path)
            client.set_tag(run_id, "rspipe.files", files)
        end = None if run.seconds is None else began + round(1000 * run.seconds)
        client.set_terminated(run_id, run.status, end)
        if "rspipe.superseded" in tags:
            client.delete_tag(run_id, "rspipe.superseded")
        # Last: a run without it is not complete.
        client.set_tag(run_id, "rspipe.logged", run.digest)
