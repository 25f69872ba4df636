"""Section: certified accuracy against the radius."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import ndtri

from rspipe.arrays import FloatArray
from rspipe.report.figures import LINE_STYLES, STYLE, draw_legend, drawn, label_colours, legend_text, new_panel
from rspipe.report.results import Results, seeds_label
from rspipe.report.section import Section
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import accuracy_band, certified_accuracy


def draw_curve(
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


def radius_panel(results: Results, *, sigma: float, title: str) -> tuple[Figure, Axes, FloatArray]:
    """Return a figure for certified accuracy at a noise level, and the radii to draw it at."""
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
    shown = ticks[ndtri(ticks) * sigma <= end]
    top.set_xticks(ndtri(shown), [f"{p:.6g}" for p in shown])
    top.set_xlabel("lower bound on p_A", fontsize=8)
    top.tick_params(labelsize=7)
    return figure, axes, np.unique(np.append(np.linspace(0.0, end, 241), min(cap, end)))


def certified_accuracy_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return certified accuracy against radius for every label, averaged over seeds; None without models."""
    models = results.models_at(sigma)
    if not models:
        return None
    styles = label_colours([model.label for model in results.models])
    with mpl.rc_context(STYLE):
        figure, axes, grid = radius_panel(results, sigma=sigma, title="Models")
        for label, classifiers in models.items():
            name = seeds_label(label, len(classifiers)) if len(classifiers) > 1 else label
            colour, line = styles[label]
            draw_curve(axes, classifiers, grid, name=name, colour=colour, line=line)
        draw_legend(figure)
    return figure


def ensemble_accuracy_figure(results: Results, *, sigma: float, most: int = 4) -> Figure | None:
    """Return certified accuracy against radius of the `most` ensembles of largest ACR, beside the baseline.

    None where no ensemble is certified.
    """
    ensembles = results.compositions(sigma)
    if not ensembles:
        return None
    best = sorted(ensembles, key=lambda one: -np.mean([c.credited_radius.mean() for c in one.classifiers]))[:most]
    shown = f"{len(best)} of {len(ensembles)} ensembles with the largest ACR" if len(ensembles) > most else "Ensembles"
    with mpl.rc_context(STYLE):
        figure, axes, grid = radius_panel(results, sigma=sigma, title=shown)
        if baseline := results.models_at(sigma).get(results.baseline):
            name = f"{results.baseline} (baseline)"
            draw_curve(axes, baseline, grid, name=name, colour="#888888", line="-", width=1.2, band=False)
        colours = label_colours([one.words for one in ensembles])
        methods = list(dict.fromkeys(record.method for record in results.ensembles))
        for one in best:
            line = LINE_STYLES[methods.index(one.method) % len(LINE_STYLES)]
            draw_curve(axes, one.classifiers, grid, name=one.label, colour=colours[one.words][0], line=line)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where nothing is certified."""
    figures: dict[str, Figure | None] = {}
    for sigma in results.sigmas:
        figures[f"accuracy-models-sigma-{sigma:g}"] = certified_accuracy_figure(results, sigma=sigma)
        figures[f"accuracy-ensembles-sigma-{sigma:g}"] = ensemble_accuracy_figure(results, sigma=sigma)
    return Section("accuracy", {}, drawn(figures)) if drawn(figures) else None
