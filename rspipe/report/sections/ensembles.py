"""What the report says of ensembles: the paper's table, why they help or hurt, and what more members would give."""

from collections.abc import Iterator, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rspipe.arrays import FloatArray
from rspipe.ensembles.choice import prunable
from rspipe.ensembles.diagnostics import (
    MemberMargins,
    NoiseStructure,
    gaussian_change,
    noise_structure,
    predicted_change,
    variance_share,
)
from rspipe.ensembles.members import names_seeds
from rspipe.errors import SolverError
from rspipe.records import EnsembleWeights, Interval, TrainedModel
from rspipe.report.differences import difference_of_means, group
from rspipe.report.figures import STYLE, draw_legend, legend_text, model_colours, new_panel
from rspipe.report.page import figure_grid, paragraph, part_of, table_html
from rspipe.report.results import Results, certified_ensembles, certified_models, display_name
from rspipe.report.sections.ensemble_sizes import limits_part, sizes_part
from rspipe.report.tables import TONES, Cell, Part, Table, bracketed, change_cell, interval_cell, number, number_cell
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import average_certified_radius, mean_interval, verdict


def _groups(results: Results, sigma: float) -> dict[tuple[str, ...], list[tuple[EnsembleWeights, CertifiedClassifier]]]:
    """Return certified ensembles by members and average, those that the study names in the paper's words."""
    groups: dict[tuple[str, ...], list[tuple[EnsembleWeights, CertifiedClassifier]]] = {}
    for record, classifier in certified_ensembles(results, sigma=sigma):
        if not names_seeds(record.label):
            groups.setdefault((record.average, *record.members), []).append((record, classifier))
    return groups


_KINDS = {"uniform": "average", "mme": "MME", "consensus": "consensus"}


def combination_table(results: Results, *, sigma: float) -> Table:
    """Return the paper's table 3: a single model, and average, MME and solved weights of the same members."""
    certified = {c.id: c for c in results.certified if c.sigma == sigma}
    running = max(1, sum(len(models) for models in certified_models(results, sigma=sigma).values()))

    def row(
        of: str, kind: str, classifiers: Sequence[CertifiedClassifier], members: int, change: Interval | None
    ) -> dict[str, Cell]:
        side = group(classifiers)
        radii = side.credit(side.examples())
        seconds = float(np.mean([c.seconds / c.example.size for c in classifiers])) * members / running
        accuracy = float(np.mean([np.mean(c.correct) for c in classifiers]))
        return {
            "members": Cell(of),
            "combination": Cell(kind),
            "ACR [95 %]": interval_cell(mean_interval(radii) if radii.size else None),
            "accuracy": Cell(number(accuracy), accuracy),
            "less the average [95 %]": change_cell(change),
            "certification of an image": Cell(f"{seconds:.2f} s", seconds),
        }

    def rows() -> Iterator[dict[str, Cell]]:
        for alike in _groups(results, sigma).values():
            first = alike[0][0]
            uniform = [c for record, c in alike if record.method == "uniform"]
            if len(alike) < 2 or not uniform or any(member not in certified for member in first.members):
                continue
            name = first.label if first.average == "probabilities" else f"{first.label} ({first.average})"
            single = [certified[member] for member in first.members]
            yield row(name, "single (mean of members)", single, 1, difference_of_means(single, uniform))
            for record, classifier in alike:
                change = None if record.method == "uniform" else difference_of_means([classifier], uniform)
                kind = _KINDS.get(record.method, f"weights {record.method}")
                yield row(name, kind, [classifier], len(record.members), change)

    return Table.of(rows())


def _noise_rows(structure: NoiseStructure, average: str) -> Iterator[dict[str, Cell]]:
    pairs = [(name, name) for name in structure.models] + [pair for pair in structure.covariance if pair[0] != pair[1]]
    for a, b in pairs:
        name = f"{a}, within" if a == b else f"{a} and {b}, across"
        mixing = None if a == b else structure.mixing.get((a, b))
        back = None if a == b else structure.mixing.get((b, a))
        models = f"{structure.models[a]}" if a == b else f"{structure.models[a]} + {structure.models[b]}"
        yield {
            "margins of": Cell(average),
            "methods": Cell(name),
            "models": Cell(models),
            "variance of one [95 %]": interval_cell(structure.variance[a] if a == b else None),
            "covariance of two [95 %]": interval_cell(structure.covariance.get((a, b))),
            "share that stays [95 %]": interval_cell(structure.floor.get(a) if a == b else None),
            "mixed less two of the first [95 %]": _lower_is_better(mixing),
            "mixed less two of the second [95 %]": _lower_is_better(back),
        }


