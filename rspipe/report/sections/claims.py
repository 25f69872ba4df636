"""What others have published or claimed, beside what is measured here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.records import Interval
from rspipe.report.differences import Difference, differences
from rspipe.report.page import element, paragraph, table_html
from rspipe.report.results import Results, sides
from rspipe.report.tables import TONES, Cell, Table, bracketed, number, number_cell
from rspipe.smoothing.metrics import mean_interval
from rspipe.study.claims import Claim, PublishedResult

Agreement = Literal["agrees", "higher", "lower"]

ClaimVerdict = Literal["reproduced", "not significant", "contradicted"]


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


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and the paired difference that speaks for or against it."""

    claim: Claim
    difference: Difference
    verdict: ClaimVerdict


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
    found = []
    for one in results.study.published:
        side = sides(results, sigma=one.sigma).get(one.entry)
        if side is None or (examples := side.examples()).size == 0:
            continue
        measured = _within(
            mean_interval(side.credit(examples)), sample=examples.size, images=max(one.images, examples.size)
        )
        low, high = one.span
        difference = Interval(estimate=measured.estimate - one.acr, low=measured.low - high, high=measured.high - low)
        verdict: Agreement = "higher" if difference.low > 0 else "lower" if difference.high < 0 else "agrees"
        found.append(PublishedComparison(one, side.label, measured, int(examples.size), difference, verdict))
    return tuple(found)


_VERDICTS: dict[str, ClaimVerdict] = {
    "higher": "reproduced",
    "lower": "contradicted",
    "not significant": "not significant",
}


def judge_claims(results: Results) -> tuple[JudgedClaim, ...]:
    """Return every claim at every noise level where both its entries are certified, with a verdict.

    A claim is reproduced where the paired 95 % interval of the difference lies above 0, contradicted where it lies
    below, and otherwise the images do not decide.
    """
    return tuple(judged for claim in results.study.claims for judged in _judged(results, claim))


def _judged(results: Results, claim: Claim) -> Iterator[JudgedClaim]:
    for sigma in claim.sigma or results.study.sigmas:
        there = sides(results, sigma=sigma)
        if claim.first in there and claim.second in there:
            for difference in differences("claim", sigma, [(there[claim.first], there[claim.second])]):
                yield JudgedClaim(claim, difference, _VERDICTS[difference.verdict])


def published_table(comparisons: Sequence[PublishedComparison]) -> Table:
    """Return one row per published result: published, measured, difference."""

    def row(one: PublishedComparison) -> dict[str, Cell]:
        published, (low, high) = one.published, one.published.span
        span = f" [{number(low, digits=4)}, {number(high, digits=4)}]" if low < high else ""
        return {
            "σ": number_cell(published.sigma, digits=2),
            "entry": Cell(one.label),
            "published ACR": Cell(f"{number(published.acr, digits=4)}{span}", published.acr),
            "measured [95 %]": Cell(bracketed(one.measured), one.measured.estimate),
            "difference [95 %]": Cell(bracketed(one.difference, signed=True), one.difference.estimate),
            "measured": Cell(one.verdict, tone=TONES[one.verdict]),
            "images": Cell(f"{one.images:,} of {published.images:,}", one.images),
            "source": Cell(published.source),
            "other than published": Cell(published.differs or "nothing"),
        }

    return Table.of(map(row, comparisons))


def claim_table(claims: Sequence[JudgedClaim]) -> Table:
    """Return one row per claim and noise level: what was published, what is measured, and the verdict."""

    numbers = any(one.claim.by is not None for one in claims)
    sources = any(one.claim.source for one in claims)

    def row(one: JudgedClaim) -> dict[str, Cell]:
        difference, by = one.difference, one.claim.by
        return {
            "σ": number_cell(difference.sigma, digits=2),
            "larger ACR": Cell(difference.first_label),
            "than": Cell(difference.second_label),
            **({"published": Cell("–" if by is None else number(by, signed=True), by)} if numbers else {}),
            "measured [95 %]": Cell(bracketed(difference.difference, signed=True), difference.difference.estimate),
            "verdict": Cell(one.verdict, tone=TONES[one.verdict]),
            "images": number_cell(difference.images, digits=0),
            **({"source": Cell(one.claim.source)} if sources else {}),
        }

    return Table.of(map(row, claims))


def claims_part(results: Results) -> str:
    """What others have published or claimed; nothing where the study file names none."""
    content = ""
    if claims := judge_claims(results):
        content += element("h3", "Claims") + table_html(claim_table(claims), name="larger ACR")
        content += paragraph(
            "Reproduced: the paired 95 % interval of the difference lies above 0; contradicted: below. Not "
            "significant: these images do not decide.",
            style="soft",
        )
    if published := compare_with_published(results):
        content += element("h3", "Published results") + table_html(published_table(published), name="entry")
        content += paragraph(
            "The interval is for the ACR on all the images that the published one is over; that of the difference "
            "holds the spread of the published seeds, too. Neither knows how another training would have come out.",
            style="soft",
        )
    return content
