"""The sigma, n and alpha that the radii of a certification log imply, and radii that are too large."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.audit.columns import is_number
from rspipe.audit.ladder import (
    ALPHAS,
    LARGEST,
    SIGMAS,
    SIZES,
    SURE,
    Ladder,
    fit_ladders,
    nearest_successes,
    on_ladder,
    proved_radius,
)
from rspipe.audit.log import LEVEL_COLUMNS, SIZE_COLUMN, CertificationLog, Precision
from rspipe.audit.rows import Finding, counted, note, problem, some
from rspipe.smoothing.cascades import LIKELY_SHARE
from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower
from rspipe.smoothing.metrics import average_certified_radius, saturated

CUSTOMARY_ALPHA = 0.001
"""Failure probability in the literature; a log of a larger one cannot be compared with it."""

RADII = tuple(0.25 * step for step in range(17))
"""At which certified accuracy is tabulated, in pixel units."""

_SATURATED = 0.1
"""Share of images from which on it is said that n limits the ACR."""

_FINE = 1e-5
"""Digits of radii that are too fine for their rounding to matter."""

_OTHER_LEVELS = 4
"""Levels that a cascade is taken to have at most, beside the one that answers."""

_FAR = 10.0
"""Difference of evidence from which on a ladder is far worse than another."""

_FIT = 0.99
"""Share of radii that must lie on a ladder for it to be theirs."""


@dataclass(frozen=True)
class Known:
    """Facts about a log that are known beforehand; those that are None are inferred as far as possible."""

    sigma: float | None = None
    """Standard deviation of the noise, in pixel units; from the file's name, or the radii, by default."""
    n: int | None = None
    """Samples of the estimate that the log should be of; any by default."""
    alpha: float | None = None
    """Failure probability that the log should be of; 0.001 by default."""
    images: int | None = None
    """Number of images of the whole test set."""

    def __post_init__(self) -> None:
        for name, most in (("sigma", 1e3), ("n", 1e9), ("alpha", 0.5), ("images", 1e9)):
            value = getattr(self, name)
            if value is not None and not 0 < value < most:
                raise ValueError(f"{name} must lie between 0 and {most:g}, got {value}")


def logged_sigma(log: CertificationLog) -> float | None:
    """Return the noise level that a log names: in a column, or in its path, the file before its folders.

    `sigma_0.25`, `noise_0.25` and `-s0.25-` are understood.
    """
    named = set(log.extra.get("sigma", ()))
    if len(named) == 1 and re.fullmatch(r"\d{1,3}(\.\d{1,6})?", text := named.pop()) and float(text) > 0:
        return float(text)
    for part in reversed(PurePath(log.name).parts):
        for pattern in (r"sigma[_=-]?(\d+(?:\.\d+)?)", r"noise[_=-]?(\d+(?:\.\d+)?)", r"-s(\d+(?:\.\d+)?)-"):
            values = [float(text) for text in re.findall(pattern, part, re.ASCII) if len(text) < 8]
            if values and 0 < values[-1] < 1e3:
                return values[-1]
    return None


@dataclass(frozen=True)
class Levels:
    """Which level of a cascade over noise levels answers; arrays are [row]."""

    level: IntArray
    """From 1; 0 where none does."""
    sigma: FloatArray
    """Its noise; NaN where none answers."""

    @property
    def first(self) -> BoolArray:
        """[row] whether the first level answers: its radii alone have rungs of one ladder."""
        return np.equal(self.level, 1)

    @property
    def sigmas(self) -> dict[int, float]:
        """The noise of each level that answers some image."""
        pairs = zip(self.level.tolist(), self.sigma.tolist(), strict=True)
        return dict(sorted({level: sigma for level, sigma in pairs if level}.items()))


def logged_levels(log: CertificationLog) -> Levels | None:
    """Return what a cascade's log says of its levels (`LEVEL_COLUMNS`); None of any other log."""
    if not all(name in log.extra for name in LEVEL_COLUMNS):
        return None
    level, sigma = (np.array(log.extra[name]) for name in LEVEL_COLUMNS)
    answered = level != ""
    if not all(map(str.isdecimal, level[answered])) or not all(map(is_number, sigma[answered])):
        return None
    numbers, noises = np.zeros(level.size, dtype=np.int64), np.full(level.size, np.nan)
    numbers[answered], noises[answered] = level[answered].astype(np.int64), sigma[answered].astype(np.float64)
    return Levels(numbers, noises)


def without_ladder(log: CertificationLog) -> str:
    """Return why radii have no rungs of one ladder, in words; empty where they may have."""
    if (name := log.rule.partition(" ")[0]) not in ("fixed", "planned"):
        mean = ", and their ACR is a lower bound" if name == "radius_grid" else ""
        return f"certificates by {name} are not CERTIFY's: n and alpha cannot be told from the radii{mean}"
    if any(len(set(log.extra.get(column, ()))) > 1 for column in ("samplesize", "samples", SIZE_COLUMN)):
        return "the number of samples varies by image, so n and alpha cannot be told from the radii"
    return ""


