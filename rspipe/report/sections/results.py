"""Section: the certified classifiers, their curves and their costs."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from rspipe.arrays import FloatArray
from rspipe.report.figures import (
    LINE_STYLES,
    MARKERS,
    STYLE,
    draw_legend,
    label_colours,
    legend_text,
    model_colours,
    new_panel,
    spread_axis,
)
from rspipe.report.page import element, figure_grid, paragraph, table_html
from rspipe.report.results import Results, baseline_label, certified_ensembles, certified_models, display_name
from rspipe.report.summaries import SeedAverage, Summary, average_over_seeds
from rspipe.report.tables import Cell, Table, duration, estimate_cell, number_cell, percent_cell, quantity
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import accuracy_band, certified_accuracy


def result_table(summaries: Sequence[Summary]) -> Table:
    """Return one row per certified classifier; the noise level is a column where there are several.

    Radii that no classifier reaches are left out.
    """
    several = len({summary.sigma for summary in summaries}) > 1
    reached = {r for one in summaries for r, share in zip(one.radii, one.certified_accuracy, strict=True) if share}

    def row(summary: Summary) -> dict[str, Cell]:
        sigma = {"σ": number_cell(summary.sigma, digits=2)} if several else {}
        accuracy = zip(summary.radii, summary.certified_accuracy, strict=True)
        return {
            **sigma,
            "classifier": Cell(summary.name),
            "ACR ± 95 %": estimate_cell(summary.acr),
            **{f"CA({radius:g})": number_cell(share) for radius, share in accuracy if radius in reached or not reached},
            "abstained": percent_cell(summary.abstained),
            "saturated": percent_cell(summary.saturated),
            "two-sided ACR": number_cell(summary.acr_two_sided),
            "samples": Cell(quantity(summary.samples), summary.samples),
            "training": Cell(duration(summary.training_seconds), summary.training_seconds),
            "passes": Cell(quantity(summary.passes), summary.passes),
        }

    return Table.of(map(row, summaries))


def seed_table(averages: Sequence[SeedAverage]) -> Table:
    """Return one row per label and noise level, averaged over seeds."""
    return Table.of(
        {
            "σ": number_cell(average.sigma, digits=2),
            "method": Cell(average.label),
            "seeds": number_cell(average.seeds, digits=0),
            "mean ACR ± 95 %": estimate_cell(average.acr),
            "lowest seed": number_cell(average.lowest),
            "highest seed": number_cell(average.highest),
            "training of one": Cell(duration(average.training_seconds), average.training_seconds),
            "passes of one": Cell(quantity(average.passes), average.passes),
        }
        for average in averages
    )


def _draw_curve(
    axes: Axes,
    classifiers: Sequence[CertifiedClassifier],
    grid: FloatArray,
    *,
    name: str,
    colour: str,
    line: str,
    width: float = 1.6,
    band: bool = True,
) -> None:
    """Draw certified accuracy, averaged over classifiers, with pointwise 95 % Wilson intervals over images.

    For an average over classifiers the interval is conservative: its variance is at most the binomial one.
    """
    share = np.mean([certified_accuracy(c.radius, c.correct, grid) for c in classifiers], axis=0)
    # Certified accuracy is constant from the left up to each radius at which an image is lost.
    axes.plot(grid, share, line, drawstyle="steps-pre", color=colour, linewidth=width, label=legend_text(name))
    if band:
        low, high = accuracy_band(share, min(c.example.size for c in classifiers))
        axes.fill_between(grid, low, high, step="pre", color=colour, alpha=0.13, linewidth=0)


def _radius_panel(results: Results, *, sigma: float, title: str) -> tuple[Figure, Axes, FloatArray]:
    classifiers = [c for c in results.certified if c.sigma == sigma]
    alpha = results.study.certify.alpha
    cap = radius_cap(sigma=sigma, n=results.study.certify.n, alpha=alpha)
    largest = max(float(c.credited_radius.max(initial=0.0)) for c in classifiers)
    end = min(cap * 1.02, max(largest * 1.05, 0.1 * cap))
    figure, axes = new_panel(
        f"{title}, σ = {sigma:g}", "certified L2 radius (pixel units)", "certified accuracy", height=4.2
    )
    if end >= cap:
        axes.axvline(cap, color="#777777", linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate("largest radius of n samples", (cap, 1.0), xytext=(-3, 0), textcoords="offset points",
                      rotation=90, ha="right", va="top", fontsize=7, color="#555555")  # fmt: skip
    axes.set_xlim(0.0, end)
    axes.set_ylim(0.0, 1.0)
    top = axes.secondary_xaxis("top", functions=(lambda r: np.asarray(r) / sigma, lambda z: np.asarray(z) * sigma))
    ticks = np.array([0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999, 0.99999])
    shown = ticks[norm.ppf(ticks) * sigma <= end]
    top.set_xticks(norm.ppf(shown), [f"{p:.6g}" for p in shown])
    top.set_xlabel("lower bound on p_A", fontsize=8)
    top.tick_params(labelsize=7)
    return figure, axes, np.unique(np.append(np.linspace(0.0, end, 241), min(cap, end)))


def certified_accuracy_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return certified accuracy against radius for every label, averaged over seeds; None without models."""
    models = certified_models(results, sigma=sigma)
    if not models:
        return None
    styles = model_colours(results.models)
    with mpl.rc_context(STYLE):
        figure, axes, grid = _radius_panel(results, sigma=sigma, title="Models")
        for label, classifiers in models.items():
            seeds = len(classifiers)
            name = f"{label} (mean of {seeds} seeds)" if seeds > 1 else label
            colour, line = styles[label]
            _draw_curve(axes, classifiers, grid, name=name, colour=colour, line=line)
        draw_legend(figure)
    return figure


