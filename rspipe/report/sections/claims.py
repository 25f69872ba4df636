"""Section: published results and claims beside the measurements of the study."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.records import Interval
from rspipe.report.differences import Comparison
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, interval_cell, number, number_cell, verdict_cell
from rspipe.smoothing.inference import relation
from rspipe.smoothing.metrics import mean_interval
from rspipe.study.claims import Claim, PublishedResult

Agreement = Literal["agrees", "higher", "lower"]

ClaimVerdict = Literal["reproduced", "not significant", "contradicted", "one member alone"]


@dataclass(frozen=True)
class PublishedComparison:
    """A published ACR beside the measured one."""

    published: PublishedResult
    label: str
    """The entry, with the number of its seeds."""
    measured: Interval
    """ACR on the images certified here; the interval is for the ACR on all images that the published one is over."""
    images: int
    difference: Interval
    """Measured minus published mean; the interval holds the spread of their seeds, too."""
    verdict: Agreement


_VERDICTS: dict[str, ClaimVerdict] = {
    "higher": "reproduced",
    "lower": "contradicted",
    "undecided": "not significant",
}


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and the paired difference that speaks for or against it."""

    claim: Claim
    comparison: Comparison
    no_ensemble: bool
    """Whether an ensemble that it is about gives all weight to one member, and is that model."""

    @property
    def verdict(self) -> ClaimVerdict:
        """Whether the interval of the difference lies above 0, below, or around it."""
        if self.no_ensemble:
            return "one member alone"
        return _VERDICTS[relation(self.comparison.difference.models)]


def _within(interval: Interval, *, sample: int, images: int) -> Interval:
    """Return a 95 % interval for the mean over `images` images, of which `sample` were drawn without replacement."""
    share = np.sqrt(max(0.0, 1 - sample / images))
    low, high = ((bound - interval.estimate) * share + interval.estimate for bound in (interval.low, interval.high))
    return Interval(estimate=interval.estimate, low=low, high=high)


def compare_with_published(results: Results) -> tuple[PublishedComparison, ...]:
    """Return every published result whose entry is certified, beside the measured one.

    The interval is normal, with the correction for a finite number of images: on all of them, it is a point. It knows
    nothing of how another training would have come out but through the spread of the published seeds.
    """
    comparisons = []
    for one in results.study.published:
        group = results.groups(one.sigma).get(one.entry)
        if group is None or group.examples.size == 0:
            continue
        images = group.examples.size
        measured = _within(mean_interval(group.mean_credits), sample=images, images=max(one.images, images))
        low, high = one.span
        difference = Interval(estimate=measured.estimate - one.acr, low=measured.low - high, high=measured.high - low)
        verdict: Agreement = "higher" if difference.low > 0 else "lower" if difference.high < 0 else "agrees"
        comparisons.append(PublishedComparison(one, group.label, measured, int(images), difference, verdict))
    return tuple(comparisons)


def judge_claims(results: Results) -> tuple[JudgedClaim, ...]:
    """Return every claim at every noise level where both its entries are certified, with a verdict.

    A claim is reproduced where the paired 95 % interval of the difference lies above 0, contradicted where it lies
    below, and otherwise the images do not decide.
    """
    return tuple(judged for claim in results.study.claims for judged in _judged(results, claim))


def _judged(results: Results, claim: Claim) -> Iterator[JudgedClaim]:
    for sigma in claim.sigma or results.study.sigmas:
        groups = results.groups(sigma)
        if claim.first in groups and claim.second in groups:
            comparison = results.compare(groups[claim.first], groups[claim.second], sigma=sigma)
            if comparison is not None:
                alone = {one.name for one in results.compositions(sigma) if one.no_ensemble}
                yield JudgedClaim(claim, comparison, no_ensemble=not alone.isdisjoint({claim.first, claim.second}))


def published_table(comparisons: Sequence[PublishedComparison]) -> Table:
    """Return one row per published result: published, measured, difference."""

    def row(one: PublishedComparison) -> dict[str, Cell]:
        published, (low, high) = one.published, one.published.span
        span = f" [{number(low, digits=4)}, {number(high, digits=4)}]" if low < high else ""
        return {
            "σ": number_cell(published.sigma, digits=2),
            "entry": Cell(one.label),
            "published ACR": Cell(f"{number(published.acr, digits=4)}{span}", published.acr),
            "measured [95 %]": interval_cell(one.measured),
            "difference [95 %]": interval_cell(one.difference, signed=True),
            "measured": verdict_cell(one.verdict),
            "images": Cell(f"{one.images:,} of {published.images:,}", one.images),
            "source": Cell(published.source),
            "other than published": Cell(published.differs or "nothing"),
        }

    return Table.of(map(row, comparisons))


def claim_table(claims: Sequence[JudgedClaim]) -> Table:
    """Return one row per claim and noise level: the published difference, the measured one, and the verdict."""

    numbers = any(one.claim.by is not None for one in claims)
    sources = any(one.claim.source for one in claims)

    def row(one: JudgedClaim) -> dict[str, Cell]:
        comparison, by = one.comparison, one.claim.by
        return {
            "σ": number_cell(comparison.sigma, digits=2),
            "larger ACR": Cell(comparison.first_label),
            "than": Cell(comparison.second_label),
            **({"published": Cell("–" if by is None else number(by, signed=True), by)} if numbers else {}),
            "measured [95 %]": interval_cell(comparison.difference.models, signed=True),
            "verdict": verdict_cell(one.verdict),
            "images": number_cell(comparison.images, digits=0),
            **({"source": Cell(one.claim.source)} if sources else {}),
        }

    return Table.of(map(row, claims))


def section(results: Results) -> Section | None:
    """Return the section; None where the study file names neither claims nor published results that are certified."""
    claims, published = judge_claims(results), compare_with_published(results)
    if not claims and not published:
        return None
    return Section("claims", {"claims": claim_table(claims), "published": published_table(published)})
