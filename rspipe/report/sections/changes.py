"""Section: the change of ACR that the calibration images predict of an ensemble, beside the measured one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from rspipe.arrays import FloatArray
from rspipe.ensembles.agreement import DRAWS, agreement
from rspipe.ensembles.diagnostics import MemberMargins, gaussian_change, predicted_changes, variance_share
from rspipe.ensembles.members import names_seeds
from rspipe.records import EnsembleWeights, Interval
from rspipe.report.differences import Group
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.summaries import display_name
from rspipe.report.tables import (
    Cell,
    Table,
    bracketed,
    change_cell,
    interval_cell,
    number,
    number_cell,
    percent_cell,
)
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.smoothing.inference import contrast


def _reason(predicted: Interval, gaussian: Interval, shares: FloatArray, *, counted: bool) -> str:
    """Return why an ensemble lost, from predicted changes and its members' variances in units of their mean margins."""
    noisy = "a member has far noisier margins than the best one, and the average inherits them"
    if shares.max() > 2 * shares.min():
        return noisy
    if counted and predicted.estimate < 0 <= gaussian.estimate:
        return (
            "the calibration images predict it, though the variance of the margins falls: margins are not Gaussian, "
            "and members with large ones can outvote those that are right more often"
        )
    if predicted.estimate < 0:
        return "the calibration images predict it: the variance of the margins does not fall enough"
    if predicted.low <= 0:
        return f"the calibration images predict no clear change ({bracketed(predicted, signed=True)})"
    return f"the calibration images do not predict it ({bracketed(predicted, signed=True)}); the test images are others"


@dataclass(frozen=True)
class _Changes:
    """Of one ensemble: changes of ACR against the mean of its members."""

    record: EnsembleWeights
    margins: MemberMargins
    """Of its members and others."""
    measured: Group
    """Credits on the test images, less the mean of the members'."""
    predicted: FloatArray
    """[calibration image]."""
    gaussian: FloatArray
    """[calibration image] as if margins were Gaussian."""


def _changes(results: Results, *, sigma: float) -> list[_Changes]:
    changes = []
    for margins in results.margins_at(sigma):
        measured = [*_measured(results, margins)]
        if not measured:
            continue
        moments = replace(margins, calibration=replace(margins.calibration, margins=None, label_probability=None))
        ensembles = [([*map(margins.members.index, record.members)], record.weights) for record, _ in measured]
        predicted = predicted_changes(margins.calibration, ensembles, sigma=sigma)
        for (record, group), change in zip(measured, predicted, strict=True):
            gaussian = gaussian_change(moments.of(record.members), record.weights, sigma=sigma)
            changes.append(_Changes(record, margins, group, change, gaussian))
    return changes


def _measured(results: Results, margins: MemberMargins) -> Iterator[tuple[EnsembleWeights, Group]]:
    """Yield the ensembles of one average whose members' margins are known, each less the mean of its members."""
    for record, classifier in results.ensembles_at(margins.sigma):
        members = results.certified_members(record)
        if record.method in COMBINATIONS or record.average != margins.average:
            continue
        if not members or not {*record.members} <= {*margins.members}:
            continue
        group = Group.of([classifier, *members])
        if group.examples.size:
            yield record, replace(group, credits=group.credits[:1] - group.credits[1:].mean(0))


def agreement_sentences(
    results: Results, changes: Sequence[_Changes], predicted: Sequence[FloatArray], *, name: str
) -> Iterator[str]:
    """Yield how predicted [ensemble][calibration image] and measured changes agree."""
    examples = reduce(np.intersect1d, [one.measured.examples for one in changes])
    # Of these, ensembles of one average have their calibration images in common.
    alike = {values.size for values in predicted}
    if examples.size < 2 or len(alike) > 1 or min(alike) < 2:
        return
    measured = np.concatenate([one.measured.on(examples).credits for one in changes])
    members = [frozenset(map(results.member, one.record.members)) for one in changes]
    one = agreement(np.stack(predicted), measured, members)
    if one.models is None:
        few = "fewer than three ensembles"
        why = few if one.ensembles < 3 else "the predictions differ by hardly more than their noise"
        yield f"{name}: {why}, so whether predictions hold in size is open."
    else:
        again = "is not judged" if one.procedures is None else f"is {bracketed(one.procedures, digits=2)}"
        yield (
            f"{name}: measured over predicted change is {bracketed(one.models, digits=2)} for these models (1 is "
            f"right); trained again it {again}. The correlation is {number(one.correlation, digits=2)} over "
            f"{one.ensembles} ensembles."
        )
    yield (
        f"{name}: {one.beyond} of {one.ensembles} are off by more than 1.96 standard errors, where "
        f"{0.05 * one.ensembles:.1f} would be if all were right (as many or more have probability "
        f"{'at most ' if one.p * (DRAWS + 1) < 1.5 else ''}{one.p:.2g})."
    )


def change_level(results: Results, *, sigma: float) -> Level | None:
    """Return predicted and measured changes of ACR at a noise level, and how they agree; None without any."""
    changes = _changes(results, sigma=sigma)
    if not changes:
        return None
    counted = all(margins.calibration.margins is not None for margins in results.margins_at(sigma))
    rows, sentences, open_ = [], [], 0
    for one in changes:
        if names_seeds(one.record.label):
            # One of many choices of seeds: it counts for the agreement.
            continue
        measured = contrast(
            one.measured.mean_credits, (), population=results.population(one.measured.examples.size)
        ).models
        predicted, gaussian = (contrast(values, ()).models for values in (one.predicted, one.gaussian))
        name, calibration = display_name(one.record), one.margins.of(one.record.members)
        rows.append(
            {
                "ensemble": Cell(name),
                **({"predicted [95 %]": interval_cell(predicted, signed=True, digits=4)} if counted else {}),
                **(
                    {"saturated": percent_cell(calibration.saturated(np.asarray(one.record.weights)))}
                    if counted
                    else {}
                ),
                "measured [95 %]": change_cell(measured),
                "as if Gaussian [95 %]": interval_cell(gaussian, signed=True, digits=4),
                "variance": number_cell(variance_share(calibration, one.record.weights), digits=2),
            }
        )
        open_ += measured.low <= 0 <= measured.high
        if measured.high < 0:
            each = np.eye(len(one.record.members)).tolist()
            alone = np.array([variance_share(calibration, weights) for weights in each])
            reason = _reason(predicted, gaussian, alone, counted=counted)
            sentences.append(f"{name} has a lower ACR than its members on average: {reason}.")
    if not rows:
        return None
    if not sentences:
        unsure = f"; {open_} cannot be told apart from their members" if open_ else ""
        sentences.append(f"For these models, no ensemble is certainly lower than its members on average{unsure}.")
    if counted:
        sentences += agreement_sentences(results, changes, [one.predicted for one in changes], name="Predicted")
    sentences += agreement_sentences(results, changes, [one.gaussian for one in changes], name="As if Gaussian")
    return Level(sigma, Table.of(rows), tuple(sentences))


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is predicted."""
    levels = [level for sigma in results.sigmas if (level := change_level(results, sigma=sigma)) is not None]
    if not levels:
        return None
    calibration = results.margins[0].calibration
    return Section("changes", {"levels": levels, "draws": calibration.draws, "largest": calibration.largest_radius})
