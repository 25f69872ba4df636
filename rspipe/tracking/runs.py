"""The MLflow runs of a study, with tags, parameters, metrics and files, made from the records."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rspipe.records import EnsembleWeights, SearchResult, TrainedModel, Trial
from rspipe.report.names import short_name
from rspipe.report.results import Results
from rspipe.report.summaries import Summary, display_name
from rspipe.report.tables import flattened
from rspipe.search.sensitivity import best_so_far
from rspipe.smoothing.cascades import CertifiedCascade
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import certified_accuracy
from rspipe.spec import content_id
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.tracking.views import CURVE, LISTED, RADIUS, accuracy_name

_CURVE_STEP = 0.02


@dataclass(frozen=True)
class Point:
    """One value of a metric."""

    name: str
    value: float
    step: int = 0
    seconds: float = 0.0
    """Since the start of the run. Fixed by the content, so that MLflow drops what is sent twice."""


@dataclass(frozen=True)
class TrackedRun:
    """Content of one MLflow run."""

    key: str
    name: str
    status: str
    tags: dict[str, str]
    parameters: dict[str, str]
    points: tuple[Point, ...] = ()
    files: tuple[StorePath, ...] = field(default=())
    parent: str = ""
    """Key of the run that it is nested in, published before; the study's own by default."""
    seconds: float | None = None
    """Duration, for MLflow's column of it; None where it is not known."""
    is_classifier: bool = False
    """Whether `rspipe.load_classifier` takes it."""
    is_cascade: bool = False
    """Whether `rspipe.load_cascade` does."""
    is_two_sided: bool = False
    """Whether that cascade's last level answers below 1/2, too."""

    def note(self, run_id: str) -> str:
        """Return the description of the run that the UI shows."""
        if self.is_cascade:
            options = ", two_sided=True" if self.is_two_sided else ""
            return (
                "The levels, for `rspipe.predict_cascade`:\n\n```python\n"
                f'levels = rspipe.load_cascade("runs:/{run_id}")\n'
                f"prediction = rspipe.predict_cascade(levels, x{options})\n```\n"
            )
        if not self.is_classifier:
            return ""
        return (
            "The classifier, for `rspipe.certify`:\n\n```python\n"
            "from rspipe import load_classifier\n\n"
            f'classifier = load_classifier("runs:/{run_id}")\n```\n'
        )

    @property
    def metrics(self) -> dict[str, list[Point]]:
        """Return the points of each metric by an id of its name, values and steps."""
        named: dict[str, list[Point]] = {}
        for point in self.points:
            named.setdefault(point.name, []).append(point)
        return {content_id([name, [[repr(one.value), one.step] for one in of]]): of for name, of in named.items()}

    def contradicts(self, shown: Mapping[str, float]) -> bool:
        """Return whether MLflow's run shows numbers of other certificates, by its newest values of the metrics."""
        # A curve that was cut off ends elsewhere; what has one value is the same or another.
        times = Counter(point.name for point in self.points)
        alone = {point.name: point.value for point in self.points if times[point.name] == 1}
        different = any(name in shown and shown[name] != value for name, value in alone.items())
        return different and self.tags["rspipe.stage"] == "certify"

    @property
    def digest(self) -> str:
        """Return an id of the content: with the same one there is nothing to publish."""
        files = [str(path) for path in self.files]
        return content_id([self.status, self.tags, self.parameters, [*self.metrics], files])


def _curve_radii(study: StudyConfig) -> list[float]:
    """Return the radii of all certified-accuracy curves of a study, up to where n ends them."""
    longest = radius_cap(sigma=max(study.sigmas), n=study.certify.n, alpha=study.certify.alpha)
    return [_CURVE_STEP * index for index in range(int(longest / _CURVE_STEP) + 2)]


def _certificate_points(
    study: StudyConfig, certified: CertifiedClassifier | None, summary: Summary | None
) -> Iterator[Point]:
    if certified is None or summary is None:
        return
    yield Point("acr", summary.acr.estimate)
    yield Point("acr_low", summary.acr.low)
    yield Point("acr_high", summary.acr.high)
    yield Point("abstained", summary.abstained)
    yield Point("saturated", summary.saturated)
    yield Point("acr_two_sided", summary.acr_two_sided)
    yield Point("samples_per_image", summary.samples)
    yield Point("training_seconds", summary.training_seconds)
    yield Point("training_passes", summary.passes)
    for radius, share in zip(summary.radii, summary.certified_accuracy, strict=True):
        yield Point(accuracy_name(radius), share)
    # A rule that answers at given radii says nothing of those between.
    radii = [] if summary.rule == "decide" else _curve_radii(study)
    for radius, share in zip(radii, certified_accuracy(certified.radius, certified.correct, radii), strict=True):
        yield Point(CURVE, float(share), step=round(1000 * radius))