def check_cascade(
    levels: Levels,
    idx: IntArray,
    radius: FloatArray,
    claimed: BoolArray,
    *,
    precision: Precision,
    known: Known,
    without: str = "",
) -> Iterator[Finding]:
    """Find radii that a cascade over noise levels cannot have, as far as its log tells.

    Radii of its first level are those of CERTIFY with a share of alpha; what was handed on is limited by bounds of
    several levels, and can only be compared with the largest radius of the level that answers.

    Args:
        levels: [image].
        idx: [image].
        radius: [image], pixel units.
        claimed: [image], whether something is certified.
        precision: How radii are written.
        known: What is known beforehand.
        without: Of `without_ladder`.
    """
    silent = idx[claimed & (levels.level == 0)].tolist()
    if silent:
        yield problem(f"{counted(len(silent), 'image')} with a radius and no level that answers (idx {some(silent)})")
    yield from _out_of_reach(idx, radius, levels.sigma)
    if without:
        yield note(without)
        return
    sigmas, alpha = levels.sigmas, known.alpha or CUSTOMARY_ALPHA
    if 1 not in sigmas:
        yield note("no image is answered by the first level, so that n cannot be told from the radii")
        return
    own = radius[levels.first]
    sizes = (known.n,) if known.n else SIZES
    ladders = fit_ladders(own, precision, sigmas=(sigmas[1],), alphas=(LIKELY_SHARE * alpha,), sizes=sizes)
    if not _sure(ladders, own, precision):
        yield _undecided(ladders, own, precision)
        return
    likely = ladders[0]
    yield note(
        f"radii of the first level imply {parameters_text(likely)}, a share of {LIKELY_SHARE:g} of {alpha:g}; those "
        "of later levels are limited by several bounds, which `check_run.py` proves from a run's counts"
    )
    # Where the selection expected another level, the share is the rest's, over so many others.
    rest = [replace(likely, alpha=(1 - LIKELY_SHARE) * alpha / number) for number in range(1, _OTHER_LEVELS + 1)]
    fits = np.any([on_ladder(radius, precision, one) for one in (likely, *rest)], axis=0)
    reach = np.nan_to_num(levels.sigma) / likely.sigma * likely.cap
    beyond = claimed & (levels.level > 0) & (radius > reach + precision.step(radius))
    for rows, what in (
        (beyond, "above the largest possible one of the level that answers"),
        (claimed & levels.first & ~beyond & ~fits, "on no rung of the first level's ladder"),
    ):
        if rows.any():
            yield problem(f"{int(rows.sum()):,} of {radius.size:,} radii are {what} ({_examples(idx, radius, rows)})")


def _examples(idx: IntArray, radius: FloatArray, rows: BoolArray) -> str:
    shown = zip(idx[rows].tolist(), radius[rows].tolist(), strict=True)
    return f"idx {some([f'{i}: {r:g}' for i, r in shown])}"


def implied_ladder(
    log: CertificationLog, idx: IntArray, radius: FloatArray, precision: Precision, known: Known
) -> tuple[float | None, Ladder | None, list[Finding]]:
    """Return sigma as far as it is known, the ladder that radii imply or None, and what is to be said of it.

    Args:
        log: Where they come from.
        idx: [claimed] images without abstentions.
        radius: [claimed].
        precision: How radii are written.
        known: What is known beforehand.
    """
    sigma = known.sigma or logged_sigma(log)
    if without := without_ladder(log):
        return sigma, None, [*_out_of_reach(idx, radius, sigma or math.nan), note(without)]
    alphas = tuple(dict.fromkeys((known.alpha or CUSTOMARY_ALPHA, *ALPHAS)))
    sizes = tuple(dict.fromkeys((known.n or SIZES[0], *SIZES)))
    ladders = fit_ladders(radius, precision, sigmas=(sigma,) if sigma else SIGMAS, alphas=alphas, sizes=sizes)
    findings = list[Finding]()
    if sigma and not known.sigma and _misfit(ladders, radius, precision):
        others = fit_ladders(radius, precision, sigmas=[one for one in SIGMAS if one != sigma])
        if _sure(others, radius, precision) and not _misfit(others, radius, precision):
            findings.append(problem(f"the name says sigma = {sigma:g}, but the radii are those of {others[0].sigma:g}"))
            ladders, sigma = others, others[0].sigma
    if _sure(ladders, radius, precision):
        return ladders[0].sigma, ladders[0], findings
    findings += _out_of_reach(idx, radius, sigma or math.nan)
    findings.append(_undecided(ladders, radius, precision))
    return sigma, None, findings


def _out_of_reach(idx: IntArray, radius: FloatArray, sigma: FloatArray | float) -> Iterator[Finding]:
    if beyond := idx[radius > LARGEST * sigma].tolist():
        yield problem(f"{len(beyond):,} radii are beyond {LARGEST:g} sigma, out of reach (idx {some(beyond)})")


def _rivals(ladders: list[Ladder]) -> list[Ladder]:
    return [one for one in ladders[1:] if ladders[0].evidence - one.evidence < SURE]