def _lower_is_better(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–")
    tone = {"lower": "higher", "higher": "lower"}.get(verdict(interval), "not significant")
    return Cell(bracketed(interval, signed=True), interval.estimate, tone=TONES[tone])


def _methods(results: Results, margins: MemberMargins) -> list[str]:
    labels = {model.id: model.label for model in results.models}
    return [labels.get(member, member) for member in margins.members]


def _noise(results: Results, at: Sequence[MemberMargins]) -> Part | None:
    rows, sentences = [], []
    for margins in at:
        structure = noise_structure(margins.calibration, _methods(results, margins))
        if structure is None:
            continue
        rows += list(_noise_rows(structure, margins.average))
        lower = [f"{a} + {b} against {a} x2" for (a, b), one in structure.mixing.items() if one.high < 0]
        higher = [f"{a} + {b} against {a} x2" for (a, b), one in structure.mixing.items() if one.low > 0]
        for word, found in (("lowers", lower), ("raises", higher)):
            if found:
                sentences.append(f"Of {margins.average}: mixing {word} the variance for {', '.join(found)}.")
    if not rows:
        return None
    return Part(
        "Noise within and across methods and architectures",
        Table.of(rows),
        tuple(sentences),
        "On the calibration images that all members together get right: variance and covariance over noise of the "
        "margin over the strongest competitor, in units of its mean, with bootstrap intervals over images. The share "
        "that stays is covariance over variance: what no number of models of the method averages away. A covariance "
        "within a method cannot exceed the variance; whether mixing helps is read from the last columns, where less "
        "variance is better.",
    )


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


def _changes(results: Results, at: Sequence[MemberMargins], *, sigma: float) -> Part | None:
    certified = {c.id: c for c in results.certified if c.sigma == sigma}
    by_average = {margins.average: margins for margins in at}
    rows: list[dict[str, Cell]] = []
    sentences: list[str] = []
    agree = {"predicted": 0, "gaussian": 0}
    counted = all(margins.calibration.margins is not None for margins in at)
    for record, classifier in certified_ensembles(results, sigma=sigma):
        known = by_average.get(record.average)
        if names_seeds(record.label) or record.method in COMBINATIONS or known is None:
            continue
        if not {*record.members} <= {*known.members} & certified.keys():
            continue
        calibration = known.of(record.members)
        measured = difference_of_means([classifier], [certified[member] for member in record.members])
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
                "measured [95 %]": change_cell(measured),
                "as if Gaussian [95 %]": interval_cell(gaussian, signed=True),
                "variance": Cell(number(share, digits=2), share),
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
    return Part(
        "Predicted and measured change of ACR",
        Table.of(rows),
        tuple(sentences),
        "ACR less the mean ACR of the members. Predicted: radii by the share of noise draws at which the ensemble is "
        "right on the calibration images, which sees no more than so many draws show. Measured: on the test images. As "
        "if Gaussian: from the moments of the margins alone, what esbrs_acr maximizes. Variance: that of the margin of "
        "the ensemble in units of its mean, over a member's, on average.",
    )


def _pruning(results: Results, at: Sequence[MemberMargins]) -> list[str]:
    names = {model.id: display_name(model) for model in results.models}
    said = []
    for margins in at:
        if len(margins.members) < 2:
            continue
        try:
            found = prunable(margins.calibration)
        except (ValueError, SolverError) as error:
            said.append(f"Of {margins.average}: no weights for all {len(margins.members)} members, since {error}.")
            continue
        drop = [names.get(member, member) for member, out in zip(margins.members, found, strict=True) if out]
        if drop:
            saved = 100 * len(drop) / len(margins.members)
            said.append(
                f"Of {margins.average}: among all {len(margins.members)} members neither esbrs_ratio nor esbrs_acr "
                f"gives any weight to {', '.join(drop)}; an ensemble of all could drop them and save {saved:.0f} % of "
                "its certification."
            )
        else:
            said.append(f"Of {margins.average}: no member is without weight in an ensemble of all; none need go.")
    return said


def _cap(results: Results, *, sigma: float) -> str | None:
    certify = results.study.certify
    cap = radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha)
    at = [c for c in results.certified if c.sigma == sigma]
    if not at:
        return None
    best = max(at, key=lambda c: average_certified_radius(c.radius, c.correct))
    acr, accuracy = average_certified_radius(best.radius, best.correct), float(np.mean(best.correct))
    return (
        f"n = {certify.n:,} samples at α = {certify.alpha:g} prove no radius beyond {number(cap)}, so the ACR of any "
        f"ensemble is at most its accuracy times that: {number(accuracy * cap)} for the classifier with the largest "
        f"ACR, {number(acr)}, which is {100 * acr / (accuracy * cap):.0f} % of it."
    )


def ensemble_parts(results: Results, *, sigma: float) -> list[Part]:
    """Return what there is to say of the ensembles at a noise level, in the order of the report."""
    at = [margins for margins in results.margins if margins.sigma == sigma]
    table = combination_table(results, sigma=sigma)
    combinations = Part(
        "One model, average, MME and solved weights",
        table,
        (),
        "Accuracy: certified at radius 0. Certification of an image: the members' share of the time of the pass, which "
        "all classifiers of the noise level have in common; what combining costs beside the members is part of it.",
    )
    rest = [
        _noise(results, at),
        _changes(results, at, sigma=sigma),
        sizes_part(results, sigma=sigma),
        limits_part(results, at, sigma=sigma),
    ]
    said = [*_pruning(results, at), *filter(None, [_cap(results, sigma=sigma) if at else None])]
    parts = [combinations if table.rows else None, *rest]
    if said:
        parts.append(Part("Members to drop, and the cap", Table.of([]), tuple(said)))
    return [part for part in parts if part is not None]


