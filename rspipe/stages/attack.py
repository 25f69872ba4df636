"""Attacks on certified classifiers of a finished run, in this process."""

from collections.abc import Sequence

import numpy as np
import torch

from rspipe.data.sources import load_dataset
from rspipe.errors import StoreError
from rspipe.execution.board import OnProgress, Progress
from rspipe.records import BoundaryCheck, EnsembleWeights, TrainedModel
from rspipe.report.results import Results
from rspipe.report.summaries import display_name, file_name
from rspipe.smoothing.boundary import AttackSettings, attack_image, changed
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.storage.classifiers import certification_keys, classifier_of, load_network, trained_network
from rspipe.storage.store import Store


def chosen_classifiers(results: Results, names: Sequence[str]) -> list[TrainedModel | EnsembleWeights]:
    """Return the certified classifiers whose names in tables or in a study file, or ids, contain one of `names`.

    Without names: at each noise level the model and the ensemble with the largest ACR.

    Raises:
        StoreError: There are none.
    """
    certified = [(record, c) for record in results.records if (c := results.certificates(record.id)) is not None]
    if names:
        spelt = [(one, (display_name(one), file_name(one), one.id)) for one, _ in certified]
        chosen = [one for one, spellings in spelt if any(name in text for name in names for text in spellings)]
    else:
        by_acr = sorted(certified, key=lambda pair: float(pair[1].credited_radius.mean()))
        best = {(c.sigma, c.kind): record for record, c in by_acr}
        chosen = [best[level_and_kind] for level_and_kind in sorted(best, reverse=True)]
    if not chosen:
        known = ", ".join(dict.fromkeys(display_name(record) for record, _ in certified))
        raise StoreError(
            f"no certified classifier is called {', '.join(names) or 'anything'}; there are: {known or '-'}"
        )
    return chosen


def attack_classifier(
    store: Store,
    results: Results,
    record: TrainedModel | EnsembleWeights,
    *,
    images: int,
    factors: Sequence[float],
    settings: AttackSettings,
    device: torch.device,
    on_progress: OnProgress,
) -> BoundaryCheck:
    """Attack a classifier around test images that it certified correctly; store and return the predictions.

    Args:
        store: Of a run.
        results: Of its study.
        record: The classifier.
        images: How many images, at most, evenly spaced over those that were certified correctly.
        factors: Distances, in units of each image's radius.
        settings: Strength of the attacks and certainty of the predictions.
        device: Where the networks run.
        on_progress: Gets the number of images done.

    Raises:
        StoreError: No image was certified correctly with a radius above 0; or the test images are others.
    """
    certified = results.certificates(record.id)
    assert certified is not None, record.id
    rows = _evenly(certified, images)
    data = load_dataset(results.study.data)
    store.check_test_part(data.test.identity())
    classifier, members = classifier_of(record)
    precision = results.study.certify.precision
    deployed = [load_network(store, one, classes=data.classes, device=device, precision=precision) for one in members]
    # What is deployed has no gradient.
    differentiable = [trained_network(store, one, classes=data.classes, device=device) for one in members]
    position_of = {int(example): position for position, example in enumerate(data.test.index.tolist())}
    predictions, distances = [], []
    for done, row in enumerate(rows.tolist()):
        on_progress(Progress("attack", done, len(rows), "images", display_name(record)))
        example, label, radius = int(certified.example[row]), int(certified.label[row]), certified.radius[row]
        attacked = attack_image(
            deployed,
            differentiable,
            classifier,
            data.test.images[position_of[example]].to(device),
            label,
            distances=[float(factor * radius) for factor in factors],
            sigma=certified.sigma,
            example=example,
            settings=settings,
        )
        predictions.append(np.stack([attacked.predictions, changed(attacked.predictions, label)]))
        distances.append(attacked.distances / radius)
    on_progress(Progress("attack", len(rows), len(rows), "images", display_name(record)))
    classes, other = np.stack(predictions, axis=1)
    abstained = classes == ABSTAIN
    ever = np.logical_or.accumulate(other.astype(bool), axis=1)
    keys = certification_keys(results.study, results.models, results.ensembles)
    check = BoundaryCheck(
        classifier=record.id,
        name=display_name(record),
        sigma=certified.sigma,
        key=keys[record.id],
        images=len(rows),
        steps=settings.steps,
        draws=settings.draws,
        n=settings.n,
        alpha=settings.alpha,
        factors=tuple(float(factor) for factor in factors),
        same=tuple(int(count) for count in (~abstained & (other == 0)).sum(0)),
        abstained=tuple(int(count) for count in abstained.sum(0)),
        changed=tuple(int(count) for count in other.sum(0)),
        ever_changed=tuple(int(count) for count in ever.sum(0)),
        distance=tuple(float(mean) for mean in np.mean(distances, axis=0)),
    )
    store.save_boundary_check(check)
    return check


def _evenly(certified: CertifiedClassifier, images: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return rows of correct certificates with a radius, evenly spaced."""
    rows = np.flatnonzero(certified.credited_radius > 0)
    if rows.size == 0:
        raise StoreError(f"{certified.id} has no correct certificate with a radius; there is nothing to attack")
    return np.asarray(rows[np.unique(np.linspace(0, rows.size - 1, min(images, rows.size)).round().astype(int))])
