"""Certification: every base model and every ensemble of a noise level, from one pass of shared noise."""

import time
from collections.abc import Sequence

import pyarrow as pa

from rspipe.data.sources import load_dataset
from rspipe.data.splits import Split, check_images
from rspipe.errors import BrokenModelError, DataError
from rspipe.execution.board import OnProgress, Progress, after
from rspipe.execution.resources import Cluster
from rspipe.records import EnsembleWeights, TrainedModel
from rspipe.smoothing.noise import noise_steps
from rspipe.stages.passes import CountPass, Work, images_unit, set_failed_aside, visit, visited
from rspipe.storage.classifiers import Candidate, candidates_of, certification_keys, classifier_among
from rspipe.storage.counts import SCHEMA
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig


def _works(
    candidates: Sequence[Candidate],
    split: Split,
    done: set[tuple[str, str, int]],
    study: StudyConfig,
    *,
    keys: dict[str, str],
    classes: int,
) -> list[Work]:
    """Return passes over the examples that lack counts; examples that lack the same classifiers share a pass."""
    works = []
    for sigma in sorted({candidate.sigma for candidate in candidates}):
        here = [candidate for candidate in candidates if candidate.sigma == sigma]
        lacking: dict[tuple[str, ...], list[int]] = {}
        for position, example in enumerate(split.index.tolist()):
            missing = tuple(
                candidate.id for candidate in here if (candidate.id, keys[candidate.id], example) not in done
            )
            if missing:
                lacking.setdefault(missing, []).append(position)
        for missing, positions in lacking.items():
            wanted = [candidate for candidate in here if candidate.id in set(missing)]
            members = tuple(dict.fromkeys(member for candidate in wanted for member in candidate.members))
            classifiers = tuple(classifier_among(candidate, members) for candidate in wanted)
            chosen = Split(split.images[positions], split.labels[positions], split.index[positions])
            determined = tuple(keys[candidate.id] for candidate in wanted)
            works.append(Work(CountPass(sigma, members, classifiers, determined, study.certify, classes), chosen))
    return works


def certify_classifiers(
    store: Store,
    study: StudyConfig,
    models: Sequence[TrainedModel],
    ensembles: Sequence[EnsembleWeights],
    *,
    cluster: Cluster,
    on_progress: OnProgress,
) -> None:
    """Certify every classifier on every chosen test image that has no counts yet. Models that diverged are left out.

    The counts of an image are stored as soon as its block arrives, each exactly once. A model that returns no class
    scores at some image is left out from then on, with a warning, and with it the ensembles that it is a member of.

    Raises:
        StoreError: Images of another test part were certified in the run directory.
        BrokenModelError: No other classifier is left.
        RspipeError: What workers ran into.
    """
    data = load_dataset(study.data)
    split = data.test.chosen(study.certify.images)
    check_images(split, classes=data.classes)
    check_grid(split, study)
    store.save_images_to_certify(len(split), test_part=data.test.identity())
    while True:
        candidates = candidates_of(models, ensembles)
        keys = certification_keys(study, models, ensembles)
        works = _works(candidates, split, store.counted(), study, keys=keys, classes=data.classes)
        left, levels = sum(len(work.split) for work in works), len({candidate.sigma for candidate in candidates})
        tally = _Tally(left, unit=images_unit(levels))
        progress = after(levels * len(split) - left, on_progress)
        try:
            _count(store, works, tally, classes=data.classes, cluster=cluster, on_progress=progress)
            return
        except BrokenModelError as error:
            left_out = set_failed_aside(store, error)
            models = [left_out if one.id == left_out.id else one for one in models]
            ensembles = [one for one in ensembles if left_out.id not in one.members]
            if not candidates_of(models, ensembles):
                raise


def _count(
    store: Store,
    works: Sequence[Work],
    tally: "_Tally",
    *,
    classes: int,
    cluster: Cluster,
    on_progress: OnProgress,
) -> None:
    """Run passes, and store what they count."""
    on_progress(tally.progress())

    def on_block(rows: pa.Table) -> None:
        store.save_counts(rows.select(SCHEMA.names))
        tally.add(rows)
        on_progress(tally.progress())

    visit(store, works, classes=classes, cluster=cluster, on_block=on_block)


def check_grid(split: Split, study: StudyConfig) -> None:
    """Raise DataError for an image that cannot have the noise on a grid that a study asks for."""
    if study.certify.noise == "grid":
        for image, example in zip(split.images, split.index.tolist(), strict=True):
            try:
                noise_steps(image, "grid", sigma=max(study.sigmas))
            except ValueError as error:
                raise DataError(f"image {example}: {error}") from error


class _Tally:
    """How far certification is: images, and their rate."""

    def __init__(self, images: int, *, unit: str) -> None:
        self._images, self._unit, self._done = images, unit, 0
        self._began: float | None = None
        self._before = 0

    def add(self, rows: pa.Table) -> None:
        """Count finished images."""
        self._done += len(visited(rows))
        if self._began is None:
            # Actors take seconds to start; the rate is that of images after the first ones.
            self._began, self._before = time.monotonic(), self._done

    def progress(self) -> Progress:
        """Return the state as the terminal shows it."""
        detail = ""
        if self._began is not None and self._done > self._before:
            rate = 60 * (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)
            detail = f"{rate:,.0f}/min" if rate >= 100 else f"{rate:.3g}/min"
        return Progress("certify", self._done, self._images, self._unit, detail)
