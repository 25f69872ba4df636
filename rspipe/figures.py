"""Figures of a study. Each has one panel, so that a page can lay them out side by side or in a column."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from scipy.stats import norm

from rspipe.certificates import radius_cap
from rspipe.ensembles import COMBINATIONS
from rspipe.membership import names_seeds
from rspipe.metrics import accuracy_band, certified_accuracy
from rspipe.records import EnsembleWeights, SearchResult, Summary, TrainedModel, Trial
from rspipe.summaries import (
    CertifiedClassifier,
    Results,
    baseline_label,
    certified_ensembles,
    certified_models,
    credited_radius,
    display_name,
)
from rspipe.tables import quantity

FloatArray = NDArray[np.float64]

# Okabe and Ito's colours, told apart by colour-blind readers; yellow is too faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4F9E", "#000000")
_LINES = ("-", "--", "-.", ":")
MARKERS = ("s", "D", "^", "v", "P", "X", "*", "p", "h", "8")
_MOST_BARS = 12
"""Ensembles whose weights are drawn where all are subsets."""
_LEGEND_CHARACTERS = 90
"""That fit across a figure, with 8 per column for handle and gap."""
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "rspipe",
    # Names from a study are text, also where they hold a dollar sign.
    "text.parse_math": False,
}


def new_panel(title: str, x: str, y: str, *, height: float = 3.6, width: float = 5.6) -> tuple[Figure, Axes]:
    """Return a figure of one panel, to be made and drawn into within `STYLE`."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot(facecolor="white")
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def spread_axis(axes: Axes, values: Sequence[float], *, which: Literal["x", "y"], text: Callable[[float], str]) -> None:
    """Label an axis in plain text, and make it logarithmic where positive values span more than a decade."""
    finite = [value for value in values if np.isfinite(value)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    if finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if max(finite) < 1000 * min(finite) else (1.0,)))
        axis.set_minor_formatter(NullFormatter())
    elif finite and min(finite) > 0:
        axes.set(**{f"{which}lim": (0.0, 1.05 * max(finite))})
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def _legend_text(name: str) -> str:
    """Return a name that matplotlib shows: it hides what starts with an underscore."""
    return f" {name}" if name.startswith("_") else name


def draw_legend(figure: Figure) -> None:
    """Put the legend below the axes, in as many columns as the longest name leaves room for."""
    lengths = [len(text) + 8 for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]

    def width(columns: int) -> int:
        return sum(int(part.max()) for part in np.array_split(lengths, columns) if part.size)

    fitting = [columns for columns in (3, 2) if width(columns) <= _LEGEND_CHARACTERS]
    figure.legend(loc="outside lower center", ncols=fitting[0] if fitting else 1)


