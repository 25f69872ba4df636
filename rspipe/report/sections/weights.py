"""Section: the ensembles with their members and weights."""

import math
from collections import Counter
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from rspipe.records import EnsembleWeights
from rspipe.report.figures import (
    GREY,
    STYLE,
    draw_legend,
    drawn,
    entry_colours,
    legend_text,
    new_panel,
    on_ground,
    shaded,
)
from rspipe.report.results import Results, members_text
from rspipe.report.section import Section
from rspipe.report.summaries import display_name
from rspipe.report.tables import Cell, Table, adding_up, number, quantity, sigma_cell
from rspipe.smoothing.classifiers import COMBINATIONS


def _weights(record: EnsembleWeights) -> str:
    """Return the weights, with their standard deviations for the choice of calibration images where these are known."""
    weights = [number(weight) for weight in adding_up(record.weights, digits=3)]
    if record.spread:
        weights = [f"{weight} ± {number(error)}" for weight, error in zip(weights, record.spread, strict=True)]
    return ", ".join(weights)


def _objective(value: float) -> Cell:
    return Cell(f"{value:,.4f}" if abs(value) < 1e4 else quantity(value), value) if math.isfinite(value) else Cell("–")


def _pairs_cell(record: EnsembleWeights) -> Cell:
    if record.pairs is None or record.effective_pairs is None:
        return Cell("–")
    return Cell(f"{record.pairs:,}, effectively {record.effective_pairs:,.0f}", record.effective_pairs)


def ensemble_table(results: Results) -> Table:
    """Return one row per ensemble: members, weights, and how good the solver says they are."""
    return Table.of(
        {
            "σ": sigma_cell(record.sigma),
            "ensemble": Cell(display_name(record)),
            "members": Cell(members_text(results, record.members)),
            "weights": Cell(_weights(record)),
            "objective": _objective(record.objective),
            "at uniform weights": _objective(record.uniform_objective),
            "solver": Cell(f"{record.solver}: {record.status}" if record.solver != "none" else record.status),
            "gap": Cell(f"{record.gap:.1e}" if record.gap else "0", record.gap),
            "images × draws": Cell(f"{record.images} × {record.draws}"),
            "pairs": _pairs_cell(record),
        }
        for record in results.ensembles
        if record.id not in results.other_choices
    )


def weights_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the solved weights of all ensembles at a noise level as bars; None where none was solved for.

    Members of one label are lighter one after the other, in the order of their seeds.
    """
    solved = [r for r in results.ensembles if r.sigma == sigma and r.method not in ("uniform", *COMBINATIONS)]
    records = [r for r in solved if r.id not in results.other_choices]
    if not records:
        return None
    styles = entry_colours([model.label for model in results.models], baseline=results.baseline)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(
            f"Solved weights, σ = {sigma:g}", "weight", "", height=max(1.9, 1.3 + 0.42 * len(records))
        )
        named = set()
        for row, record in enumerate(records):
            left, seen = 0.0, Counter[str]()
            shown = adding_up(record.weights, digits=2)
            for member, weight, text in zip(record.members, record.weights, shown, strict=True):
                label = results.model_label(member)
                colour = shaded(styles[label][0] if label in styles else GREY, seen[label])
                name = "_" if label in named else legend_text(label)
                axes.barh(row, weight, left=left, color=colour, edgecolor="white", linewidth=1.2, label=name)
                if weight >= 0.1:
                    axes.text(left + weight / 2, row, f"{text:.2f}", color=on_ground(colour), ha="center",
                              va="center", fontsize=8)  # fmt: skip
                left += weight
                seen[label] += 1
                named.add(label)
        axes.set_yticks(range(len(records)), [_wrapped(r) for r in records])
        axes.tick_params(axis="y", labelsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0.0, 1.0)
        axes.grid(visible=False)
        draw_legend(figure)
    return figure


def _wrapped(record: EnsembleWeights) -> str:
    return display_name(record).replace(" · ", "\n· ").replace(" = ", "\n= ")


def sole_sentence(records: Sequence[EnsembleWeights]) -> str:
    """Return of how many ensembles with solved weights one member has all of it; empty without any."""
    solved = [record for record in records if record.method not in ("uniform", *COMBINATIONS)]
    alone = sum(record.sole_member is not None for record in solved)
    return f"{alone} of {len(solved)} with solved weights are one member alone." if solved else ""


def section(results: Results) -> Section | None:
    """Return the section; None where no ensemble has weights."""
    if not results.ensembles:
        return None
    figures = drawn({f"weights-sigma-{sigma:g}": weights_figure(results, sigma=sigma) for sigma in results.sigmas})
    content = {"ensembles": ensemble_table(results)}
    return Section("weights", content, figures, finding=sole_sentence(results.ensembles))
