"""Section: the message of the study, its table, and the curves of the best beside the baseline."""

from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rspipe.report.figures import BLUE, GREY, LINE_STYLES, RED, STYLE, drawn, legend_text
from rspipe.report.headline import headline, headline_table
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.sections.accuracy import curve_panels, radii_of, shares
from rspipe.report.standings import Entry, entries

ASKED = ("Which method?", "Do ensembles pay?", "How sure?")
"""What the three sentences of a study answer."""

_MOST_LEVELS = 4
"""Noise levels with curves of their own: of more, these are spread over them."""

_LINE = 40
"""Characters of names that a line of the legend has room for beside a role."""

_ENVELOPE = "#E69F00"


def _curves(results: Results, found: Sequence[Entry]) -> Iterator[tuple[str, str, Entry]]:
    """Yield role, colour and entry: the baseline, the best method if it is another, and the best ensemble."""
    methods = [one for one in found if one.kind == "model"]
    others = [one for one in found if one.kind == "ensemble"]
    baseline = next((one for one in methods if one.name == results.baseline), None)
    if baseline is not None:
        role = "baseline" if len(methods) == 1 or methods[0] is not baseline else "baseline and best method"
        yield role if len(found) > 1 else "", GREY, baseline
    if methods and methods[0] is not baseline:
        yield "best method", BLUE, methods[0]
    if others:
        yield "best ensemble", RED, others[0]


def _levels(sigmas: Sequence[float]) -> list[float]:
    """Return the noise levels that are drawn."""
    places = np.linspace(0, len(sigmas) - 1, min(_MOST_LEVELS, len(sigmas))).round().astype(int)
    return [sigmas[at] for at in places]


def _joined(names: Sequence[str]) -> str:
    """Return names as a legend has room for them: long ones on a line each."""
    return (" /\n" if sum(map(len, names)) > _LINE else " / ").join(names)


def headline_figure(results: Results, levels: Mapping[float, Sequence[Entry]]) -> Figure | None:
    """Return certified accuracy of the baseline, the best method and the best ensemble, and the gain on the baseline.

    With several noise levels, the upper envelope of everything certified, too: the largest at each radius, as papers
    show it. None where nothing is certified, or at some radii alone.
    """
    if not levels or results.decided:
        return None
    grid = radii_of(levels.values())
    roles: dict[str, tuple[str, list[str]]] = {}
    shown = [*zip(_levels([*levels]), LINE_STYLES, strict=False)]
    with mpl.rc_context(STYLE):
        # The baseline may not be certified at a noise level.
        beside = [
            sigma
            for sigma, found in levels.items()
            if len(found) > 1 and any((one.kind, one.name) == ("model", results.baseline) for one in found)
        ]
        figure, axes, below = curve_panels("Certified accuracy", grid, gains=bool(beside))
        if len(levels) > 1:
            every = np.max([shares(entry, grid) for found in levels.values() for entry in found], axis=0)
            axes.plot(grid, every, color=_ENVELOPE, linewidth=5, alpha=0.45, solid_capstyle="butt")
        for sigma, line in shown:
            curves = [*_curves(results, levels[sigma])]
            first = shares(curves[0][2], grid) if curves else np.zeros_like(grid)
            for role, colour, entry in curves:
                share = shares(entry, grid)
                names = roles.setdefault(role, (colour, []))[1]
                names += [entry.name] if entry.name not in names else []
                axes.plot(grid, share, line, drawstyle="steps-pre", color=colour, linewidth=1.4)
                if below is not None and colour != GREY and sigma in beside:
                    below.plot(grid, 100 * (share - first), line, drawstyle="steps-pre", color=colour, linewidth=1.3)
        handles = [
            Line2D([], [], color=colour, label=legend_text(f"{role + ': ' if role else ''}{_joined(names)}"))
            for role, (colour, names) in roles.items()
        ]
        if len(levels) > 1:
            grey = "#777777"
            handles += [Line2D([], [], color=grey, ls=line, label=f"σ = {sigma:g}") for sigma, line in shown]
            handles.append(Line2D([], [], color=_ENVELOPE, linewidth=5, alpha=0.45, label="upper envelope of all"))
        figure.legend(handles=handles, loc="outside lower center", ncols=1 + (len(handles) > 6))
    return figure


def section(results: Results) -> Section:
    """Return the section; it says so where nothing is certified."""
    message = headline(results)
    levels = {sigma: found for sigma in results.sigmas if (found := entries(results, sigma))}
    asked = ASKED if len(message.sentences) == len(ASKED) and not results.decided else [""] * len(message.sentences)
    content = {
        "sentences": [*zip(asked, message.sentences, strict=True)],
        "rows": headline_table(message),
        "notes": message.notes,
    }
    return Section("headline", content, drawn({"headline": headline_figure(results, levels)}))
