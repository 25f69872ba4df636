"""The index of a study in MLflow: a parent run, a child run per model, search and ensemble, and trials in searches.

Everything published is derived from the run directory, so it can be published again at any time: a run is found by its
tag `rspipe.key`, and one whose content is already there is left alone. That MLflow cannot be reached is a warning.
"""

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np

from rspipe.certificates import radius_cap
from rspipe.metrics import certified_accuracy
from rspipe.records import EnsembleWeights, SearchResult, Summary, TrainedModel, Trial
from rspipe.sensitivity import best_so_far
from rspipe.spec import content_id
from rspipe.stages.files import read_json
from rspipe.stages.places import Place, local_copy, local_part
from rspipe.stages.store import Store
from rspipe.study_config import StudyConfig
from rspipe.summaries import CertifiedClassifier, Results, display_name
from rspipe.tables import flattened

T = TypeVar("T")
_log = logging.getLogger(__name__)

_EXPERIMENT = "rspipe"
# Otherwise the UI takes it for one of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_CURVE_STEP = 0.02
_BATCH = 500
_ENVIRONMENT = {
    # A server that is not there should cost seconds.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # One bar per run would flood the terminal.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
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


@dataclass(frozen=True)
class _Point:
    """One value of a metric."""

    name: str
    value: float
    step: int = 0
    seconds: float = 0.0
    """Since the start of the run. Fixed by the content, so that MLflow drops what is sent twice."""


@dataclass(frozen=True)
class _Run:
    """Content of one MLflow run."""

    key: str
    name: str
    status: str
    tags: dict[str, str]
    parameters: dict[str, str]
    points: tuple[_Point, ...] = ()
    files: tuple[Place, ...] = field(default=())
    parent: str = ""
    """Key of the run that it is nested in, published before; the study's own by default."""

    @property
    def digest(self) -> str:
        points = [[point.name, repr(point.value), point.step] for point in self.points]
        return content_id([self.status, self.tags, self.parameters, points, [str(path) for path in self.files]])


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _curve_radii(study: StudyConfig) -> list[float]:
    """Return the radii of all certified-accuracy curves of a study, up to where n ends them."""
    longest = radius_cap(sigma=max(study.sigmas), n=study.certify.n, alpha=study.certify.alpha)
    return [_CURVE_STEP * index for index in range(int(longest / _CURVE_STEP) + 2)]


def _certificate_points(
    study: StudyConfig, certified: CertifiedClassifier | None, summary: Summary | None
) -> Iterator[_Point]:
    if certified is None or summary is None:
        return
    yield _Point("acr", summary.acr.estimate)
    yield _Point("acr_low", summary.acr.low)
    yield _Point("acr_high", summary.acr.high)
    yield _Point("abstained", summary.abstained)
    yield _Point("saturated", summary.saturated)
    yield _Point("acr_two_sided", summary.acr_two_sided)
    yield _Point("samples_per_image", summary.samples)
    yield _Point("training_seconds", summary.training_seconds)
    yield _Point("training_passes", summary.passes)
    for radius, share in zip(summary.radii, summary.certified_accuracy, strict=True):
        yield _Point(f"certified_accuracy/r_{radius:.2f}", share)
    radii = _curve_radii(study)
    for radius, share in zip(radii, certified_accuracy(certified.radius, certified.correct, radii), strict=True):
        yield _Point("certified_accuracy", float(share), step=round(1000 * radius))


def _model_points(record: TrainedModel) -> Iterator[_Point]:
    seconds = 0.0
    for entry in record.history:
        seconds += entry["seconds"]
        for name, value in entry.items():
            if name not in ("epoch", "seconds"):
                yield _Point(f"training/{name}", value, step=int(entry["epoch"]), seconds=seconds)
    yield _Point("validation/clean_accuracy", record.clean_accuracy)
    yield _Point("validation/noisy_accuracy", record.noisy_accuracy)


def _search_points(record: SearchResult, trials: Sequence[Trial]) -> Iterator[_Point]:
    for trial, spent, best in zip(trials, *best_so_far(trials), strict=True):
        yield _Point("trial/validation_acr", trial.objective, step=trial.index)
        yield _Point("trial/best_validation_acr", float(best), step=trial.index)
        yield _Point("passes/best_validation_acr", float(best), step=round(spent))
        for name, value in trial.parameters.items():
            yield _Point(f"trial/{name}", value, step=trial.index)
    yield _Point("validation/acr", record.objective)
    yield _Point("validation/acr_of_settings_in_study_file", record.default_objective)
    yield _Point("training_seconds", sum(trial.seconds for trial in trials))
    yield _Point("training_passes", sum(trial.passes for trial in trials))


_TRIAL_STATUS = {"finished": "FINISHED", "stopped": "KILLED"}


def _trial_run(trial: Trial, *, parent: str, tags: dict[str, str]) -> _Run:
    points = [_Point("validation/acr_estimate", value, step=int(epoch)) for epoch, value in trial.watched.items()]
    points += [_Point("training_seconds", trial.seconds), _Point("training_passes", trial.passes)]
    if trial.status == "finished":
        points += [_Point("validation/acr", trial.objective), _Point("validation/accuracy", trial.accuracy)]
    if trial.error is not None:
        points.append(_Point("validation/acr_standard_error", trial.error))
    return _Run(
        key=f"trial/{trial.search}/{trial.index}",
        name=f"trial {trial.index}",
        status=_TRIAL_STATUS.get(trial.status, "FAILED"),
        tags=tags | {"rspipe.status": trial.status},
        parameters={name: f"{value:g}" for name, value in trial.parameters.items()},
        points=tuple(points),
        parent=parent,
    )


def _ensemble_points(record: EnsembleWeights) -> Iterator[_Point]:
    yield _Point("calibration/objective", record.objective)
    yield _Point("calibration/objective_of_uniform_weights", record.uniform_objective)
    yield _Point("calibration/optimality_gap", record.gap)
    for index, weight in enumerate(record.weights):
        yield _Point("weight", weight, step=index)


def _tags(kind: str, label: str, method: str, sigma: float, data: str) -> dict[str, str]:
    named = {"kind": kind, "label": label, "method": method, "sigma": f"{sigma:g}", "data": data}
    return {f"rspipe.{name}": value for name, value in named.items()}


def _children(results: Results, summaries: Sequence[Summary], store: Store) -> Iterator[_Run]:
    study, data = results.study, results.study.data.name
    certified = {classifier.id: classifier for classifier in results.certified}
    summarized = {summary.id: summary for summary in summaries}
    for model in results.models:
        seed = {"rspipe.seed": str(model.seed), "rspipe.device": model.device}
        points = [*_model_points(model)]
        points += _certificate_points(study, certified.get(model.id), summarized.get(model.id))
        folder = store.model_dir(model.id)
        yield _Run(
            key=f"model/{model.id}/{model.checksum}",
            name=f"{display_name(model)}, sigma {model.train_sigma:g}",
            status="FINISHED" if model.status == "finished" else "FAILED",
            tags=_tags("model", model.label, model.method, model.train_sigma, data) | seed,
            parameters=flattened(model.spec),
            points=tuple(points),
            files=(folder / "model.json", folder / "weights.pt"),
        )
    for search in results.searches:
        trials = [trial for trial in results.trials if trial.search == search.id]
        spec = next(spec for spec in study.search_specs if spec.id == search.id)
        best = {f"best.{name}": value for name, value in search.best.items()}
        # More trials can have another winner, and MLflow keeps a parameter that it has shown.
        key = f"search/{search.id}/{search.trials}"
        yield _Run(
            key=key,
            name=f"search {search.label}, sigma {search.sigma:g}",
            status="FINISHED",
            tags=_tags("search", search.label, spec.method.name, search.sigma, data),
            parameters=flattened({**spec.model_dump(mode="json"), **best, "best_trial": search.best_index}),
            points=tuple(_search_points(search, trials)),
            files=(store.run_dir / "search" / search.id / "result.json",),
        )
        tags = _tags("trial", search.label, spec.method.name, search.sigma, data)
        yield from (_trial_run(trial, parent=key, tags=tags) for trial in trials)
    for ensemble in results.ensembles:
        weights = {f"weight.{name}": weight for name, weight in zip(ensemble.members, ensemble.weights, strict=True)}
        content = {"members": ensemble.label, "method.name": ensemble.method, "average": ensemble.average}
        solved = {"solver": ensemble.solver, "solver_status": ensemble.status, "train_sigma": ensemble.sigma}
        points = [*_ensemble_points(ensemble)]
        points += _certificate_points(study, certified.get(ensemble.id), summarized.get(ensemble.id))
        yield _Run(
            key=f"ensemble/{ensemble.id}/{content_id([ensemble.checksums, ensemble.weights])}",
            name=f"{display_name(ensemble)}, sigma {ensemble.sigma:g}",
            status="FINISHED",
            tags=_tags("ensemble", ensemble.label, ensemble.method, ensemble.sigma, data),
            parameters=flattened({**content, **solved, **weights, "images": ensemble.images, "draws": ensemble.draws}),
            points=tuple(points),
            files=(store.run_dir / "weights" / f"{ensemble.id}.json",),
        )


class Tracker:
    """Publishes a study in MLflow. No method raises: what MLflow refuses is warned of once, and tried again later."""

    def __init__(self, store: Store, study: StudyConfig) -> None:
        self._store, self._study = store, study
        self._uri = tracking_uri(store.run_dir)
        self._failed = False
        # A run directory made anew is another run of the same study.
        self._identity = f"{study.id}/{content_id(read_json(store.run_dir / 'environment.json'))}"
        self._connected: Any = None

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
            runs = {run.key: run for run in _children(results, summaries, self._store)}
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
            self._client.set_terminated(self._parent(), status)
        except Exception as error:  # noqa: BLE001 as above
            self._warn(error)

    def open(self) -> None:
        """Make the parent run, or mark it as running again."""
        try:
            self._client.update_run(self._parent(), status="RUNNING")
        except Exception as error:  # noqa: BLE001 as above
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
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
            for name, value in _ENVIRONMENT.items():
                os.environ.setdefault(name, value)
            # Migrations of a new database are told at length.
            logging.getLogger("alembic").setLevel(logging.WARNING)
            from mlflow import MlflowClient

            logging.getLogger("mlflow").setLevel(logging.WARNING)
            self._connected = MlflowClient(tracking_uri=self._uri)
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
            "rspipe.study": study.id,
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

    def _publish_run(self, run: _Run, parent: str, known: dict[str, Any]) -> None:
        from mlflow.entities import Metric, Param

        old, client = known.get(run.key), self._client
        parent = known[run.parent].info.run_id if run.parent else parent
        if old is not None and old.data.tags["mlflow.parentRunId"] != parent:
            client.set_tag(old.info.run_id, "mlflow.parentRunId", parent)
        if old is not None and old.data.tags.get("rspipe.logged") == run.digest:
            return
        if old is None:
            tags = {**run.tags, "rspipe.key": run.key, "rspipe.study": self._study.id, "mlflow.parentRunId": parent}
            old = known[run.key] = client.create_run(self._experiment(), tags=tags, run_name=run.name)
        id_, began = old.info.run_id, old.info.start_time
        for parameters in _chunks([*run.parameters.items()], 100):
            client.log_batch(id_, params=[Param(name, value) for name, value in parameters])
        finite = [point for point in run.points if np.isfinite(point.value)]
        for points in _chunks(finite, _BATCH):
            metrics = [Metric(p.name, p.value, began + round(1000 * p.seconds), p.step) for p in points]
            client.log_batch(id_, metrics=metrics)
        for path in run.files:
            self._log_file(id_, path)
        client.set_terminated(id_, run.status)
        if "rspipe.superseded" in old.data.tags:
            client.delete_tag(id_, "rspipe.superseded")
        # Last: a run without it is not complete.
        client.set_tag(id_, "rspipe.logged", run.digest)


def open_tracker(store: Store, study: StudyConfig) -> Tracker:
    """Return the tracker of a study, its parent run open."""
    tracker = Tracker(store, study)
    tracker.open()
    return tracker
