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
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.summaries import Summary
from rspipe.report.tables import duration, quantity


def cost_figure(summaries: Sequence[Summary], *, sigma: float, cost: str = "training_seconds") -> Figure | None:
    """Return ACR with its interval against the cost of training; None where nothing is certified.

    Args:
        summaries: Of any noise level.
        sigma: The noise level to show.
        cost: `training_seconds` or `passes`.
    """
    if cost not in ("training_seconds", "passes"):
        raise ValueError(f"cost must be training_seconds or passes, got {cost!r}")
    at = [summary for summary in summaries if summary.sigma == sigma]
    if not at:
        return None
    models = label_colours([s.label for s in summaries if s.kind == "model"])
    ensembles = list(dict.fromkeys(s.label for s in summaries if s.kind != "model"))
    title = "training time of all members (s)" if cost == "training_seconds" else "passes of all members in training"
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
                name = summary.label if uniform else f"{summary.label} (solved weights)"
            half = (summary.acr.high - summary.acr.low) / 2
            axes.errorbar(
                float(getattr(summary, cost)),
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
        costs = [float(getattr(summary, cost)) for summary in at]
        spread_axis(axes, costs, which="x", text="{:g}".format if cost == "training_seconds" else quantity)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    named = [summary for summary in results.summaries if not names_seeds(summary.label)]
    figures = drawn(
        {
            f"cost-{name}-sigma-{sigma:g}": cost_figure(named, sigma=sigma, cost=cost)
            for sigma in results.sigmas
            for name, cost in (("time", "training_seconds"), ("passes", "passes"))
        }
    )
    if not figures:
        return None
    content = {
        "trials": len(results.trials),
        "seconds": duration(sum(trial.seconds for trial in results.trials)),
        "passes": quantity(sum(trial.passes for trial in results.trials)),
    }
    return Section("cost", content, figures)
