"""What others have published or claimed, beside what is measured here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.entries import Claim, PublishedResult
from rspipe.metrics import mean_interval
from rspipe.records import Difference, Interval
from rspipe.summaries import Results, differences, sides

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
