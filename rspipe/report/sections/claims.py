"""Section: published results and claims beside the measurements of the study."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.report.differences import Comparison, Group, with_holm
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import TONES, Cell, Table, ends_cell, not_judged, number, number_cell
from rspipe.smoothing.judgement import Judgement
from rspipe.smoothing.published import (
    Figure,
    FigureDifference,
    SizeVerdict,
    difference_from_figure,
    difference_from_published,
    seed_sd_of_range,
)
from rspipe.study.claims import Claim, PublishedResult

Reproduction = Literal["reproduced", "contradicted", "undecided", "not judged", "other data", "one member alone"]


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and the paired difference that speaks for or against it."""

    claim: Claim
    comparison: Comparison
    """Of the entry that was published as the larger one, less the other."""
    by: float | None
    """That it was published to be larger by."""
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


@dataclass(frozen=True)
class PublishedComparison:
    """A published ACR beside the measured one."""

    published: PublishedResult
    group: Group
    difference: FigureDifference | None
    """Measured minus published; None where the images do not allow a comparison."""
    images: str
    """Those certified here, and those of the published ACR, in words."""


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
            by=_size(claim),
            size=_judged_size(results, claim, comparison),
            procedures_hold=procedures,
            models_hold=models,
            no_ensemble=not alone.isdisjoint((comparison.sigma, name) for name in (claim.first, claim.second)),
        )
        for (claim, _), (comparison, procedures, models) in zip(pairs, family, strict=True)
    )


def _size(claim: Claim) -> float | None:
    return None if claim.by is None else abs(claim.by)


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
    by, judged = _size(claim), comparison.difference.procedures
    groups, names = results.groups(comparison.sigma), (comparison.first, comparison.second)
    # Of labels alone: an ensemble's difference has seeds of both sides in common.
    if by is None or judged is None or judged.verdict != "holds here" or not {*names} <= {*groups}:
        return None
    first, second = (groups[name] for name in names)
    shared = np.intersect1d(first.examples, second.examples)
    return difference_from_published(
        first.on(shared).credits,
        second.on(shared).credits,
        by,
        decimals=3,
        seeds=(claim.seeds, claim.seeds),
        population=comparison.difference.population,
    )


def compare_with_published(results: Results) -> tuple[PublishedComparison, ...]:
    """Return every published result whose entry is certified, beside the measured one."""
    comparisons = []
    for one in results.study.published:
        group = results.groups(one.sigma).get(one.entry)
        if group is not None and group.examples.size:
            comparisons.append(_beside_figure(results, one, group))
    return tuple(comparisons)


def _beside_figure(results: Results, one: PublishedResult, group: Group) -> PublishedComparison:
    """Return a published ACR beside a group's, over its images where these allow it.

    Ours are all of theirs, a sample of them, or a sample of the same test set; the first images are no sample of any.
    """
    own, theirs = group.examples, np.asarray(one.examples)
    count = own.size
    shared = np.intersect1d(own, theirs).size
    ours_are_first = results.population(count) is not None or bool(np.array_equal(own, np.arange(count)))
    if shared == count == theirs.size:
        images: Literal["among theirs", "others", ""] = "among theirs"
        words = f"the same {count:,}"
    elif shared == count:
        images = "" if ours_are_first else "among theirs"
        words = f"{count:,} of their {theirs.size:,}"
    else:
        # The first images of a longer test set are no sample of it either.
        images = "" if ours_are_first or one.every == 1 else "others"
        words = f"{count:,}, of theirs {shared:,} of {theirs.size:,}"
    if not images:
        return PublishedComparison(one, group, None, f"{words}: no sample of each other, not compared")
    seed_sd = None
    if one.low is not None and one.high is not None:
        seed_sd = seed_sd_of_range(one.low, one.high, seeds=one.seeds)
    figure = Figure(acr=one.acr, images=theirs.size, decimals=one.rounded_to, seeds=one.seeds, seed_sd=seed_sd)
    return PublishedComparison(one, group, difference_from_figure(group.credits, figure, images=images), words)


def _word(judgement: Judgement[str], *, sure: bool) -> Cell:
    """Return a verdict in words: with Holm's correction where it leaves it, or with what could have been detected."""
    if judgement.verdict == "undecided":
        return Cell(f"undecided (detectable {number(judgement.detectable, digits=4)})", tone="muted")
    tone = TONES["higher" if judgement.low > 0 else "lower"]
    return Cell(f"{judgement.verdict} (with Holm)", tone=tone) if sure else Cell(judgement.verdict, tone="muted")


