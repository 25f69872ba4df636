"""Paired differences between classifiers of several runs, on images that all of them were certified on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any, Literal

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.data.spec import DataSpec
from rspipe.errors import MismatchError
from rspipe.records import Interval
from rspipe.report.tables import Cell, Table, bracketed, number
from rspipe.smoothing.certificates import Certificates, certify_counts, check_alpha
from rspipe.smoothing.derivation import ClassifierCounts, derive, first_samples
from rspipe.smoothing.metrics import paired_difference, verdict
from rspipe.smoothing.spec import check_can_certify

_ONLY_TRAINING = ("title", "train", "extra", "augment", "validation", "calibration", "seed")
"""What a data spec says of other splits than the test images."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison: a label with all its seeds, or an ensemble."""

    name: str
    """The label, or the ensemble's display name: what runs are matched by."""
    sigma: float
    counts: tuple[ClassifierCounts, ...]
    """One per seed; credited radii are averaged over them image by image."""

    @property
    def examples(self) -> IntArray:
        """Return the examples that all seeds were certified on, ascending."""
        return reduce(np.intersect1d, [counts.example for counts in self.counts])


@dataclass(frozen=True)
class CertifiedRun:
    """What a run directory says to a comparison."""

    name: str
    data: DataSpec
    contenders: tuple[Contender, ...]

    def find(self, name: str, *, sigma: float) -> Contender | None:
        """Return the contender of a name at a noise level, or None."""
        return next((one for one in self.contenders if (one.name, one.sigma) == (name, sigma)), None)


@dataclass(frozen=True)
class Comparison:
    """A paired difference of ACR, first minus second, on the images that both were certified on."""

    sigma: float
    first: str
    second: str
    """With run and number of seeds."""
    first_acr: float
    second_acr: float
    difference: Interval
    verdict: Literal["higher", "lower", "not significant"]
    """Of the first, by whether the 95 % interval leaves 0 out; not adjusted for the number of comparisons."""
    images: int


@dataclass(frozen=True)
class Terms:
    """Certificates that all runs can give: by their rule, or CERTIFY with the first n samples of the estimate."""

    n: int
    alpha: float
    by_rule: bool

    def certificates(self, counts: ClassifierCounts) -> Certificates:
        """Return the certificates of a classifier on these terms."""
        if self.by_rule:
            return derive(counts, alpha=self.alpha)
        first = first_samples(counts, self.n)
        return certify_counts(first.selection, first.estimation, sigma=counts.sigma, alpha=self.alpha)


def agreed_terms(
    runs: Sequence[CertifiedRun], *, rederive: bool = False, alpha: float | None = None, n: int | None = None
) -> Terms:
    """Return the terms on which runs are compared.

    Args:
        runs: At least one, each with contenders.
        rederive: Whether certificates may be derived from the counts where alpha, n or the rule differ: at the
            smallest alpha and the largest n that all counts have. The n0 of the selection stays each run's own.
        alpha: Another alpha; with `rederive` alone.
        n: Another n; with `rederive` alone.

    Raises:
        MismatchError: The runs are of other data, or differ and `rederive` is not set.
        ValueError: `alpha` or `n` is out of range, or given without `rederive`.
    """
    first, *others = runs
    for other in others:
        if (ours := tested_images(first.data)) != (theirs := tested_images(other.data)):
            raise MismatchError(f"{first.name} and {other.name} are of different test images: {ours} and {theirs}")
    every = [counts for run in runs for one in run.contenders for counts in one.counts]
    if not rederive:
        if alpha is not None or n is not None:
            raise ValueError("another alpha or n needs certificates derived from the counts: say --rederive, too")
        for other in others:
            if told := _different_terms(first, other):
                raise MismatchError(
                    f"{first.name} and {other.name} are not comparable: {told}; --rederive derives certificates on the "
                    "same terms from the counts"
                )
    level = min(counts.alpha for counts in every) if alpha is None else alpha
    check_alpha(level)
    alike = len({(_rule(counts), counts.n) for counts in every}) == 1
    if alike and n in (None, every[0].n):
        return Terms(every[0].n, level, by_rule=True)
    most = min(_samples_of_all(counts) for counts in every)
    size = most if n is None else n
    if not 1 <= size <= most:
        raise ValueError(f"n must lie in [1, {most}], the samples that every image of every classifier has; got {size}")
    check_can_certify(size, level)
    return Terms(size, level, by_rule=False)


def tested_images(data: DataSpec) -> dict[str, Any]:
    """Return what determines the test images that an example number stands for, JSON-like."""
    told = data.model_dump(mode="json", exclude=set(_ONLY_TRAINING))
    # The digits are numbered as a whole, whatever their splits.
    return {"name": "digits"} if data.name == "digits" else told


def _rule(counts: ClassifierCounts) -> str:
    """Return the rule with its parameters, in words."""
    # An image that misses the label counts 0 whether or not it was stopped.
    told = counts.rule.model_dump(mode="json", exclude={"name", "label_stop"})
    return " ".join([counts.rule.name, *(f"{name}={value}" for name, value in told.items())])


def _samples_of_all(counts: ClassifierCounts) -> int:
    """Return how many estimation samples there are of every image that was not given up as 0."""
    drawn = counts.drawn[~np.isin(counts.stop, ["label", "futility"])]
    return int(drawn.min(initial=counts.n))


