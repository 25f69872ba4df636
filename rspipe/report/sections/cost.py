"""Section: ACR against the cost of training."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rspipe.report.figures import STYLE, draw_legend, drawn, entry_colours, legend_text, new_panel, spread_axis
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.standings import Entry, entries
from rspipe.report.tables import duration, quantity


def _passes(results: Results, entry: Entry) -> float:
    """Return the passes of training all models of a classifier, averaged over an entry's classifiers."""
    by_id = {summary.id: summary.passes for summary in results.summaries}
    return float(np.mean([by_id[one.id] for one in entry.classifiers]))


def _kind(entry: Entry) -> str:
    if entry.kind == "model":
        return entry.name
    if entry.composition is None:
        return "cascade"
    return "ensemble, plain average" if entry.composition.method == "uniform" else "ensemble, solved or combined"


def cost_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return mean ACR against the passes of training; None where nothing certified was trained, as loaded checkpoints.

    The best ensemble and the best method have their names beside them.
    """
    found = [(one, _passes(results, one)) for one in entries(results, sigma)]
    found = [(one, passes) for one, passes in found if passes > 0]
    if not found:
        return None
    colours = entry_colours([model.label for model in results.models], baseline=results.baseline)
    fills = {"ensemble, plain average": "none", "ensemble, solved or combined": "#777777", "cascade": "#777777"}
    with mpl.rc_context(STYLE):
        title = "passes in training of all members (forward and backward)"
        figure, axes = new_panel(f"ACR against cost, σ = {sigma:g}", title, "ACR", height=3.6)
        named = set[str]()
        for one, passes in found:
            kind = _kind(one)
            colour = colours[one.name][0] if one.kind == "model" else "#777777"
            marker = "o" if one.kind == "model" else "D" if one.kind == "cascade" else "s"
            label = "_" if kind in named else legend_text(kind)
            fill = fills.get(kind, colour)
            axes.plot(passes, one.acr, marker, color=colour, markerfacecolor=fill, markersize=6, ls="none", label=label)
            named.add(kind)
        for kind in ("ensemble", "model"):
            best = next(((one, passes) for one, passes in found if one.kind == kind), None)
            if best is not None:
                one, passes = best
                place = (passes, one.acr)
                axes.annotate(one.name, place, (-6, 5), textcoords="offset points", ha="right", fontsize=7.5)
        spread_axis(axes, [passes for _, passes in found], which="x", text=quantity)
        axes.margins(y=0.12)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified, or nothing was trained here."""
    figures = drawn({f"cost-sigma-{sigma:g}": cost_figure(results, sigma=sigma) for sigma in results.sigmas})
    if not figures:
        return None
    passes = [summary.passes for summary in results.summaries if summary.passes]
    content = {
        "trials": len(results.trials),
        "seconds": duration(sum(trial.seconds for trial in results.trials)),
        "passes": quantity(sum(trial.passes for trial in results.trials)),
    }
    finding = f"{quantity(min(passes))} to {quantity(max(passes))} passes in training."
    return Section("cost", content, figures, finding=finding)