def ensemble_accuracy_figure(results: Results, *, sigma: float, most: int = 4) -> Figure | None:
    """Return certified accuracy against radius of the `most` ensembles of largest ACR, beside the baseline.

    None where no ensemble is certified.
    """
    ensembles = certified_ensembles(results, sigma=sigma)
    if not ensembles:
        return None
    best = sorted(ensembles, key=lambda pair: -float(pair[1].credited_radius.mean()))[:most]
    shown = f"{len(best)} of {len(ensembles)} ensembles with the largest ACR" if len(ensembles) > most else "Ensembles"
    with mpl.rc_context(STYLE):
        figure, axes, grid = _radius_panel(results, sigma=sigma, title=shown)
        label = baseline_label(results.study)
        if baseline := certified_models(results, sigma=sigma).get(label):
            name = f"{label} (baseline)"
            _draw_curve(axes, baseline, grid, name=name, colour="#888888", line="-", width=1.2, band=False)
        colours = label_colours([record.label for record in results.ensembles])
        methods = list(dict.fromkeys(record.method for record in results.ensembles))
        for record, classifier in best:
            line = LINE_STYLES[methods.index(record.method) % len(LINE_STYLES)]
            _draw_curve(axes, [classifier], grid, name=display_name(record), colour=colours[record.label][0], line=line)
        draw_legend(figure)
    return figure


def cost_figure(summaries: Sequence[Summary], *, sigma: float, cost: str = "training_seconds") -> Figure:
    """Return ACR with its interval against what training cost.

    Args:
        summaries: Of any noise level.
        sigma: The noise level to show.
        cost: `training_seconds` or `passes`.
    """
    if cost not in ("training_seconds", "passes"):
        raise ValueError(f"cost must be training_seconds or passes, got {cost!r}")
    models = label_colours([s.label for s in summaries if s.kind == "model"])
    ensembles = list(dict.fromkeys(s.label for s in summaries if s.kind == "ensemble"))
    what = "training time of all members (s)" if cost == "training_seconds" else "passes of all members in training"
    with mpl.rc_context(STYLE):
        at = [summary for summary in summaries if summary.sigma == sigma]
        entries = len({(summary.label, summary.weighting == "uniform") for summary in at})
        figure, axes = new_panel(f"ACR against cost, σ = {sigma:g}", what, "ACR", height=3.4 + 0.1 * entries)
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
                markerfacecolor="white" if summary.kind == "ensemble" and uniform else colour,
                markersize=5.5,
                elinewidth=0.6,
                label="_" if name in named else legend_text(name),
            )
            named.add(name)
        costs = [float(getattr(summary, cost)) for summary in at]
        spread_axis(axes, costs, which="x", text="{:g}".format if cost == "training_seconds" else quantity)
        draw_legend(figure)
    return figure


def results_part(results: Results, summaries: Sequence[Summary]) -> str:
    if not summaries:
        return paragraph("Nothing is certified yet.")
    content = element("h3", "Methods, averaged over seeds") + table_html(seed_table(average_over_seeds(results)))
    content += paragraph(
        "The seeds' spread shows what training randomness alone does; the interval is over images.", style="soft"
    )
    certify = results.study.certify
    for sigma in sorted({summary.sigma for summary in summaries}):
        at = [summary for summary in summaries if summary.sigma == sigma]
        cap = radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha)
        content += element("h3", f"Every classifier at σ = {sigma:g}") + table_html(result_table(at), name="classifier")
        content += paragraph(f"No radius can exceed σ Φ⁻¹(α^(1/n)) = {cap:.3f} here.", style="soft")
    return content + paragraph(
        "ACR: average certified radius, wrong and abstained images count 0, with half the length of a bootstrap "
        "interval over images. CA(r): share of images classified correctly with a certified radius of at least r. "
        "Saturated: all n samples fell on one class. Two-sided ACR: by certificates that bound the runner-up's "
        "probability, too, not to be compared with others. Samples: of an image, on average. Training and passes "
        "(forward and backward, of one noisy image) are those of all members together.",
        style="soft",
    )


def curves_part(figures: dict[str, Figure]) -> str:
    content = figure_grid(figures, "accuracy-")
    return content and content + paragraph(
        "Bands: pointwise 95 % intervals (Wilson) over images; for a mean over seeds they are conservative. The upper "
        "axis gives the lower bound on p_A that a radius needs, so a curve is also the distribution of that bound.",
        style="soft",
    )


def cost_part(results: Results, figures: dict[str, Figure]) -> str:
    content = figure_grid(figures, "cost-")
    if not content:
        return ""
    note = "Bars: 95 % intervals over images. Open: uniform weights; filled: solved weights."
    if results.trials:
        spent, passes = (sum(getattr(trial, name) for trial in results.trials) for name in ("seconds", "passes"))
        note += (
            f" The search cost {duration(spent)} and {quantity(passes)} passes in {len(results.trials)} trials more, "
            "which the searched models' own training does not contain."
        )
    return content + paragraph(note, style="soft")
