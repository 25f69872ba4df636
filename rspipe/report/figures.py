"""Figures of a study. Each has one panel, so that a page can lay them out side by side or in a column."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito's colours, told apart by colour-blind readers; yellow is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#9467BD", "#000000")

BLUE, RED, GREY = "#0072B2", "#D55E00", "#888888"

LINE_STYLES = ("-", "--", "-.", ":")

MARKERS = ("s", "D", "^", "v", "P", "X", "*", "p", "h", "8")

WIDTH = 4.8
"""Inches: letters stay readable where a figure is as wide as a phone."""

_LEGIBLE = 360.0
"""Points of width up to which a figure is legible on a phone."""

DARK = "#1a1a1a"
"""Letters on light grounds that a figure brings itself, in a dark page, too."""

_LEGEND_CHARACTERS = 16
"""That fit across an inch of a figure, with 8 per column for handle and gap."""

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


def new_panel(title: str, x: str, y: str, *, height: float = 3.2, width: float = WIDTH) -> tuple[Figure, Axes]:
    """Return a figure of one panel, to be made and drawn into within `STYLE`."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot(facecolor="white")
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def new_rows(title: str, x: str, names: Sequence[str], *, height: float = 1.5) -> tuple[Figure, Axes]:
    """Return a figure of one panel with a row for each name, the first on top, as wide as the names ask for.

    The title stands above the names, too, which leave little room; to be made and drawn into within `STYLE`.
    """
    size = {"height": height + 0.2 * len(names), "width": 3.0 + 0.05 * max(map(len, names))}
    figure, axes = new_panel("", x, "", **size)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=10)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
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


def log_axis(axes: Axes) -> None:
    """Make the axis of a hyper-parameter logarithmic, with its numbers in plain text."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def legend_text(name: str) -> str:
    """Return a name that matplotlib shows: it hides what starts with an underscore."""
    return f" {name}" if name.startswith("_") else name


def draw_legend(figure: Figure) -> None:
    """Put the legend below the axes, in as many columns as the longest name leaves room for."""
    lengths = [len(text) + 8 for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]

    def width(columns: int) -> int:
        return sum(int(part.max()) for part in np.array_split(lengths, columns) if part.size)

    fitting = [columns for columns in (3, 2) if width(columns) <= _LEGEND_CHARACTERS * figure.get_figwidth()]
    figure.legend(loc="outside lower center", ncols=fitting[0] if fitting else 1)


def label_colours(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return colour and line style by label; they repeat in combination, not alone."""
    unique = list(dict.fromkeys(labels))
    size = len(COLOURS)
    return {label: (COLOURS[i % size], LINE_STYLES[i // size % len(LINE_STYLES)]) for i, label in enumerate(unique)}


def entry_colours(methods: Sequence[str], *, baseline: str, others: Sequence[str] = ()) -> dict[str, tuple[str, str]]:
    """Return colour and line style by name: the baseline is grey, and a method has its own in every figure.

    Args:
        methods: Labels of all models of a study, in its order.
        baseline: One of them.
        others: Names of what else is drawn.
    """
    return label_colours([*(name for name in methods if name != baseline), *others]) | {baseline: (GREY, "-")}


def shaded(colour: str, step: int) -> str:
    """Return a colour mixed with white, lighter with each step: for what has the same colour and is something else."""
    kept = 0.6**step
    red, green, blue = (kept * part + 1 - kept for part in to_rgb(colour))
    return to_hex((red, green, blue))


def on_ground(colour: str) -> str:
    """Return the colour of letters that stand out on a ground of this one."""
    red, green, blue = to_rgb(colour)
    return DARK if 0.3 * red + 0.6 * green + 0.1 * blue > 0.45 else "#fefefe"


def drawn(figures: Mapping[str, Figure | None]) -> dict[str, Figure]:
    """Return the figures that there are data for."""
    return {name: figure for name, figure in figures.items() if figure is not None}


def _lay_out(figure: Figure) -> None:
    """Lay a figure out, once for all: `savefig` would draw it twice for that, which takes most of its time."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def figure_svg(figure: Figure, *, name: str = "figure") -> str:
    """Return a figure as SVG to be put into a page: the same text for the same figure, ids prefixed by `name`."""
    text, prefix = io.StringIO(), name.replace(".", "_")
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(STYLE):
        _lay_out(figure)
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<[^<>]*\sid=")', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    return re.sub(r'(<[^<>]*\s(?:xlink:)?href="#)', rf"\g<1>{prefix}-", svg)


def description(figure: Figure) -> str:
    """Return what a figure shows, in words: its titles and the quantities on its axes."""
    heads = [figure.get_suptitle(), *(axes.get_title(loc="left") for axes in figure.axes)]
    sides = {
        " against ".join(filter(None, (axes.get_ylabel().replace("\n", " "), axes.get_xlabel())))
        for axes in figure.axes
    }
    return "; ".join(dict.fromkeys(text.replace("\n", ", ") for text in (*heads, *sorted(sides)) if text))


def themed(svg: str) -> str:
    """Return an SVG whose ground, letters and lines take the colours of the page that it stands in, light or dark."""
    width = re.search(r'width="([0-9.]+)pt"', svg)
    if width is not None and float(width[1]) > _LEGIBLE:
        # Rather than with tiny letters it is read in parts on a phone.
        svg = svg.replace("<svg ", f'<svg style="min-width: {float(width[1]):.0f}px" ', 1)
    for colour, name in (("#ffffff", "--card"), ("#000000", "--text"), ("#e4e4e4", "--line")):
        svg = svg.replace(f"fill: {colour}", f"fill: var({name})").replace(f"stroke: {colour}", f"stroke: var({name})")
    return svg


def figure_pdf(figure: Figure) -> bytes:
    """Return a figure as PDF for a paper: letters stay text, and the same figure gives the same bytes."""
    content = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Producer", "CreationDate"))
    with mpl.rc_context({**STYLE, "pdf.fonttype": 42}):
        _lay_out(figure)
        figure.savefig(content, format="pdf", metadata=nothing)
    return content.getvalue()
