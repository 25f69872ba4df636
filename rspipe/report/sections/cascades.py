"""Section: cascades over noise levels, beside the levels that they are made of."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from rspipe.records import Cascade, Interval
from rspipe.report.differences import compare
from rspipe.report.figures import STYLE, draw_legend, drawn, label_colours
from rspipe.report.names import short_name
from rspipe.report.results import Results, cascades_label
from rspipe.report.section import Section
from rspipe.report.sections.accuracy import draw_curve, radius_panel
from rspipe.report.standings import Entry
from rspipe.report.tables import Cell, Table, change_cell, number, number_cell, percent_cell, sigma_cell
from rspipe.smoothing.cascades import CertifiedCascade
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.derivation import CertifiedClassifier, on_common_images
from rspipe.smoothing.metrics import certified_accuracy

_LARGE = 0.25
"""Radius from which on a cascade should lose nothing of its first level."""


def _levels(results: Results, cascades: Sequence[CertifiedCascade]) -> Iterator[tuple[str, list[CertifiedClassifier]]]:
    """Yield the single levels by name, each with the classifiers of all cascades."""
    for position, sigma in enumerate(cascades[0].record.sigmas):
        ids = dict.fromkeys(one.record.classifiers[position] for one in cascades)
        classifiers = [classifier for id_ in ids if (classifier := results.certificates(id_)) is not None]
        yield f"σ = {sigma:g} alone", classifiers


def handed_on(cascades: Sequence[CertifiedCascade]) -> tuple[float, float, float]:
    """Return of the answers that were handed on: their share of the images, how many are right, and median radius."""
    later = np.concatenate([one.level > 0 for one in cascades])
    if not later.any():
        return 0.0, float("nan"), float("nan")
    right = np.concatenate([one.classifier.correct for one in cascades])[later]
    radius = np.concatenate([one.classifier.radius for one in cascades])[later]
    return float(later.mean()), float(right.mean()), float(np.median(radius))


def cascade_table(results: Results) -> Table:
    """Return a row per cascade, averaged over seeds, followed by a row for each of its levels alone."""

    def row(name: str, sigma: float, classifiers: Sequence[CertifiedClassifier]) -> dict[str, Cell]:
        radii = results.study.radii
        shares = np.mean([certified_accuracy(one.radius, one.correct, [0.0, *radii]) for one in classifiers], axis=0)
        return {
            "σ": sigma_cell(sigma),
            "classifier": Cell(name),
            "ACR": number_cell(float(np.mean([one.credited_radius.mean() for one in classifiers])), digits=4),
            "accuracy": number_cell(float(shares[0]), digits=4),
            **{f"CA({r:g})": number_cell(float(share)) for r, share in zip(radii, shares[1:], strict=True) if r > 0},
            "abstained": percent_cell(float(np.mean([(one.prediction < 0).mean() for one in classifiers]))),
        }

    def rows() -> Iterator[dict[str, Cell]]:
        for sigma in results.sigmas:
            for cascades in results.cascades_at(sigma).values():
                share, right, median = handed_on(cascades)
                none = {"handed on": Cell("–"), "of these right": Cell("–"), "their median radius": Cell("–")}
                handed = {"of these right": percent_cell(right), "their median radius": number_cell(median)}
                own = none | {"handed on": percent_cell(share)} | (handed if share else {})
                yield row(cascades_label(cascades), sigma, [one.classifier for one in cascades]) | own
                for text, classifiers in _levels(results, cascades):
                    yield row(text, classifiers[0].sigma, classifiers) | none

    return Table.of(rows())


def _beside_levels(results: Results) -> Iterator[tuple[Entry, Entry, Cascade, float]]:
    """Yield each kind of cascade beside each of its levels alone, with a record of it and the noise of that level.

    One row each per seed: those of a seed are made of the same models, or of some of them.
    """
    for sigma in results.sigmas:
        for cascades in results.cascades_at(sigma).values():
            group, record = results.cascade_group(cascades), cascades[0].record
            for position, level in enumerate(record.sigmas):
                alone = [results.certificates(one.record.classifiers[position]) for one in cascades]
                both = on_common_images([[one.classifier for one in cascades], [one for one in alone if one]])
                shared = replace(group, examples=both[0][0].example)
                own, single = (Entry(short_name(record.name), "cascade", tuple(side), shared) for side in both)
                yield own, single, record, level


def change_table(results: Results) -> Table:
    """Return how far the certified accuracy of each cascade is above that of each of its levels alone, at every radius.

    Each interval is by itself. A row is of these procedures, where seeds are judged, and one of these models. A dash
    stands beyond what n samples can prove, where neither has any and nothing is open.
    """
    certify = results.study.certify

    def rows() -> Iterator[dict[str, Cell]]:
        for own, level, record, sigma in _beside_levels(results):
            population = results.population(own.group.examples.size)
            largest = radius_cap(sigma=max(record.sigmas), n=certify.n, alpha=certify.alpha)
            procedures, models = dict[str, Interval | None](), dict[str, Interval | None]()
            for radius in sorted({0.0, *results.study.radii}):
                name = f"CA({radius:g})" if radius else "accuracy"
                sides = own.reaching(radius), level.reaching(radius)
                one = compare(*sides, sigma=sigma, population=population) if radius <= largest else None
                procedures[name] = None if one is None else one.difference.procedures
                models[name] = None if one is None else one.difference.models
            for scope, judged in (("these procedures", procedures), ("these models", models)):
                if any(judged.values()):
                    head = {"cascade": Cell(own.name), "less": Cell(f"σ = {sigma:g} alone"), "of": Cell(scope)}
                    yield head | {name: change_cell(change) for name, change in judged.items()}

    return Table.of(rows())


def cascade_sentences(results: Results) -> Iterator[str]:
    """Yield what was chosen, and of each cascade what it changes against its first level alone."""
    for choice in results.choices.values():
        yield f"Chosen before any test image was seen: {choice.text}."
    for sigma in results.sigmas:
        for name, cascades in results.cascades_at(sigma).items():
            _, first = next(iter(_levels(results, cascades)))
            own = [one.classifier for one in cascades]
            gained, lost, radius = changes_against(own, first)
            _, at_radii, where = changes_against(own, first, radii=results.study.radii)
            losing = f"loses nothing of certified accuracy from radius {_LARGE:g} on"
            if lost:
                losing = (
                    f"loses {_at_most(at_radii, where)} of certified accuracy at the radii of the table from "
                    f"{_LARGE:g} on, {_at_most(lost, radius)} at any"
                )
            yield (
                f"{short_name(name)}: changes clean accuracy by {number(gained, digits=1, signed=True)} points against "
                f"σ = {sigma:g} alone, and {losing} (these models, on these images)."
            )


def _at_most(lost: float, radius: float) -> str:
    return f"at most {number(lost, digits=1)} points (at {radius:.4g})" if lost else "nothing"


def changes_against(
    cascades: Sequence[CertifiedClassifier],
    alone: Sequence[CertifiedClassifier],
    *,
    radii: Sequence[float] | None = None,
) -> tuple[float, float, float]:
    """Return points of clean accuracy that cascades gain, the most that they lose from radius .25 on, and where.

    On the images that all have; at any radius, or at some alone.
    """
    cascades, alone = on_common_images([cascades, alone])
    # Certified accuracy is constant between the radii of images.
    every = [_LARGE, *chain.from_iterable(one.radius for one in (*cascades, *alone))] if radii is None else radii
    at = np.array([0.0, *sorted({radius for radius in every if radius >= _LARGE})])
    own, single = (
        np.mean([certified_accuracy(c.radius, c.correct, at) for c in classifiers], axis=0)
        for classifiers in (cascades, alone)
    )
    change = 100 * (own - single)
    losses = dict(zip(at[1:].tolist(), (-change[1:]).tolist(), strict=True))
    worst = max(losses, key=lambda radius: losses[radius], default=0.0)
    return float(change[0]), max(0.0, losses.get(worst, 0.0)), worst


def cascade_figure(results: Results, cascades: Sequence[CertifiedCascade]) -> Figure:
    """Return certified accuracy against radius of a cascade and of its levels alone, averaged over seeds."""
    sigma = cascades[0].record.sigma
    curves = [(cascades_label(cascades), [one.classifier for one in cascades]), *_levels(results, cascades)]
    colours = label_colours([label for label, _ in curves])
    with mpl.rc_context(STYLE):
        figure, axes, grid = radius_panel(results, sigma=sigma, title=curves[0][0])
        for label, classifiers in curves:
            colour, line = colours[label]
            draw_curve(axes, classifiers, grid, name=label, colour=colour, line=line)
        draw_legend(figure)
    return figure


def section(results: Results) -> Section | None:
    """Return the section; None where no cascade is certified."""
    if not results.cascades:
        return None
    every = [cascades for sigma in results.sigmas for cascades in results.cascades_at(sigma).values()]
    figures = {f"cascade-{position}": cascade_figure(results, cascades) for position, cascades in enumerate(every)}
    sentences = [*cascade_sentences(results)]
    content = {
        "table_of_cascades": cascade_table(results),
        "table_of_changes": change_table(results),
        "sentences": sentences,
        "planned": results.study.certify.rule.name == "planned",
        "two_sided": any(group.two_sided for group in results.study.cascades),
    }
    return Section("cascades", content, drawn(figures), finding=next(iter(sentences), ""))