def _model_points(record: TrainedModel) -> Iterator[Point]:
    seconds = 0.0
    for entry in record.history:
        seconds += entry["seconds"]
        for name, value in entry.items():
            if name not in ("epoch", "seconds"):
                yield Point(f"training/{name}", value, step=int(entry["epoch"]), seconds=seconds)
    yield Point("validation/clean_accuracy", record.clean_accuracy)
    yield Point("validation/noisy_accuracy", record.noisy_accuracy)


def _search_points(record: SearchResult, trials: Sequence[Trial]) -> Iterator[Point]:
    for trial, spent, best in zip(trials, *best_so_far(trials), strict=True):
        yield Point("trial/validation_acr", trial.objective, step=trial.index)
        yield Point("trial/best_validation_acr", float(best), step=trial.index)
        yield Point("passes/best_validation_acr", float(best), step=round(spent))
        for name, value in trial.parameters.items():
            yield Point(f"trial/{name}", value, step=trial.index)
    yield Point("validation/acr", record.objective)
    if record.default_objective is not None:
        yield Point("validation/acr_of_settings_in_study_file", record.default_objective)
    yield Point("training_seconds", sum(trial.seconds for trial in trials))
    yield Point("training_passes", sum(trial.passes for trial in trials))


_TRIAL_STATUS = {"finished": "FINISHED", "stopped": "KILLED"}


def _trial_run(trial: Trial, *, parent: str, tags: dict[str, str]) -> TrackedRun:
    points = [Point("validation/acr_estimate", value, step=int(epoch)) for epoch, value in trial.watched.items()]
    points += [Point("training_seconds", trial.seconds), Point("training_passes", trial.passes)]
    if trial.status == "finished":
        points += [Point("validation/acr", trial.objective), Point("validation/accuracy", trial.accuracy)]
    if trial.error is not None:
        points.append(Point("validation/acr_standard_error", trial.error))
    return TrackedRun(
        key=f"trial/{trial.search}/{trial.index}/{content_id(trial.parameters)}",
        name=f"trial {trial.index}",
        status=_TRIAL_STATUS.get(trial.status, "FAILED"),
        tags=tags | {"rspipe.status": trial.status},
        parameters={name: f"{value:g}" for name, value in trial.parameters.items()},
        points=tuple(points),
        parent=parent,
        seconds=trial.seconds,
    )


def _ensemble_points(record: EnsembleWeights) -> Iterator[Point]:
    yield Point("calibration/objective", record.objective)
    yield Point("calibration/objective_of_uniform_weights", record.uniform_objective)
    yield Point("calibration/optimality_gap", record.gap)
    if record.effective_pairs is not None:
        yield Point("calibration/effective_pairs", record.effective_pairs)
    for index, weight in enumerate(record.weights):
        yield Point("weight", weight, step=index)


def _tags(kind: str, label: str, method: str, sigma: float, *, stage: str, data: str) -> dict[str, str]:
    named = {"kind": kind, "stage": stage, "label": label, "method": method, "sigma": f"{sigma:g}", "data": data}
    return {f"rspipe.{name}": value for name, value in named.items()}


def _noise_tag(certified: CertifiedClassifier | None) -> dict[str, str]:
    """Return how the noise of certificates was drawn, which says whether they account for rounding."""
    return {} if certified is None else {"rspipe.noise": ", ".join(sorted({*certified.noise.tolist()}))}


def study_runs(results: Results, summaries: Sequence[Summary], store: Store) -> Iterator[TrackedRun]:
    """Yield the runs nested in that of the study: of models, searches with their trials, and ensembles.

    Args:
        results: Everything so far.
        summaries: Of the classifiers whose certification is finished.
        store: Where their files lie.
    """
    summarized = {summary.id: summary for summary in summaries}

    def listed(run: TrackedRun, id_: str) -> TrackedRun:
        """Return a run that the study's view shows, with the axis of its curve, or one that it leaves out."""
        if id_ in results.other_choices:
            return replace(run, tags=run.tags | {LISTED: "no"})
        axis = (Point(RADIUS, point.step / 1000, step=point.step) for point in run.points if point.name == CURVE)
        return replace(run, tags=run.tags | {LISTED: "yes"}, points=(*run.points, *axis))

    for model in results.models:
        run = _model_run(results.study, model, results.certificates(model.id), summarized.get(model.id), store)
        yield listed(run, model.id)
    for search in results.searches:
        trials = results.trials_of(search)
        yield from _search_runs(results.study, search, trials, store)
    for ensemble in results.ensembles:
        certified, summary = results.certificates(ensemble.id), summarized.get(ensemble.id)
        yield listed(_ensemble_run(results.study, ensemble, certified, summary, store), ensemble.id)
    keys = {model.id: _model_key(model) for model in results.models}
    keys |= {ensemble.id: _ensemble_key(ensemble) for ensemble in results.ensembles}
    for cascade in results.cascades:
        if summary := summarized.get(cascade.record.id):
            yield listed(_cascade_run(results.study, cascade, summary, keys), cascade.record.id)


def _model_key(model: TrainedModel) -> str:
    return f"model/{model.id}/{model.checksum}"


