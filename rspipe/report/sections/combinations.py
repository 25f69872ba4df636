"""Section: a single model, the average, MME and solved weights of the same members side by side."""

from collections.abc import Iterator, Sequence

import numpy as np

from rspipe.ensembles.members import names_seeds
from rspipe.records import EnsembleWeights, Interval
from rspipe.report.differences import Group, difference_of_acr
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import Cell, Table, change_cell, interval_cell, number_cell
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import mean_interval


def _groups(results: Results, sigma: float) -> dict[tuple[str, ...], list[tuple[EnsembleWeights, CertifiedClassifier]]]:
    """Return certified ensembles by members and average, those that the study names in the paper's words."""
    groups: dict[tuple[str, ...], list[tuple[EnsembleWeights, CertifiedClassifier]]] = {}
    for record, classifier in results.ensembles_at(sigma):
        if not names_seeds(record.label):
            groups.setdefault((record.average, *record.members), []).append((record, classifier))
    return groups


_KINDS = {"uniform": "average", "mme": "MME", "consensus": "consensus"}


def combination_table(results: Results, *, sigma: float) -> Table:
    """Return the paper's table 3: a single model, and average, MME and solved weights of the same members."""
    running = max(1, sum(len(models) for models in results.models_at(sigma).values()))

    def row(
        of: str, kind: str, classifiers: Sequence[CertifiedClassifier], members: int, change: Interval | None
    ) -> dict[str, Cell]:
        radii = Group.of(classifiers).mean_credits
        seconds = float(np.mean([c.seconds / c.example.size for c in classifiers])) * members / running
        accuracy = float(np.mean([np.mean(c.correct) for c in classifiers]))
        return {
            "members": Cell(of),
            "combination": Cell(kind),
            "ACR [95 %]": interval_cell(mean_interval(radii) if radii.size else None),
            "accuracy": number_cell(accuracy),
            "less the average [95 %]": change_cell(change),
            "certification of an image": Cell(f"{seconds:.2f} s", seconds),
        }

    def rows() -> Iterator[dict[str, Cell]]:
        for alike in _groups(results, sigma).values():
            first = alike[0][0]
            single = results.certified_members(first)
            uniform = [c for record, c in alike if record.method == "uniform"]
            if len(alike) < 2 or not uniform or not single:
                continue
            name = first.label if first.average == "probabilities" else f"{first.label} ({first.average})"
            yield row(name, "single (mean of members)", single, 1, difference_of_acr(single, uniform))
            for record, classifier in alike:
                change = None if record.method == "uniform" else difference_of_acr([classifier], uniform)
                kind = _KINDS.get(record.method, f"weights {record.method}")
                yield row(name, kind, [classifier], len(record.members), change)

    return Table.of(rows())


def section(results: Results) -> Section | None:
    """Return the section; None where no members have two combinations."""
    levels = [Level(sigma, combination_table(results, sigma=sigma)) for sigma in results.sigmas]
    shown = [level for level in levels if level.table.rows]
    return Section("combinations", {"levels": shown}) if shown else None
