"""The index of a study in MLflow: a parent run, a child run per model, search and ensemble, and trials in searches.

Everything published is derived from the run directory, so it can be published again at any time: a run is found by its
tag `rspipe.key`, and one whose content is already there is left alone. That MLflow cannot be reached is a warning.
Parameters, metrics and status of all runs come first, files after them: an artifact store that fails costs files alone.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rspipe.report.headline import Headline
from rspipe.report.results import Results
from rspipe.report.summaries import Summary
from rspipe.report.tables import flattened
from rspipe.spec import content_id
from rspipe.storage.files import read_content
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.tracking.causes import cause, hangs
from rspipe.tracking.client import alone, connect_mlflow, monitor_load, server_address, tracking_uri, without_secrets
from rspipe.tracking.outcome import Outcome, study_outcome
from rspipe.tracking.runs import Point, TrackedRun, study_runs
from rspipe.tracking.views import LISTED, SHARED, STUDIES, classifiers_view, studies_view

T = TypeVar("T")

_log = logging.getLogger(__name__)


_EXPERIMENT = "rspipe"

# Otherwise the UI takes it for one of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_OWN_FILES = ("study.toml", "study.json", "environment.json")
"""Of the parent run."""

_BATCH = 500
"""Metrics that are sent at once; MLflow takes a thousand things of all kinds."""

_AT_ONCE = 100
"""The same of parameters, and of tags."""


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _shared(write: Callable[[], object]) -> None:
    """Write what belongs to several studies: MLflow fails where another has written it between its look and its own."""
    from mlflow.exceptions import MlflowException

    try:
        write()
    except MlflowException as error:
        if "unique constraint" not in str(error).lower():
            raise
        write()


class Tracker:
    """Publishes a study in MLflow. No method raises: what MLflow refuses is warned of once, and tried again later."""

    def __init__(self, store: Store, study: StudyConfig) -> None:
        self._store, self._study = store, study
        self._uri = tracking_uri(store.run_dir)
        self._failed = self._files_failed = self._hangs = self._files_hang = False
        # A run directory that was recreated is another run of the same study.
        self._identity = f"{study.id}/{content_id(read_content(store.run_dir / 'environment.json'))}"
        self._connected: Any = None
        self._monitor: Any = None
        self._stopped = threading.Event()

    def publish(
        self,
        results: Results,
        summaries: Sequence[Summary] = (),
        files: Mapping[str, StorePath] | None = None,
        message: Headline | None = None,
    ) -> None:
        """Bring MLflow up to date with a study's results.

        Args:
            results: Everything so far.
            summaries: Of the classifiers whose certification is finished: MLflow keeps a number that it has shown.
            files: Artifacts of the parent run, by their path there.
            message: What the study found, for its own run, once all of its classifiers are certified.
        """
        self._try(lambda: self._publish_all(results, summaries, files or {}, message))

    def stop(self) -> None:
        """Let whatever thread publishes leave what is left to the next time."""
        self._stopped.set()

    def finish(self, status: str) -> None:
        """Close the parent run with one of MLflow's states: FINISHED, FAILED, KILLED."""
        if self._connected is None:
            return

        def close() -> None:
            if self._monitor is not None:
                self._monitor.finish()
            self._client.set_terminated(self._parent(), status)

        self._try(close)

    def open(self) -> None:
        """Make the parent run, or mark it as running again."""

        def begin() -> None:
            parent = self._parent()
            self._client.update_run(parent, status="RUNNING")
            self._monitor = monitor_load(parent, self._uri)

        self._try(begin)

    @property
    def works(self) -> bool:
        """Whether nothing has failed so far but the store of files."""
        return not self._failed

    def _try(self, action: Callable[[], None]) -> None:
        """Publish something, or warn once; a server that was waited for in vain is not asked again."""
        if self._hangs:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 whatever MLflow throws: the results are on disk
            self._hangs = hangs(error)
            if not self._failed:
                reason, known = cause(error, self._uri)
                _log.warning(
                    "warning: MLflow at %s cannot be written: %s; the study goes on, all results are in %s, and "
                    "pipelines/report.py %s",
                    without_secrets(self._uri, self._uri),
                    reason,
                    self._store.run_dir,
                    "publishes them then" if known else "tries again",
                )
            self._failed = True

    def _try_files(self, action: Callable[[], None]) -> None:
        """Log files, or warn once that the store of them fails; one that was waited for in vain is not asked again."""
        if self._files_hang:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 as above
            self._files_hang = hangs(error)
            if not self._files_failed:
                _log.warning(
                    "warning: MLflow at %s has all numbers but takes no files: %s; they are in %s",
                    without_secrets(self._uri, self._uri),
                    cause(error, self._uri)[0],
                    self._store.run_dir,
                )
            self._files_failed = True

    @property
    def address(self) -> str:
        """The address of the page that compares the classifiers of this study, on its server or that of `mlflow ui`."""
        page = f"experiments/{self._experiment}/runs?viewStateShareKey={self._study.id}"
        return f"{server_address(self._uri)}/#/{page}"

    def _publish_all(
        self,
        results: Results,
        summaries: Sequence[Summary],
        files: Mapping[str, StorePath],
        message: Headline | None,
    ) -> None:
        parent = self._parent()
        known = self._known(parent)
        runs = {run.key: run for run in study_runs(results, summaries, self._store)}
        for run in runs.values():
            if self._stopped.is_set():
                return
            self._publish_run(run, parent, known)
        for key in known.keys() - runs.keys():
            self._supersede(known[key])
        if message is not None and len(summaries) == len(results.summaries):
            self._write_outcome(parent, study_outcome(results, message))

        def log_files() -> None:
            own = [self._store.run_dir / name for name in _OWN_FILES]
            texts = [path.read_text() for path in own if path.is_file()]
            self._log_files(self._client.get_run(parent), own, version=content_id(texts))
            for run in runs.values():
                if self._stopped.is_set():
                    return
                # A model may fail after it was trained.
                self._log_files(known[run.key], run.files, version="" if run.status == "FINISHED" else run.status)
            for name, path in files.items():
                if self._stopped.is_set():
                    return
                folder = str(Path(name).parent)
                self._log_file(parent, path, None if folder == "." else folder)

        self._try_files(log_files)

    @property
    def _client(self) -> Any:
        if self._connected is None:
            with alone(self._uri):
                self._connected = connect_mlflow(self._uri)
        return self._connected

    def _log_file(self, run: str, path: StorePath, folder: str | None = None) -> None:
        with path.as_local_file() as copy:
            self._client.log_artifact(run, str(copy), folder)

    def _log_files(self, run: Any, files: Sequence[StorePath], *, version: str) -> None:
        """Log the files of a run once: its key stands for their content, but for what `version` says of it."""
        named = content_id([*(path.name for path in files), *filter(None, [version])])
        if files and run.data.tags.get("rspipe.files") != named:
            for path in files:
                if self._stopped.is_set():
                    return
                self._log_file(run.info.run_id, path)
            self._client.set_tag(run.info.run_id, "rspipe.files", named)

    @cached_property
    def _experiment(self) -> str:
        """The experiment's id: the environment names it, as for MLflow itself, or it is made where there is none."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name and (given := os.environ.get("MLFLOW_EXPERIMENT_ID")):
            return str(self._client.get_experiment(given).experiment_id)
        name = name or _EXPERIMENT
        folder = self._store.run_dir.local_part.parent / "mlartifacts"
        # A server has a place of its own for artifacts.
        location = None if self._uri.startswith("http") else folder.as_uri()
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            from mlflow.exceptions import MlflowException

            try:
                return str(self._client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
            except MlflowException:
                # Another study may have just made it.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _search(self, where: str) -> Iterator[Any]:
        token = None
        while token != "":
            page = self._client.search_runs([self._experiment], where, max_results=1000, page_token=token)
            yield from page
            token = page.token or ""

    def _parent(self) -> str:
        """Return the parent run, created where there is none and completed where its creation was cut off."""
        study = self._study
        run = next(self._search(f"tags.`rspipe.key` = 'study/{self._identity}'"), None)
        if run is not None and run.data.tags.get("rspipe.logged") == self._digest:
            return str(run.info.run_id)
        tags = {
            **self._source_tags,
            "rspipe.key": f"study/{self._identity}",
            "rspipe.kind": "study",
            "rspipe.stage": "study",
            "rspipe.study": study.id,
            "rspipe.data": study.data.name,
        }
        run = run or self._client.create_run(self._experiment, tags=tags, run_name=study.id)
        parent = str(run.info.run_id)
        lists = ("models", "search", "ensembles")
        parameters = {name: value for name, value in study.identity.items() if name not in lists}
        tags |= {"mlflow.note.content": study.title, "rspipe.logged": self._digest}
        _shared(lambda: self._client.log_inputs(parent, datasets=self._datasets))
        for key, view in {study.id: classifiers_view(study, parent), STUDIES: studies_view(study)}.items():
            content = json.dumps(view)
            _shared(partial(self._client.set_experiment_tag, self._experiment, f"{SHARED}{key}", content))
        self._log(parent, parameters=flattened(parameters), tags=tags)
        return parent

    def _known(self, parent: str) -> dict[str, Any]:
        """Return the child runs by key, and the trials that are the children of searches.

        Of several runs of a key, as classifiers have that were certified anew, it is the newest that is not superseded.
        """
        nested = f"tags.`mlflow.parentRunId` = '{parent}'"
        order = sorted(
            self._search(nested), key=lambda run: ("rspipe.superseded" not in run.data.tags, run.info.start_time)
        )
        # Others may have nested runs of their own.
        known = {key: run for run in order if (key := run.data.tags.get("rspipe.key"))}
        for search in [run for key, run in known.items() if key.startswith("search/")]:
            known |= self._known(search.info.run_id)
        return known

    def _publish_run(self, run: TrackedRun, parent: str, known: dict[str, Any]) -> None:
        """Publish one run, unless its content is there already; `known` gets it."""
        parent = known[run.parent].info.run_id if run.parent else parent
        before = known.get(run.key)
        if before and before.data.tags.get("rspipe.logged") != run.digest and run.contradicts(before.data.metrics):
            # Certified anew. Of two values of a metric MLflow would show the larger, and of two curves a mixture.
            self._supersede(known.pop(run.key))
        if run.key not in known:
            tags = {
                **run.tags,
                "rspipe.key": run.key,
                "rspipe.study": self._study.id,
                "mlflow.parentRunId": parent,
            }
            known[run.key] = self._client.create_run(self._experiment, tags=tags, run_name=run.name)
        there = known[run.key]
        tags, run_id = there.data.tags, there.info.run_id
        if tags["mlflow.parentRunId"] != parent:
            self._client.set_tag(run_id, "mlflow.parentRunId", parent)
        if "rspipe.superseded" in tags:
            if LISTED in run.tags:
                self._client.set_tag(run_id, LISTED, run.tags[LISTED])
            self._client.delete_tag(run_id, "rspipe.superseded")
        if tags.get("rspipe.logged") != run.digest:
            self._write(run, there)

    def _supersede(self, there: Any) -> None:
        """Mark a run of parameters that are gone, and take it off the lists: MLflow deletes nothing."""
        tags = {"rspipe.superseded": "yes"} | ({LISTED: "no"} if LISTED in there.data.tags else {})
        if not tags.items() <= there.data.tags.items():
            self._log(there.info.run_id, tags=tags)

    @cached_property
    def _digest(self) -> str:
        """Of what the study's run says of the study itself."""
        return content_id(self._study.model_dump(mode="json"))

    @cached_property
    def _source_tags(self) -> dict[str, str]:
        """What made the numbers, as MLflow's columns Source and Version show it."""
        made = read_content(self._store.run_dir / "environment.json")
        commit = str(made.get("commit", "unknown"))
        source = {"mlflow.source.name": f"rspipe study {self._study.name}", "mlflow.source.type": "LOCAL"}
        return source | ({} if commit == "unknown" else {"mlflow.source.git.commit": commit.removesuffix("+changes")})

    @cached_property
    def _datasets(self) -> list[Any]:
        """The data set as an input of a run; its digest is that of its description in the study file."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        described = self._study.data.model_dump(mode="json")
        source = json.dumps(described)
        data = Dataset(self._study.data.name, content_id(described), "rspipe", source)
        return [DatasetInput(data, [InputTag("mlflow.data.context", "study")])]

    def _write(self, run: TrackedRun, there: Any) -> None:
        """Write the content of a run into MLflow's run."""
        run_id, began, tags = there.info.run_id, there.info.start_time, there.data.tags
        # Of what no view shows, hundreds of ensembles and trials, it would be as much work again.
        if "mlflow.source.name" not in tags and run.tags.get(LISTED, "") != "no" and run.tags["rspipe.kind"] != "trial":
            _shared(lambda: self._client.log_inputs(run_id, datasets=self._datasets))
        described = {**self._source_tags, **run.tags, "mlflow.note.content": run.note(run_id)}
        end = there.info.end_time if run.seconds is None else began + round(1000 * run.seconds)
        if end is None or (there.info.status, there.info.end_time) != (run.status, end):
            self._client.set_terminated(run_id, run.status, end)
        # Points that are there are left out: MLflow's database looks up each of a batch in which one is doubled.
        metrics, known = run.metrics, {*tags.get("rspipe.metrics", "").split()}
        points = [point for id_, points in metrics.items() if id_ not in known for point in points]
        # Tags are logged last: a run without these lacks something; files apart.
        described |= {"rspipe.metrics": " ".join(metrics), "rspipe.logged": run.digest}
        new = {name: value for name, value in described.items() if tags.get(name, "") != value}
        self._log(run_id, parameters=run.parameters, points=points, tags=new, began=began)

    def _log(
        self,
        run_id: str,
        *,
        parameters: Mapping[str, str] | None = None,
        points: Sequence[Point] = (),
        tags: Mapping[str, str] | None = None,
        began: int = 0,
    ) -> None:
        """Log parameters, metrics and tags, in this order, in as few requests as MLflow takes."""
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(name, value) for name, value in (parameters or {}).items()]
        metrics = [
            Metric(point.name, point.value, began + round(1000 * point.seconds), point.step)
            for point in points
            if np.isfinite(point.value)
        ]
        labels = [RunTag(*tag) for tag in (tags or {}).items()]
        for some in _chunks(params[:-_AT_ONCE], _AT_ONCE):
            self._client.log_batch(run_id, params=some)
        for more in _chunks(metrics[:-_BATCH], _BATCH):
            self._client.log_batch(run_id, metrics=more)
        for few in _chunks(labels[:-_AT_ONCE], _AT_ONCE):
            self._client.log_batch(run_id, tags=few)
        self._client.log_batch(run_id, metrics=metrics[-_BATCH:], params=params[-_AT_ONCE:], tags=labels[-_AT_ONCE:])

    def _write_outcome(self, parent: str, outcome: Outcome) -> None:
        """Write what the study found into its run, unless it is there: MLflow's newest value is the one shown."""
        digest = content_id([self._digest, outcome.metrics, outcome.tags, outcome.note])
        before = self._client.get_run(parent).data.tags
        if before.get("rspipe.outcome") == digest:
            return
        points = [Point(name, value) for name, value in outcome.metrics.items()]
        # The clock may have been set back since.
        now = max(round(1000 * time.time()), 1 + int(before.get("rspipe.outcome_at", 0)))
        tags = {**outcome.tags, "mlflow.note.content": outcome.note, "rspipe.outcome_at": str(now)}
        self._log(parent, points=points, tags=tags | {"rspipe.outcome": digest}, began=now)
