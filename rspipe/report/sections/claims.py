"""Section: published results and claims beside the measurements of the study."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.report.differences import Comparison, with_holm
from rspipe.report.published import PublishedComparison, compare_with_published
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import TONES, Cell, Table, ends_cell, number, number_cell, relation_cell, sigma_cell
from rspipe.smoothing.judgement import Judgement
from rspipe.smoothing.published import SizeVerdict, difference_from_published
from rspipe.study.claims import Claim

Reproduction = Literal["reproduced", "contradicted", "undecided", "not judged", "other data", "one member alone"]


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and the paired difference that speaks for or against it."""

    claim: Claim
    comparison: Comparison
    """Of the entry that was published as the larger one, less the other."""
    size: Judgement[SizeVerdict] | None
    """Of the measured difference against the published one; None where a side has one seed, or none was published."""
    procedures_hold: bool
    """Whether Holm's correction for all claims leaves the verdict on the procedures."""
    models_hold: bool
    no_ensemble: bool
    """Whether an ensemble that it is about gives all weight to one member, and is that model."""

    @property
    def reproduction(self) -> Reproduction:
        """Of the claim itself: of procedures, on the data that it was made on."""
        judged = self.comparison.difference.procedures
        if self.no_ensemble:
            return "one member alone"
        if self.claim.differs:
            return "other data"
        if judged is None:
            return "not judged"
        if judged.verdict == "undecided":
            return "undecided"
        return "reproduced" if judged.verdict == "holds here" else "contradicted"


def judge_claims(results: Results) -> tuple[JudgedClaim, ...]:
    """Return every claim at every noise level where both its entries are certified, with its verdicts.

    All of them are one family for Holm's correction.
    """
    pairs = [pair for claim in results.study.claims for pair in _compared(results, claim)]
    family = with_holm([comparison for _, comparison in pairs])
    alone = {
        (sigma, name)
        for sigma in results.sigmas
        for name, ensemble in results.ensembles_by_name(sigma).items()
        if ensemble.no_ensemble
    }
    return tuple(
        JudgedClaim(
            claim=claim,
            comparison=comparison,
            size=_judged_size(results, claim, comparison),
            procedures_hold=procedures,
            models_hold=models,
            no_ensemble=not alone.isdisjoint((comparison.sigma, name) for name in (claim.first, claim.second)),
        )
        for (claim, _), (comparison, procedures, models) in zip(pairs, family, strict=True)
    )


def _compared(results: Results, claim: Claim) -> Iterator[tuple[Claim, Comparison]]:
    # A difference below 0 was published the other way round.
    larger, other = (claim.second, claim.first) if (claim.by or 0) < 0 else (claim.first, claim.second)
    for sigma in claim.sigma or results.study.sigmas:
        groups = results.groups(sigma)
        if larger in groups and other in groups:
            comparison = results.compare(groups[larger], groups[other], sigma=sigma)
            if comparison is not None:
                yield claim, comparison


def _judged_size(results: Results, claim: Claim, comparison: Comparison) -> Judgement[SizeVerdict] | None:
    """Return the measured difference against the published one, where procedures have the published sign."""
    by, judged = claim.size, comparison.difference.procedures
    groups, names = results.groups(comparison.sigma), (comparison.first, comparison.second)
    if by is None or judged is None or judged.verdict != "holds here" or not {*names} <= {*groups}:
        return None
    first, second = (groups[name] for name in names)
    # Of labels alone: the difference of an ensemble or a cascade has seeds of both sides in common.
    if not first.seeds or not second.seeds or {*first.seeds} & {*second.seeds}:
        return None
    shared = np.intersect1d(first.examples, second.examples)
    return difference_from_published(
        first.on(shared).credits,
        second.on(shared).credits,
        by,
        decimals=3,
        seeds=(claim.seeds, claim.seeds),
        population=comparison.difference.population,
    )