def claim_table(claims: Sequence[JudgedClaim]) -> Table:
    """Return one row per claim and noise level: published and measured difference, and the verdicts of both scopes."""
    numbers = any(one.by is not None for one in claims)
    sources = any(one.claim.source or one.claim.differs for one in claims)

    def row(one: JudgedClaim) -> dict[str, Cell]:
        comparison, by = one.comparison, one.by
        difference = comparison.difference
        judged = difference.procedures
        size = one.size
        published = {
            "published": Cell("–" if by is None else number(by, signed=True), by),
            "against published": Cell("–" if size is None else size.verdict),
        }
        terms = f" ({one.claim.differs})" if one.claim.differs else ""
        return {
            "σ": number_cell(comparison.sigma, digits=2),
            "larger ACR": Cell(comparison.first_label),
            "than": Cell(comparison.second_label),
            "measured": number_cell(difference.estimate, digits=4, signed=True),
            "procedures": (
                Cell(not_judged(difference), tone="muted")
                if judged is None
                else _word(judged, sure=one.procedures_hold)
            ),
            "models": _word(difference.models, sure=one.models_hold),
            "the claim itself": Cell(one.reproduction, tone=TONES.get(one.reproduction, "muted")),
            **(published if numbers else {}),
            "these procedures [95 %]": Cell("–") if judged is None else ends_cell(judged),
            "these models [95 %]": ends_cell(difference.models),
            "images": number_cell(difference.images, digits=0),
            **({"source": Cell(f"{one.claim.source}{terms}")} if sources else {}),
        }

    return Table.of(map(row, claims))


def claim_sentence(claims: Sequence[JudgedClaim]) -> str:
    """Return how many claims hold, in both scopes, with Holm's correction."""
    judged = [one for one in claims if one.comparison.difference.procedures is not None]
    procedures = sum(one.procedures_hold and one.comparison.difference.estimate > 0 for one in judged)
    models = sum(one.models_hold and one.comparison.difference.estimate > 0 for one in claims)
    return (
        f"With Holm's correction for all of them, {procedures} of {len(judged)} judged claims hold here for "
        f"procedures, and {models} of {len(claims)} for these models."
    )


def published_table(comparisons: Sequence[PublishedComparison]) -> Table:
    """Return one row per published result: published, measured, and their difference for both scopes."""

    def row(one: PublishedComparison) -> dict[str, Cell]:
        published, difference = one.published, one.difference
        digits = max(4, published.rounded_to)
        span = ""
        if published.low is not None and published.high is not None:
            span = f" [{number(published.low, digits=digits)}, {number(published.high, digits=digits)}]"
        judged, models = (None, None) if difference is None else (difference.procedures, difference.models)

        def word(judgement: Judgement[str] | None) -> Cell:
            if judgement is None:
                return Cell("not judged: one seed" if difference is not None else "–", tone="muted")
            terms = " (under other terms)" if published.differs else ""
            return Cell(f"{judgement.verdict}{terms}", tone="muted" if terms else "")

        return {
            "σ": number_cell(published.sigma, digits=2),
            "entry": Cell(one.group.label),
            "published ACR": Cell(f"{number(published.acr, digits=digits)}{span}", published.acr),
            "their seeds": number_cell(published.seeds, digits=0),
            "measured": number_cell(one.group.acr, digits=4),
            "this recipe, less published [95 %]": Cell("–") if judged is None else ends_cell(judged),
            "this recipe is": word(judged),
            "these models [95 %]": Cell("–") if models is None else ends_cell(models),
            "these models are": word(models),
            "images": Cell(one.images),
            "source": Cell(published.source),
            "other than published": Cell(published.differs or "nothing"),
        }

    return Table.of(map(row, comparisons))


def section(results: Results) -> Section | None:
    """Return the section; None where the study file names neither claims nor published results that are certified."""
    claims, published = judge_claims(results), compare_with_published(results)
    if not claims and not published:
        return None
    content = {
        "claims": claim_table(claims),
        "sentence": claim_sentence(claims),
        "published": published_table(published),
    }
    return Section("claims", content)
