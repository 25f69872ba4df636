"""Section: a single model, the average, MME and solved weights of the same members side by side."""

from collections.abc import Iterator, Sequence

import numpy as np

from rspipe.ensembles.spec import ensemble_name
from rspipe.report.compositions import Composition, same_members
from rspipe.report.differences import Comparison, Group
from rspipe.report.names import short_name
from rspipe.report.questions import AVERAGING, answer_questions, mean_of_members
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.tables import Cell, Table, interval_cell, number, number_cell, scope_cells
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.inference import contrast

_KINDS = {"uniform": "average", "mme": "MME", "consensus": "consensus"}


def _alike(results: Results, sigma: float) -> list[list[Composition]]:
    """Return the compositions that differ in their combination alone, where a uniform average is among them."""
    alike: dict[tuple[object, ...], list[Composition]] = {}
    for composition in results.compositions(sigma):
        alike.setdefault((composition.labels, composition.average), []).append(composition)
    return [several for several in alike.values() if len(several) > 1 and any(c.method == "uniform" for c in several)]


def combination_table(results: Results, *, sigma: float) -> Table:
    """Return the paper's table 3: a single model, and average, MME and solved weights of the same members."""
    running = max(1, sum(len(models) for models in results.models_at(sigma).values()))

    def row(
        of: str,
        kind: str,
        group: Group,
        classifiers: Sequence[CertifiedClassifier],
        *,
        members: int,
        change: Comparison | None,
    ) -> dict[str, Cell]:
        population = results.population(group.examples.size)
        judged = contrast(group.mean_credits, (), population=population) if group.examples.size else None
        seconds = float(np.mean([c.seconds / c.example.size for c in classifiers])) * members / running
        return {
            "members": Cell(of),
            "combination": Cell(kind),
            "ACR [95 %]": interval_cell(None if judged is None else judged.models),
            "accuracy": number_cell(float(np.mean([np.mean(c.correct) for c in classifiers]))),
            **scope_cells("less the average", None if change is None else change.difference),
            "certification of an image": Cell(f"{seconds:.2f} s", seconds),
        }

    def rows() -> Iterator[dict[str, Cell]]:
        for several in _alike(results, sigma):
            uniform = next(composition for composition in several if composition.method == "uniform")
            whole = results.with_certified_members(uniform)
            if whole is None:
                continue
            of = short_name(ensemble_name(uniform.words, "uniform", uniform.average))
            single = [c for record in whole.records for c in results.certified_members(record)]
            mean = mean_of_members(results, whole)
            change = results.compare(mean, whole.group, sigma=sigma)
            yield row(of, "single (mean of members)", mean, single, members=1, change=change)
            for one in several:
                both = None if one is uniform else same_members(one, uniform)
                change = None if both is None else results.compare(both[0].group, both[1].group, sigma=sigma)
                kind = _KINDS.get(one.method, f"weights {one.method}")
                yield row(of, kind, one.group, one.classifiers, members=len(one.labels), change=change)

    return Table.of(rows())


def section(results: Results) -> Section | None:
    """Return the section; None where no members have two combinations."""
    levels = [Level(sigma, combination_table(results, sigma=sigma)) for sigma in results.sigmas]
    shown = [level for level in levels if level.table.rows]
    gains = [one.difference.estimate for one in answer_questions(results) if one.question == AVERAGING]
    finding = ""
    if gains:
        span = " to ".join(dict.fromkeys(number(gain, signed=True) for gain in (min(gains), max(gains))))
        finding = f"ACR of averages less the mean of their members: {span}."
    return Section("combinations", {"levels": shown, "meant": results.images_meant}, finding=finding) if shown else None