def claim_table(claims: Sequence[JudgedClaim]) -> Table:
    """Return one row per claim and noise level: published and measured difference, and the verdicts of both scopes."""
    numbers = any(one.claim.size is not None for one in claims)
    sources = any(one.claim.source or one.claim.differs for one in claims)

    def row(one: JudgedClaim) -> dict[str, Cell]:
        comparison, by = one.comparison, one.claim.size
        difference = comparison.difference
        judged = difference.procedures
        size = one.size
        published = {
            "published": Cell("–" if by is None else number(by, signed=True), by),
            "against published": Cell("–" if size is None else size.verdict),
        }
        terms = f" ({one.claim.differs})" if one.claim.differs else ""
        return {
            "σ": sigma_cell(comparison.sigma),
            "larger ACR": Cell(comparison.first_label),
            "than": Cell(comparison.second_label),
            "measured": number_cell(difference.estimate, digits=4, signed=True),
            "procedures": relation_cell(difference, judged, sure=one.procedures_hold, words="of the verdict"),
            "models": relation_cell(difference, difference.models, sure=one.models_hold, words="of the verdict"),
            "the claim itself": Cell(one.reproduction, tone=TONES.get(one.reproduction, "muted")),
            **(published if numbers else {}),
            "these procedures [95 %]": Cell("–") if judged is None else ends_cell(judged),
            "these models [95 %]": ends_cell(difference.models),
            "images": number_cell(difference.images, digits=0),
            **({"source": Cell(f"{one.claim.source}{terms}")} if sources else {}),
        }

    return Table.of(map(row, claims))


def claim_sentence(claims: Sequence[JudgedClaim]) -> str:
    """Return how many claims hold, in both scopes, with Holm's correction; one about one member alone is no claim."""
    asked = [one for one in claims if not one.no_ensemble]
    judged = [one for one in asked if one.comparison.difference.procedures is not None]
    procedures = sum(one.procedures_hold and one.comparison.difference.estimate > 0 for one in judged)
    models = sum(one.models_hold and one.comparison.difference.estimate > 0 for one in asked)
    return (
        f"{procedures} of {len(judged)} judged claims hold here for training again, {models} of {len(asked)} for these "
        "models alone, all claims counted (Holm)."
    )


def published_table(comparisons: Sequence[PublishedComparison]) -> Table:
    """Return one row per published result: published, measured, and their difference for both scopes."""

    def row(one: PublishedComparison) -> dict[str, Cell]:
        published, difference = one.published, one.difference
        digits = 4 if published.acr is None else max(4, published.rounded_to)
        span = ""
        if published.low is not None and published.high is not None:
            span = f" [{number(published.low, digits=digits)}, {number(published.high, digits=digits)}]"
        judged, models = (None, None) if difference is None else (difference.procedures, difference.models)

        def word(judgement: Judgement[str] | None) -> Cell:
            if judgement is None:
                reason = "not judged: one seed" if len(one.group.seeds) == 1 else "not judged"
                return Cell("–" if difference is None else reason, tone="muted")
            terms = " (under other terms)" if one.differs else ""
            return Cell(f"{judgement.verdict}{terms}", tone="muted" if terms else "")

        return {
            "σ": sigma_cell(published.sigma),
            "entry": Cell(one.group.label),
            "published ACR": Cell(f"{number(one.acr, digits=digits)}{span}", one.acr),
            "their seeds": number_cell(one.seeds, digits=0),
            "measured": number_cell(one.group.acr, digits=4),
            "this recipe, less published [95 %]": Cell("–") if judged is None else ends_cell(judged),
            "this recipe is": word(judged),
            "these models [95 %]": Cell("–") if models is None else ends_cell(models),
            "these models are": word(models),
            "images": Cell(one.images),
            "source": Cell(published.source),
            "other than published": Cell(one.differs or "nothing"),
        }

    return Table.of(map(row, comparisons))


def section(results: Results) -> Section | None:
    """Return the section; None where the study file names neither claims nor published results that are certified."""
    claims, published = judge_claims(results), compare_with_published(results)
    if not claims and not published:
        return None
    sentence = claim_sentence(claims) if claims else f"{len(published)} published results beside ours."
    content = {
        "claims": claim_table(claims),
        "sentence": sentence,
        "published": published_table(published),
    }
    return Section("claims", content, finding=sentence)