def ensemble_table(ensembles: Sequence[EnsembleWeights], models: Sequence[TrainedModel]) -> Table:
    """Return one row per ensemble: members, weights, and how good the solver says they are."""
    known = {model.id: model for model in models}

    def members(record: EnsembleWeights) -> str:
        """Return members in their order, the seeds of a label together."""
        named = [known.get(member) for member in record.members]
        said: list[tuple[str, list[str]]] = []
        for member, model in zip(record.members, named, strict=True):
            if model is not None and said and said[-1][0] == model.label:
                said[-1][1].append(str(model.seed))
            else:
                said.append((model.label, [str(model.seed)]) if model is not None else (member, []))
        plural = {0: "", 1: ", seed "}
        return "; ".join(f"{label}{plural.get(len(seeds), ', seeds ')}{', '.join(seeds)}" for label, seeds in said)

    return Table.of(
        {
            "σ": number_cell(record.sigma, digits=2),
            "ensemble": Cell(display_name(record)),
            "members": Cell(members(record)),
            "weights": Cell(", ".join(number(weight) for weight in record.weights)),
            "objective": Cell(f"{record.objective:.5g}", record.objective),
            "at uniform weights": Cell(f"{record.uniform_objective:.5g}", record.uniform_objective),
            "solver": Cell(f"{record.solver}: {record.status}" if record.solver != "none" else record.status),
            "gap": Cell(f"{record.gap:.1e}" if record.gap else "0", record.gap),
            "images × draws": Cell(f"{record.images} × {record.draws}"),
        }
        for record in ensembles
    )


_MOST_BARS = 12
"""Ensembles whose weights are drawn where all are subsets."""


def weights_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the solved weights of all ensembles at a noise level as bars; None where none was solved for."""
    solved = [r for r in results.ensembles if r.sigma == sigma and r.method not in ("uniform", *COMBINATIONS)]
    records = [r for r in solved if not names_seeds(r.label)] or solved[:_MOST_BARS]
    if not records:
        return None
    trained = {model.id: model for model in results.models}
    styles = model_colours(results.models)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(
            f"Solved weights, σ = {sigma:g}", "weight", "", height=max(1.9, 1.3 + 0.42 * len(records))
        )
        named = set()
        for row, record in enumerate(records):
            left = 0.0
            for member, weight in zip(record.members, record.weights, strict=True):
                label = trained[member].label if member in trained else member
                colour = styles[label][0] if label in styles else "#888888"
                name = "_" if label in named else legend_text(label)
                axes.barh(row, weight, left=left, color=colour, edgecolor="white", linewidth=1.2, label=name)
                if weight >= 0.08:
                    axes.text(left + weight / 2, row, f"{weight:.2f}", color="white", ha="center", va="center",
                              fontsize=8)  # fmt: skip
                left += weight
                named.add(label)
        axes.set_yticks(range(len(records)), [_wrapped(r) for r in records])
        axes.tick_params(axis="y", labelsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.0)
        axes.grid(visible=False)
        draw_legend(figure)
    return figure


def _wrapped(record: EnsembleWeights) -> str:
    label, how = record.label.replace(" + ", " +\n"), display_name(record)[len(record.label) :].strip()
    return f"{label}\n{how}"


def ensembles_part(results: Results, figures: dict[str, Figure]) -> str:
    if not results.ensembles:
        return ""
    return (
        table_html(ensemble_table(results.ensembles, results.models), name="ensemble")
        + figure_grid(figures, "weights-")
        + paragraph(
            "Weights are chosen on the calibration images and are the same for every test image. esbrs_ratio: pooled "
            "mean margin over its standard deviation, larger is better. esbrs_paper: weighted variance of the margins, "
            "smaller is better. esbrs_acr and auto: ACR in units of σ if margins were Gaussian, larger is better. "
            "sween: log-loss under noise, smaller is better. Gap: how far, relatively, the solved program can be from "
            "its optimum; of sween in nats; of esbrs_acr how much the linearized objective could still rise: a local "
            "optimum.",
            style="soft",
        )
    )


def ensembling_part(results: Results, figures: dict[str, Figure]) -> str:
    sigmas = sorted({c.sigma for c in results.certified})
    parts = [(sigma, part) for sigma in sigmas for part in ensemble_parts(results, sigma=sigma)]
    content = "".join(part_of(part, title=f"{part.title}, σ = {sigma:g}") for sigma, part in parts)
    return content + figure_grid(figures, "size-", "landscape-")