def label_colours(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and line style by label; they repeat in combination, not alone."""
    unique = list(dict.fromkeys(labels))
    size = len(_COLOURS)
    return {label: (_COLOURS[i % size], _LINES[i // size % len(_LINES)]) for i, label in enumerate(unique)}


def _model_colours(models: Sequence[TrainedModel]) -> dict[str, tuple[str, str]]:
    return label_colours([model.label for model in models])


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
    axes.plot(grid, share, line, drawstyle="steps-pre", color=colour, linewidth=width, label=_legend_text(name))
    if band:
        low, high = accuracy_band(share, min(c.example.size for c in classifiers))
        axes.fill_between(grid, low, high, step="pre", color=colour, alpha=0.13, linewidth=0)


def _radius_panel(results: Results, *, sigma: float, title: str) -> tuple[Figure, Axes, FloatArray]:
    classifiers = [c for c in results.certified if c.sigma == sigma]
    alpha = results.study.certify.alpha
    cap = radius_cap(sigma=sigma, n=results.study.certify.n, alpha=alpha)
    largest = max(float(credited_radius(c).max(initial=0.0)) for c in classifiers)
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
    styles = _model_colours(results.models)
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
    best = sorted(ensembles, key=lambda pair: -float(credited_radius(pair[1]).mean()))[:most]
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
            line = _LINES[methods.index(record.method) % len(_LINES)]
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
                label="_" if name in named else _legend_text(name),
            )
            named.add(name)
        costs = [float(getattr(summary, cost)) for summary in at]
        spread_axis(axes, costs, which="x", text="{:g}".format if cost == "training_seconds" else quantity)
        draw_legend(figure)
    return figure


def weights_figure(results: Results, *, sigma: float) -> Figure | None:
    """Return the solved weights of all ensembles at a noise level as bars; None where none was solved for."""
    solved = [r for r in results.ensembles if r.sigma == sigma and r.method not in ("uniform", *COMBINATIONS)]
    records = [r for r in solved if not names_seeds(r.label)] or solved[:_MOST_BARS]
    if not records:
        return None
    trained = {model.id: model for model in results.models}
    styles = _model_colours(results.models)
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
                name = "_" if label in named else _legend_text(label)
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


def learning_curve_figure(results: Results, *, sigma: float, measure: str) -> Figure | None:
    """Return a measure of the training history by epoch, e.g. `loss` or `validation_acr`; None without any."""
    models = [m for m in results.models if m.train_sigma == sigma and any(measure in entry for entry in m.history)]
    if not models:
        return None
    styles = _model_colours(results.models)
    with mpl.rc_context(STYLE):
        figure, axes = new_panel(f"Training, σ = {sigma:g}", "epoch", measure.replace("_", " "), height=4.0)
        named = set()
        for model in models:
            points = [(entry["epoch"], entry[measure]) for entry in model.history if measure in entry]
            epochs, values = zip(*points, strict=True)
            colour, line = styles[model.label]
            name = "_" if model.label in named else _legend_text(model.label)
            axes.plot(epochs, values, line, color=colour, linewidth=1.1, label=name)
            if model.status != "finished":
                axes.plot(epochs[-1], values[-1], "x", color=colour)
            named.add(model.label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if measure == "loss":
            losses = [entry["loss"] for model in models for entry in model.history if "loss" in entry]
            spread_axis(axes, losses, which="y", text="{:g}".format)
        draw_legend(figure)
    return figure


def search_figure(trials: Sequence[Trial], search: SearchResult) -> Figure | None:
    """Return a search's objective by trial and against each hyper-parameter; None without trials."""
    trials = sorted((trial for trial in trials if trial.search == search.id), key=lambda trial: trial.index)
    if not trials:
        return None
    names = sorted({name for trial in trials for name in trial.parameters})
    columns = min(3, 1 + len(names))
    rows = -(-(1 + len(names)) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.5 + 1.9 * rows), layout="constrained", facecolor="white")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        figure.suptitle(
            f"Search {search.label}, σ = {search.sigma:g}", x=0.01, ha="left", fontweight="bold", fontsize=10
        )
        for axes, name in zip(panels, ["trial", *names], strict=False):
            for trial in trials:
                x = float(trial.index if name == "trial" else trial.parameters.get(name, np.nan))
                _draw_trial(axes, x, trial, best=trial.index == search.best_index)
            axes.set_xlabel(name)
        panels[0].axhline(search.default_objective, color="#888888", linewidth=0.8, linestyle="--")
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes in panels[1 + len(names) :]:
            axes.remove()
        figure.supylabel("validation ACR", fontsize=9)
    return figure


def _draw_trial(axes: Axes, x: float, trial: Trial, *, best: bool) -> None:
    marker = "x" if trial.status != "finished" else ("*" if best else "o")
    colour = "#D55E00" if best else "#0072B2"
    axes.plot(x, trial.objective, marker, color=colour, markersize=10 if best else 4.5)


def figure_svg(figure: Figure, *, name: str = "figure") -> str:
    """Return a figure as SVG to be put into a page: the same text for the same figure, ids prefixed by `name`."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE):
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<[^<>]*\sid=")', rf"\g<1>{name}-", svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    return re.sub(r'(<[^<>]*\s(?:xlink:)?href="#)', rf"\g<1>{name}-", svg)


def figure_pdf(figure: Figure) -> bytes:
    """Return a figure as PDF for a paper: letters stay text, and the same figure gives the same bytes."""
    content = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    with mpl.rc_context({**STYLE, "pdf.fonttype": 42}):
        figure.savefig(content, format="pdf", metadata=nothing)
    return content.getvalue()
