"""Section: what ever more models of one method would give."""

import math

from rspipe.ensembles.diagnostics import HyperbolaFit, fit_hyperbola, gaussian_limit
from rspipe.report.differences import Group
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.sections.sizes import curves_by_size
from rspipe.report.tables import Cell, Table, interval_cell, number_cell

NUMBERS = (2.0, 4.0, 8.0, math.inf)
"""Numbers of models whose gain is predicted."""


def _fit_cells(fit: HyperbolaFit | None) -> dict[str, Cell]:
    if fit is None:
        return {"hyperbola's limit [95 %]": Cell("–"), "straight limit": Cell("–")}
    return {
        "hyperbola's limit [95 %]": interval_cell(fit.limit),
        "straight limit": number_cell(fit.straight),
    }


def limit_table(results: Results, *, sigma: float) -> Table:
    """Return a row per method with two models or more whose margins were read at a noise level."""
    curves, models = curves_by_size(results, sigma=sigma), results.models_at(sigma)
    rows = []
    for margins in results.margins_at(sigma):
        if margins.average != "probabilities":
            continue
        for label in dict.fromkeys(map(results.model_label, margins.members)):
            members = [member for member in margins.members if results.model_label(member) == label]
            if len(members) < 2 or label not in models:
                continue
            gains = gaussian_limit(margins.of(members), sigma=sigma, numbers=NUMBERS).gains
            rows.append(
                {
                    "method": Cell(label),
                    "models": Cell(f"{len(members)}", len(members)),
                    "ACR of one": number_cell(Group.of(models[label]).acr),
                    **{f"k = {k:g}".replace("inf", "∞"): interval_cell(gain, signed=True) for k, gain in gains.items()},
                    **_fit_cells(fit_hyperbola(curves.get(label, {}))),
                }
            )
    return Table.of(rows)


def section(results: Results) -> Section | None:
    """Return the section; None where no method has two models."""
    levels = [Level(sigma, limit_table(results, sigma=sigma)) for sigma in results.sigmas]
    shown = [level for level in levels if level.table.rows]
    return Section("limits", {"levels": shown}) if shown else None
