"""Certification: every base model and every ensemble of a noise level, from one pass of shared noise."""

import time
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rspipe.data.sources import load_dataset
from rspipe.data.splits import Split, check_images
from rspipe.execution.board import OnProgress, Progress
from rspipe.execution.resources import Cluster
from rspipe.records import EnsembleWeights, TrainedModel
from rspipe.smoothing.derivation import ClassifierCounts, derive
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages.passes import CountPass, Visit, Work, visit
from rspipe.storage.classifiers import Candidate, candidates_of, certification_keys, classifier_among
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
            works.append(Work(CountPass(sigma, members, classifiers, study.certify, classes), chosen))
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

    The counts of an image are stored as soon as its block arrives, each exactly once.
    """
    data = load_dataset(study.data)
    split = data.test.evenly_spaced(study.certify.images)
    check_images(split, classes=data.classes)
    keys = certification_keys(study, models, ensembles)
    candidates = candidates_of(models, ensembles)
    kinds = {candidate.id: candidate.kind for candidate in candidates}
    works = _works(candidates, split, store.counted(), study, keys=keys, classes=data.classes)
    tally = _Tally(sum(len(work.split) for work in works), study.certify)
    on_progress(tally.progress())

    def on_block(visits: list[Visit]) -> None:
        table = pa.concat_tables(_table(works[one.work].sampling, one, kinds, keys) for one in visits)
        store.save_counts(table)
        tally.add(len(visits), table)
        on_progress(tally.progress())

    visit(store, works, classes=data.classes, cluster=cluster, on_block=on_block)


class _Tally:
    """How far certification is: images, their rate, and the samples that the rule has saved."""

    def __init__(self, images: int, spec: CertifySpec) -> None:
        self._images, self._spec = images, spec
        self._done = self._rows = self._samples = 0
        self._began: float | None = None
        self._before = 0

    def add(self, images: int, table: pa.Table) -> None:
        """Count finished images."""
        self._done += images
        self._rows += table.num_rows
        self._samples += pc.sum(table["samples"]).as_py()
        if self._began is None:
            # Actors take seconds to start; the rate is that of images after the first ones.
            self._began, self._before = time.monotonic(), self._done

    def progress(self) -> Progress:
        """Return the state as the terminal shows it."""
        detail = []
        if self._began is not None and self._done > self._before:
            rate = 60 * (self._done - self._before) / max(time.monotonic() - self._began, 1e-9)
            detail.append(f"{rate:.3g} images/min")
        if self._rows and self._spec.rule.name != "fixed":
            whole = self._rows * (self._spec.n0 + self._spec.n)
            saved = 100 * (1 - self._samples / whole)
            detail.append(
                f"{saved:.0f} % of samples saved" if saved >= 0 else f"{-saved:.0f} % more samples than fixed"
            )
        return Progress("certify", self._done, self._images, "images", ", ".join(detail))


_STREAMS = "selection 0, pilot 6, estimation 1"


def _table(sampling: object, one: Visit, kinds: dict[str, str], keys: dict[str, str]) -> pa.Table:
    """Return one row per classifier: the counts, all that they depend on, and what follows from them."""
    assert isinstance(sampling, CountPass)
    spec, classifiers, found = sampling.certify, sampling.classifiers, one.arrays
    rows = len(classifiers)
    counts = _counts(sampling, one)
    own = derive(counts)
    reached = [int((prefix[:, 0] >= 0).sum()) for prefix in found["prefix"]]
    noise = "numpy Philox, Box-Muller" if one.device == "cpu" else "torch CUDA Philox"
    return pa.table(
        {
            "example": np.full(rows, one.example),
            "label": np.full(rows, one.label),
            "classifier": [classifier.id for classifier in classifiers],
            "kind": [kinds[classifier.id] for classifier in classifiers],
            "sigma": np.full(rows, sampling.sigma),
            "prediction": own.prediction,
            "radius": own.radius,
            "p_a_lower": own.p_a_lower,
            "n_a": own.n_a,
            "selection": list(found["selection"]),
            "pilot": list(found["pilot"]),
            "estimation": list(found["estimation"]),
            "stop": found["stop"].tolist(),
            "samples": counts.samples,
            "marks": [found["marks"][:count] for count in reached],
            "prefix": [prefix[:count].ravel() for prefix, count in zip(found["prefix"], reached, strict=True)],
            "probability_sum": list(found["probability_sum"]),
            "probability_square": list(found["probability_square"]),
            "rule": [spec.rule.name] * rows,
            "rule_parameters": [spec.rule.model_dump_json()] * rows,
            "n0": np.full(rows, spec.n0),
            "n": np.full(rows, spec.n),
            "alpha": np.full(rows, spec.alpha),
            "seed": np.full(rows, spec.seed),
            "streams": [_STREAMS] * rows,
            "block_size": np.full(rows, spec.block_size),
            "batch_size": np.full(rows, int(found["batch_size"])),
            "noise": [noise] * rows,
            "precision": [spec.precision] * rows,
            "device": [one.device] * rows,
            # Of the pass over this image, which all these classifiers share.
            "seconds": np.full(rows, one.seconds),
            "key": [keys[classifier.id] for classifier in classifiers],
        }
    )


def _counts(sampling: CountPass, one: Visit) -> ClassifierCounts:
    """Return the counts at one image with its classifiers in place of examples: they share all that is derived from."""
    spec, found, rows = sampling.certify, one.arrays, len(sampling.classifiers)
    return ClassifierCounts(
        id=f"image {one.example}",
        kind="model",
        sigma=sampling.sigma,
        rule=spec.rule,
        n0=spec.n0,
        n=spec.n,
        alpha=spec.alpha,
        seed=spec.seed,
        example=np.full(rows, one.example),
        label=np.full(rows, one.label),
        selection=found["selection"],
        pilot=found["pilot"],
        estimation=found["estimation"],
        stop=found["stop"],
        marks=found["marks"],
        prefix=found["prefix"],
        probability_sum=found["probability_sum"],
        probability_square=found["probability_square"],
        seconds=one.seconds,
    )