def _different_terms(a: CertifiedRun, b: CertifiedRun) -> str:
    """Return in what runs differ that decides what a certificate means, in words; empty where they do not."""

    def terms(run: CertifiedRun) -> dict[str, list[str]]:
        every = [counts for one in run.contenders for counts in one.counts]
        return {
            "rule": sorted({_rule(counts) for counts in every}),
            "n": sorted({f"{counts.n:,}" for counts in every}),
            "alpha": sorted({f"{counts.alpha:g}" for counts in every}),
            "n0": sorted({f"{counts.n0:,}" for counts in every}),
        }

    ours, theirs = terms(a), terms(b)
    different = [name for name in ours if ours[name] != theirs[name]]
    return ", ".join(f"{name} is {'/'.join(ours[name])} and {'/'.join(theirs[name])}" for name in different)


def compare_runs(
    runs: Sequence[CertifiedRun], terms: Terms, *, against: str | None = None, common_images: bool = False
) -> tuple[Comparison, ...]:
    """Return paired differences between the runs' classifiers.

    Each classifier of the later runs is compared with that of the same name and noise level in the first run; where
    no name is common, with every one of the first run at its noise level.

    Args:
        runs: The first is what the others are compared with.
        terms: Of `agreed_terms`.
        against: Name of a classifier of the first run, to compare every other of all runs with at its noise level.
        common_images: Whether runs on different images are compared on those that they share.

    Raises:
        MismatchError: There is nothing to compare, or the images or their labels differ.
    """
    known: dict[int, Certificates] = {}
    found = []
    for (first_run, first), (second_run, second) in pairs_part(runs, against):
        here, there = first.examples, second.examples
        examples = np.intersect1d(here, there)
        if not common_images and not examples.size == here.size == there.size:
            raise MismatchError(
                f"{first.name} of {first_run.name} and {second.name} of {second_run.name} are certified on different "
                f"images ({here.size:,} and {there.size:,}, {examples.size:,} in common); --rederive uses these"
            )
        if examples.size == 0:
            raise MismatchError(f"{first_run.name} and {second_run.name} have no images in common")
        if not np.array_equal(_labels(first, examples), _labels(second, examples)):
            raise MismatchError(
                f"{first_run.name} and {second_run.name} number their images differently: labels differ"
            )
        a, b = (_credit(one, examples, terms, known) for one in (first, second))
        everywhere = np.ones(examples.size, dtype=bool)
        interval = paired_difference(a, everywhere, b, everywhere)
        found.append(
            Comparison(
                sigma=first.sigma,
                first=_title(first_run, first),
                second=_title(second_run, second),
                first_acr=float(a.mean()),
                second_acr=float(b.mean()),
                difference=interval,
                verdict=verdict(interval),
                images=int(examples.size),
            )
        )
    if not found:
        raise MismatchError("there is nothing to compare: the runs have no noise level in common")
    return tuple(found)


def _title(run: CertifiedRun, one: Contender) -> str:
    seeds = len(one.counts)
    return f"{run.name}: {one.name}" + (f" (mean of {seeds} seeds)" if seeds > 1 else "")


def _labels(one: Contender, examples: IntArray) -> IntArray:
    counts = one.counts[0]
    return np.asarray(counts.label[np.searchsorted(counts.example, examples)], dtype=np.int64)


def _credit(one: Contender, examples: IntArray, terms: Terms, known: dict[int, Certificates]) -> FloatArray:
    """Return [example] the radius where the prediction is right, else 0, averaged over seeds."""
    rows = []
    for counts in one.counts:
        if id(counts) not in known:
            known[id(counts)] = terms.certificates(counts)
        certificates = known[id(counts)]
        credit = np.where(certificates.prediction == counts.label, certificates.radius, 0.0)
        rows.append(credit[np.searchsorted(counts.example, examples)])
    return np.asarray(np.mean(rows, axis=0), dtype=np.float64)


Side = tuple[CertifiedRun, Contender]


def pairs_part(runs: Sequence[CertifiedRun], against: str | None) -> Iterator[tuple[Side, Side]]:
    first, *others = runs
    if against is not None:
        references = [one for one in first.contenders if one.name == against]
        if not references:
            names = ", ".join(dict.fromkeys(one.name for one in first.contenders))
            raise MismatchError(f"{first.name} has no classifier {against!r}; it has {names}")
        for reference, run in product(references, runs):
            for one in run.contenders:
                if one.sigma == reference.sigma and one is not reference:
                    yield (run, one), (first, reference)
        return
    for run in others:
        same = [(one, other) for one in run.contenders if (other := first.find(one.name, sigma=one.sigma)) is not None]
        every = [pair for pair in product(run.contenders, first.contenders) if pair[0].sigma == pair[1].sigma]
        for one, other in same or every:
            yield (run, one), (first, other)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one row per comparison."""
    columns = ("σ", "classifier", "ACR", "against", "its ACR", "difference [95 %]", "is", "images")
    rows = tuple(
        (
            Cell(number(one.sigma, digits=2), one.sigma),
            Cell(one.first),
            Cell(number(one.first_acr, digits=4), one.first_acr),
            Cell(one.second),
            Cell(number(one.second_acr, digits=4), one.second_acr),
            Cell(bracketed(one.difference, signed=True), one.difference.estimate),
            Cell(one.verdict),
            Cell(f"{one.images:,}", one.images),
        )
        for one in comparisons
    )
    return Table(columns, rows, (True, False, True, False, True, True, False, True))