def _ensemble_key(ensemble: EnsembleWeights) -> str:
    return f"ensemble/{ensemble.id}/{content_id([ensemble.checksums, ensemble.weights])}"


def _certify_parameters(study: StudyConfig) -> dict[str, Any]:
    return {"certify": study.identity["certify"]}


def _model_run(
    study: StudyConfig,
    model: TrainedModel,
    certified: CertifiedClassifier | None,
    summary: Summary | None,
    store: Store,
) -> TrackedRun:
    stage = "certify" if summary else "train"
    tags = _tags("model", model.label, model.source, model.train_sigma, stage=stage, data=study.data.name)
    folder = store.model_dir(model.id)
    return TrackedRun(
        key=_model_key(model),
        name=f"{short_name(display_name(model))}, σ {model.train_sigma:g}",
        status="FINISHED" if model.status == "finished" else "FAILED",
        tags=tags | _noise_tag(certified) | {"rspipe.seed": str(model.seed), "rspipe.device": model.device},
        parameters=flattened(model.spec | _certify_parameters(study)),
        points=(*_model_points(model), *_certificate_points(study, certified, summary)),
        files=(folder / "model.json", folder / "weights.pt"),
        seconds=model.seconds,
        is_classifier=model.status == "finished",
    )


def _search_runs(
    study: StudyConfig, search: SearchResult, trials: Sequence[Trial], store: Store
) -> Iterator[TrackedRun]:
    """Yield the run of a search, and those of its trials, which are nested in it."""
    spec = next(spec for spec in study.search_specs if spec.id == search.id)
    best = {f"best.{name}": value for name, value in search.best.items()}

    def tags(kind: str) -> dict[str, str]:
        return _tags(kind, search.label, spec.method.name, search.sigma, stage="search", data=study.data.name)

    # More trials, or some that were done again, can have another winner; MLflow keeps a parameter that it has shown.
    key = f"search/{search.id}/{search.trials}/{content_id([search.best_index, search.best])}"
    yield TrackedRun(
        key=key,
        name=f"search {search.label}, σ {search.sigma:g}",
        status="FINISHED",
        tags=tags("search"),
        # More trials may have been made than the study now asks for.
        parameters=flattened(
            {**spec.model_dump(mode="json"), "trials": search.trials, **best, "best_trial": search.best_index}
        ),
        points=tuple(_search_points(search, trials)),
        seconds=sum(trial.seconds for trial in trials),
        files=(store.run_dir / "search" / search.id / "result.json",),
    )
    yield from (_trial_run(trial, parent=key, tags=tags("trial")) for trial in trials)


def _ensemble_run(
    study: StudyConfig,
    ensemble: EnsembleWeights,
    certified: CertifiedClassifier | None,
    summary: Summary | None,
    store: Store,
) -> TrackedRun:
    weights = {f"weight.{name}": weight for name, weight in zip(ensemble.members, ensemble.weights, strict=True)}
    content = {"members": ensemble.label, "method.name": ensemble.method, "average": ensemble.average}
    solved = {"solver": ensemble.solver, "solver_status": ensemble.status, "train_sigma": ensemble.sigma}
    drawn = {"images": ensemble.images, "draws": ensemble.draws}
    stage = "certify" if summary else "weigh"
    tags = _tags("ensemble", ensemble.label, ensemble.method, ensemble.sigma, stage=stage, data=study.data.name)
    return TrackedRun(
        key=_ensemble_key(ensemble),
        name=f"{short_name(display_name(ensemble))}, σ {ensemble.sigma:g}",
        status="FINISHED",
        tags=tags | _noise_tag(certified),
        parameters=flattened({**content, **solved, **weights, **drawn, **_certify_parameters(study)}),
        points=(*_ensemble_points(ensemble), *_certificate_points(study, certified, summary)),
        files=(store.run_dir / "weights" / f"{ensemble.id}.json",),
        is_classifier=True,
    )


def _cascade_run(
    study: StudyConfig, cascade: CertifiedCascade, summary: Summary, keys: Mapping[str, str]
) -> TrackedRun:
    """Return the run of a cascade, whose parameters name the runs of its levels by key."""
    record = cascade.record
    levels = {
        f"level.{position}": {"sigma": sigma, "classifier": id_, "key": keys[id_]}
        for position, (sigma, id_) in enumerate(zip(record.sigmas, record.classifiers, strict=True))
    }
    tags = _tags("cascade", record.label, "cascade", record.sigma, stage="certify", data=study.data.name)
    return TrackedRun(
        key=f"cascade/{record.id}/{content_id([keys[id_] for id_ in record.classifiers])}",
        name=short_name(display_name(record)),
        status="FINISHED",
        tags=tags | _noise_tag(cascade.classifier),
        parameters=flattened({**levels, "two_sided": record.two_sided, **_certify_parameters(study)}),
        points=tuple(_certificate_points(study, cascade.classifier, summary)),
        is_cascade=True,
        is_two_sided=record.two_sided,
    )
