"""Section: the change of ACR that the calibration images predict of an ensemble, beside the measured one."""

import numpy as np

from rspipe.arrays import FloatArray
from rspipe.ensembles.diagnostics import gaussian_change, predicted_change, variance_share
from rspipe.ensembles.members import names_seeds
from rspipe.records import Interval
from rspipe.report.differences import difference_of_acr
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.summaries import display_name
from rspipe.report.tables import Cell, Table, bracketed, change_cell, interval_cell, number_cell, percent_cell
from rspipe.smoothing.classifiers import COMBINATIONS


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


def change_level(results: Results, *, sigma: float) -> Level | None:
    """Return predicted and measured changes of ACR at a noise level, and why ensembles lost; None without any."""
    by_average = {margins.average: margins for margins in results.margins_at(sigma)}
    rows: list[dict[str, Cell]] = []
    sentences: list[str] = []
    agree = {"predicted": 0, "gaussian": 0}
    counted = all(margins.calibration.margins is not None for margins in by_average.values())
    for record, classifier in results.ensembles_at(sigma):
        margins, members = by_average.get(record.average), results.certified_members(record)
        if names_seeds(record.label) or record.method in COMBINATIONS or margins is None:
            continue
        if not members or not {*record.members} <= {*margins.members}:
            continue
        calibration = margins.of(record.members)
        measured = difference_of_acr([classifier], members)
        if measured is None:
            continue
        predicted = predicted_change(calibration, record.weights, sigma=sigma)
        gaussian = gaussian_change(calibration, record.weights, sigma=sigma)
        for name, one in (("predicted", predicted), ("gaussian", gaussian)):
            agree[name] += one.low <= measured.high and measured.low <= one.high
        share = variance_share(calibration, record.weights)
        rows.append(
            {
                "ensemble": Cell(display_name(record)),
                **({"predicted [95 %]": interval_cell(predicted, signed=True)} if counted else {}),
                **({"saturated": percent_cell(calibration.saturated(np.asarray(record.weights)))} if counted else {}),
                "measured [95 %]": change_cell(measured),
                "as if Gaussian [95 %]": interval_cell(gaussian, signed=True),
                "variance": number_cell(share, digits=2),
            }
        )
        if measured.high < 0:
            alone = [variance_share(calibration, one.tolist()) for one in np.eye(len(record.members))]
            reason = _reason(predicted, gaussian, np.asarray(alone), counted=counted)
            sentences.append(f"{display_name(record)} has a lower ACR than its members on average: {reason}.")
    if not rows:
        return None
    if not sentences:
        sentences.append("No ensemble has a significantly lower ACR than its members on average.")
    if counted:
        sentences.append(
            f"Prediction and measurement have overlapping intervals for {agree['predicted']} of {len(rows)} ensembles; "
            f"for {agree['gaussian']} if margins are taken for Gaussian."
        )
    else:
        sentences.append(
            f"Gaussian margins and measurement have overlapping intervals for {agree['gaussian']} of {len(rows)} "
            "ensembles."
        )
    return Level(sigma, Table.of(rows), tuple(sentences))


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is predicted."""
    levels = [level for sigma in results.sigmas if (level := change_level(results, sigma=sigma)) is not None]
    return Section("changes", {"levels": levels}) if levels else None