def _sure(ladders: list[Ladder], radius: FloatArray, precision: Precision) -> bool:
    if not ladders or ladders[0].evidence < SURE or _rivals(ladders):
        return False
    if ladders[0].alpha == CUSTOMARY_ALPHA or on_ladder(radius, precision, ladders[0]).all():
        return True
    # Some hundreds are tried, and one that is unusual may fit by chance, all but a few radii.
    customary = [one for one in _near(ladders) if one.alpha == CUSTOMARY_ALPHA]
    return not any(on_ladder(radius, precision, one).all() for one in customary)


def _near(ladders: list[Ladder]) -> list[Ladder]:
    """Return the best ladder and those that are not far worse: one of many close rungs explains whatever is written."""
    return [one for one in ladders if ladders[0].evidence - one.evidence < _FAR]


def _undecided(ladders: list[Ladder], radius: FloatArray, precision: Precision) -> Finding:
    """Return why no ladder is implied."""
    if not ladders:
        return note("there are no radii from which n and alpha could be told")
    best = ladders[0]
    if _misfit(ladders, radius, precision):
        share = 100 * float(on_ladder(radius, precision, best).mean())
        return problem(
            f"no n and alpha that were tried explain the radii ({parameters_text(best)} explains {share:.0f} %): "
            "n varies by image, sigma or n are unusual (then say which), or CERTIFY did not make them"
        )
    fitting = [parameters_text(one) for one in (best, *_rivals(ladders))]
    shown = " or ".join(fitting[:2]) + (f" or {len(fitting) - 2} others" if len(fitting) > 2 else "")
    return note(f"n and alpha cannot be told from the radii; they would fit {shown}")


def parameters_text(ladder: Ladder) -> str:
    """Return the parameters of CERTIFY in words."""
    return f"sigma = {ladder.sigma:g}, n = {ladder.n:,}, alpha = {ladder.alpha:g}"


def _misfit(ladders: list[Ladder], radius: FloatArray, precision: Precision) -> bool:
    """Whether no ladder explains the radii, the best one or another that is not far worse."""
    if not ladders or ladders[0].evidence >= SURE:
        return not ladders
    return all(float(on_ladder(radius, precision, one).mean()) < _FIT for one in _near(ladders))


def check_radii(
    ladder: Ladder,
    idx: IntArray,
    radius: FloatArray,
    correct: BoolArray,
    claimed: BoolArray,
    *,
    precision: Precision,
    known: Known,
) -> Iterator[Finding]:
    """Find radii that a ladder does not explain, and what its alpha and its rounding do to the results."""
    step = precision.step(radius)
    beyond = claimed & (radius > ladder.cap + step)
    off = claimed & ~beyond & ~on_ladder(radius, precision, ladder)
    for rows, what in (
        (beyond, f"above the largest possible one, {ladder.cap:.5f}"),
        (off, "on no rung of the ladder"),
    ):
        if rows.any():
            yield problem(f"{int(rows.sum()):,} of {radius.size:,} radii are {what} ({_examples(idx, radius, rows)})")
    share = float(np.mean(claimed & saturated(nearest_successes(radius, ladder), ladder.n)))
    if share >= _SATURATED:
        yield note(
            f"{100 * share:.0f} % of the images are at the largest radius of n samples, {ladder.cap:.4f}: n limits "
            "their part of the ACR, not the model"
        )
    expected = known.alpha or CUSTOMARY_ALPHA
    if not np.isclose(ladder.alpha, expected):
        bound = clopper_pearson_lower(nearest_successes(radius, ladder), ladder.n, alpha=expected)
        again = np.where(claimed & ~beyond, certified_radius(bound, sigma=ladder.sigma), 0.0)
        kind = problem if ladder.alpha > expected else note
        yield kind(
            f"alpha is {ladder.alpha:g}, not {expected:g}: with the same counts the ACR at {expected:g} is "
            f"{average_certified_radius(again, correct & (bound >= 0.5)):.4f} instead of "
            f"{average_certified_radius(radius, correct):.4f}"
        )
    if known.n and ladder.n != known.n:
        yield problem(f"n is {ladder.n:,}, not {known.n:,}")
    yield from _rounding(ladder, radius, correct, claimed & ~beyond & ~off, precision=precision)


def _rounding(
    ladder: Ladder, radius: FloatArray, correct: BoolArray, fitting: BoolArray, *, precision: Precision
) -> Iterator[Finding]:
    if ladder.rounding == "down" or not fitting.any() or precision.step(radius[fitting]).max() < _FINE:
        return
    proved = proved_radius(radius, precision, ladder)
    up = fitting & (radius > proved)
    gained = {at: int(np.sum(up & correct & (radius >= at) & (proved < at))) for at in RADII[1:]}
    by_radius = ", ".join(f"{count} at {at:g}" for at, count in gained.items() if count)
    most = float(np.max(np.where(up, radius - proved, 0.0)))
    text = (
        f"radii are rounded {'up' if ladder.rounding == 'up' else 'to the nearest'}, so that up to {int(up.sum()):,} "
        f"claim more than was proved, by {most:.2g} at most"
    )
    if by_radius:
        text += f"; images that may count in certified accuracy for that reason alone: {by_radius}"
    yield problem(text) if ladder.rounding == "up" else note(text)
