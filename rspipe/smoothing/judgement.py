"""An estimate whose variance has parts known with different degrees of freedom: its interval, p-value and verdict."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from scipy.special import ndtri, stdtr, stdtrit

from rspipe.records import Interval

Word_co = TypeVar("Word_co", bound=str, covariant=True)

LEVEL = 0.05
"""Of the intervals and of the verdicts: the share called different where there is no difference."""


class Part(NamedTuple):
    """A part of the variance of an estimate, and the degrees of freedom with which it is known."""

    variance: float
    df: float


NOTHING = Part(0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class Judgement(Interval, Generic[Word_co]):
    """An estimate with its 95 % interval for one scope, and its verdict."""

    se: float
    """Root of the sum of the variances."""
    df: float
    """Degrees of freedom of the seeds' variance; of the images' where seeds are no part of the scope."""
    p: float
    """The level at which the interval would just reach 0; 0 below 1e-100."""
    seed_variance: float
    image_variance: float
    rounding_variance: float
    """Of a published figure; 0 elsewhere."""
    detectable: float
    """The smallest difference that such data detect with a probability of about 0.8."""
    verdict: Word_co


def half_width(parts: Sequence[Part], *, level: float = LEVEL) -> float:
    """Return the half width of a two-sided interval: the parts' own t intervals, added in quadrature.

    One number of degrees of freedom for the sum (Satterthwaite) would call 12 % different instead of 6 % with two seeds
    a side: it is large whenever the seeds lie close together by chance.
    """
    return math.hypot(*(t_quantile(part.df, level) * math.sqrt(part.variance) for part in parts))


def p_value(estimate: float, parts: Sequence[Part]) -> float:
    """Return the level at which the interval around an estimate would just reach 0; 0 below 1e-100."""
    size, parts = abs(estimate), [part for part in parts if part.variance > 0]
    if size == 0 or any(math.isinf(part.variance) for part in parts):
        return 1.0
    low, high = math.log(1e-100), 0.0
    if half_width(parts, level=math.exp(low)) <= size:
        return 0.0
    if len(parts) == 1:
        (part,) = parts
        return float(2 * stdtr(part.df, -size / math.sqrt(part.variance)))
    # The half width falls as the level rises; 60 halvings leave 2e-16 of log p.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if half_width(parts, level=math.exp(middle)) > size else (low, middle)
    return math.exp(high)


def t_quantile(df: float, level: float) -> float:
    """Return the quantile of Student's t, normal for infinite df, that has half of `level` above it."""
    return float(-stdtrit(df, level / 2)) if 0 < df < math.inf else float(-ndtri(level / 2))


def judge(
    estimate: float,
    *,
    words: tuple[Word_co, Word_co, Word_co],
    seeds: Part = NOTHING,
    images: Part = NOTHING,
    rounding: float = 0.0,
    counts: Sequence[int] = (),
    fixed: Judgement[str] | None = None,
) -> Judgement[Word_co]:
    """Return an estimate with its interval, p-value and verdict.

    Args:
        estimate: Of a difference.
        words: The verdicts where the interval lies above 0, below 0, and around it.
        seeds: Variance of the estimate from the choice of seeds.
        images: And from the choice of images.
        rounding: And from the rounding of published figures, which is known.
        counts: Seeds of each group, where seeds are part of the scope.
        fixed: The judgement of the same models without the choice of seeds: with it, no interval is narrower.
    """
    estimate, parts = float(estimate), (seeds, images, Part(rounding, math.inf))
    half, p = half_width(parts), p_value(estimate, parts)
    detectable = _detectable(seeds.variance, images.variance + rounding, counts)
    if fixed is not None:
        # A few seeds can lie closer together by chance than the images alone allow.
        # The interval of shares is not centred on its estimate.
        fixed_half = max(fixed.high - estimate, estimate - fixed.low)
        p = max(p, fixed.p) if half < fixed_half else p
        half, detectable = max(half, fixed_half), max(detectable, fixed.detectable)
    low, high = estimate - half, estimate + half
    return Judgement(
        estimate=estimate,
        low=low,
        high=high,
        se=math.sqrt(sum(part.variance for part in parts)),
        df=seeds.df if counts else images.df,
        p=p,
        seed_variance=seeds.variance,
        image_variance=images.variance,
        rounding_variance=rounding,
        detectable=detectable,
        verdict=words[0] if low > 0 else words[1] if high < 0 else words[2],
    )


def welch(parts: Sequence[Part]) -> Part:
    """Return the sum of independent variances with Welch's degrees of freedom; those of all where each is 0."""
    total = float(sum(part.variance for part in parts))
    if total == 0:
        return Part(0.0, sum(part.df for part in parts))
    return Part(total, 1 / float(sum((part.variance / total) ** 2 / part.df for part in parts)))


def _detectable(seeds: float, others: float, counts: Sequence[int]) -> float:
    """Return the smallest difference detected with probability 0.8, from variances: by simulation .67 to .81."""
    df = sum(count - 1 for count in counts)
    detected = math.hypot(t_quantile(df, LEVEL) * math.sqrt(seeds), t_quantile(math.inf, LEVEL) * math.sqrt(others))
    detected += 0.84 * math.sqrt(seeds + others)
    if counts and min(counts) <= 2:
        # Their variance has one to two degrees of freedom, not the two of equal ones.
        return detected * (2 if seeds > others else 1.5)
    return detected
