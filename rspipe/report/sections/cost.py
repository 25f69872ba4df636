"""Section: ACR against the cost of training."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rspipe.ensembles.members import names_seeds
from rspipe.report.figures import (
    MARKERS,
    STYLE,
    draw_legend,
    drawn,
    label_colours,
    legend_text,
    new_panel,
    spread_axis,
)
from rspipe.report.names import short_name
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.summaries import Summary
from rspipe.report.tables import duration, quantity


def cost_figure(summaries: Sequence[Summary], *, sigma: float) -> Figure | None:
    """Return ACR with its interval against the passes of training; None where nothing certified was trained.

    Checkpoints that were loaded have no cost here.

    Args:
        summaries: Of any noise level.
        sigma: The noise level to show.
    """
    at = [summary for summary in summaries if summary.sigma == sigma and summary.passes > 0]
    if not at:
        return None
    models = label_colours([s.label for s in summaries if s.kind == "model"])
    ensembles = list(dict.fromkeys(s.label for s in summaries if s.kind != "model"))
    title = "passes of all members in training (forward and backward, of one noisy image)"
    with mpl.rc_context(STYLE):
        entries = len({(summary.label, summary.weighting == "uniform") for summary in at})
        figure, axes = new_panel(f"ACR against cost, σ = {sigma:g}", title, "ACR", height=3.4 + 0.1 * entries)
        named = set()
        for summary in at:
            uniform = summary.weighting in ("", "uniform")
            if summary.kind == "model":
                colour, marker, name = models[summary.label][0], "o", summary.label
            else:
                position = ensembles.index(summary.label)
                colour, marker = "#333333", MARKERS[position % len(MARKERS)]
                name = short_name(summary.label) + ("" if uniform else " · solved")
            half = (summary.acr.high - summary.acr.low) / 2
            axes.errorbar(
                float(summary.passes),
                summary.acr.estimate,
                yerr=half if np.isfinite(half) else None,
                fmt=marker,
                color=colour,
                markerfacecolor="white" if summary.kind != "model" and uniform else colour,
                markersize=5.5,
                elinewidth=0.6,
                label="_" if name in named else legend_text(name),
            )
            named.add(name)
        costs = [float(summary.passes) for summary in at]
        spread_axis(axes, costs, which="x", text=quantity)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    named = [summary for summary in results.summaries if not names_seeds(summary.label)]
    figures = drawn({f"cost-sigma-{sigma:g}": cost_figure(named, sigma=sigma) for sigma in results.sigmas})
    if not figures:
        return None
    content = {
        "trials": len(results.trials),
        "seconds": duration(sum(trial.seconds for trial in results.trials)),
        "passes": quantity(sum(trial.passes for trial in results.trials)),
    }
    return Section("cost", content, figures)
