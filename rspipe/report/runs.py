"""Paired differences between classifiers of several runs or logs, on images that all of them were certified on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, product
from typing import Any

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.audit.log import Precision
from rspipe.data.spec import DataSpec
from rspipe.errors import MismatchError, nearest
from rspipe.report.differences import Comparison, Group, compare, with_holm
from rspipe.report.logged import LoggedCertificates, differing_terms
from rspipe.report.names import short_name
from rspipe.report.tables import Cell, Table, difference_cells, number_cell, sigma_cell
from rspipe.smoothing.certificates import certify_counts, check_alpha, check_can_certify
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import CertifiedClassifier, derive, early_samples
from rspipe.smoothing.metrics import credited_radius
from rspipe.smoothing.sampling import LOOKING, rule_text
from rspipe.spec import ImageChoice, samples_all

_ONLY_TRAINING = ("title", "train", "extra", "augment", "validation", "calibration", "calibration_from", "seed")
"""Settings of a data spec that are about other splits than the test images."""


Name = tuple[str, float]
"""Of one or several classifiers of a run: a label or an ensemble's name in a study file, and the noise level."""


Certified = CountTable | LoggedCertificates | CertifiedClassifier
"""One classifier: its counts, or its log; of a cascade over noise levels the certificates by its rule."""


@dataclass(frozen=True)
class CertifiedRun:
    """The classifiers of a run directory, or the one of a log, for a comparison with others."""

    name: str
    data: DataSpec | None
    """None for a log, which does not say."""
    certified: Mapping[Name, tuple[Certified, ...]]
    """Of every label, one per seed, and of every ensemble, in the order of the study."""
    images: ImageChoice | None = None
    """That the study certifies."""
    images_to_certify: int | None = None
    """How many those are in the end; None where nothing says it."""

    @property
    def all_certified(self) -> Iterator[CountTable | LoggedCertificates]:
        """All classifiers but cascades, whose levels are among them."""
        every = chain.from_iterable(self.certified.values())
        return (one for one in every if not isinstance(one, CertifiedClassifier))

    def without_cascades(self) -> "CertifiedRun":
        """Return what certificates on other terms than the rule's own can be derived of."""
        left = {name: of for name, of in self.certified.items() if not isinstance(of[0], CertifiedClassifier)}
        return replace(self, certified=left)

    def only(self, names: Sequence[str]) -> "CertifiedRun":
        """Return the run with some of its labels and ensembles alone.

        Raises:
            MismatchError: It has no classifier of one of the names.
        """
        known = [*dict.fromkeys(name for name, _ in self.certified)]
        if missing := [name for name in names if name not in known]:
            raise MismatchError(f"{self.name} has no classifier {missing[0]!r}{nearest(missing[0], known)}")
        return replace(self, certified={name: of for name, of in self.certified.items() if name[0] in names})


def counts_of(one: Certified) -> CountTable:
    """Return the counts of a classifier, or those that a log implies.

    Raises:
        MismatchError: Its log implies none.
    """
    assert not isinstance(one, CertifiedClassifier)
    counts = one.counts if isinstance(one, LoggedCertificates) else one
    if counts is None:
        raise MismatchError(
            "the radii of a log do not tell its n and alpha, so that nothing can be derived from it; see rspipe audit, "
            "or leave out --rederive"
        )
    return counts


@dataclass(frozen=True)
class Terms:
    """Certificates that all runs can give: by their rule, or CERTIFY with samples that both sides of a pair have."""

    n: int | None
    """Samples of the estimate, at most; None, as alpha is, where only logs are compared that do not tell."""
    alpha: float | None
    by_rule: bool
    """Whether rule and n are the same everywhere; else each image has what `common_samples` says."""

    def as_logged(self, one: LoggedCertificates) -> bool:
        """Return whether the radii of a log are taken as it has them."""
        return self.by_rule and one.alpha in (None, self.alpha)

    def credits(self, one: Certified, samples: Mapping[int, int]) -> FloatArray:
        """Return the credited radii [image] of a classifier on these terms; those of a log `as_logged`.

        Args:
            one: The classifier.
            samples: Of `common_samples`, by example; not needed where certificates are the rule's.
        """
        if isinstance(one, CertifiedClassifier):
            return one.credited_radius
        if isinstance(one, LoggedCertificates) and self.as_logged(one):
            return one.credits
        counts = counts_of(one)
        assert self.alpha is not None
        if self.by_rule:
            certificates = derive(counts, alpha=self.alpha)
        else:
            sizes = [samples.get(example, 0) for example in counts.example.tolist()]
            estimation = early_samples(counts, np.array(sizes))
            certificates = certify_counts(counts.selection, estimation, sigma=counts.sigma, alpha=self.alpha)
        return credited_radius(certificates.radius, certificates.prediction == counts.label)


def _free_samples(counts: CountTable) -> IntArray:
    """Return [row] estimation samples whose number does not depend on them; n where an image is given up as 0 anyway.

    A plan is made from the pilot. The looks of rules radius_grid and decide end by what they see, all but the first.
    """
    # No look at all where every image ended at its selection.
    first = counts.marks[0] if counts.marks.size else 0
    drawn = np.minimum(counts.drawn, first) if counts.rule.name in LOOKING else counts.drawn
    return np.asarray(np.where(np.isin(counts.stop, ["label", "futility"]), counts.n, drawn), dtype=np.int64)


def common_samples(every: Sequence[Certified], terms: Terms) -> dict[int, int]:
    """Return by example how many estimation samples all of several classifiers have, at most those of the terms.

    Where one was given up, as wrong or futile, the others keep theirs: it counts 0.
    """
    examples = reduce(np.intersect1d, [one.example for one in every])
    sizes = np.full(examples.size, terms.n)
    for one in every:
        sizes = np.minimum(sizes, _free_samples(counts_of(one))[np.searchsorted(one.example, examples)])
    return dict(zip(examples.tolist(), sizes.tolist(), strict=True))


def agreed_terms(
    runs: Sequence[CertifiedRun], *, rederive: bool = False, alpha: float | None = None, n: int | None = None
) -> Terms:
    """Return the terms on which runs are compared.

    Args:
        runs: At least one, each with classifiers.
        rederive: Whether certificates may be derived from the counts where alpha, n or the rule differ: at the
            smallest alpha, and for each image with as many samples as both sides of a pair have. The n0 of the
            selection stays each run's own.
        alpha: Another alpha; with `rederive` alone.
        n: Another n; with `rederive` alone.

    Raises:
        MismatchError: The runs are of other data, or differ and `rederive` is not set.
        ValueError: `alpha` or `n` is out of range, or given without `rederive`.
    """
    first, *others = runs
    for other in others:
        if first.data is None or other.data is None:
            continue
        if (ours := tested_images(first.data)) != (theirs := tested_images(other.data)):
            raise MismatchError(f"{first.name} and {other.name} are of different test images: {ours} and {theirs}")
    every = [one for run in runs for one in run.all_certified]
    if any(isinstance(one, CountTable) and one.rule.name == "decide" for one in every):
        raise MismatchError(
            "rule decide asks for given radii and gives no ACR to compare; compare certified accuracies in summary.tsv"
        )
    if not rederive:
        if alpha is not None or n is not None:
            raise ValueError("another alpha or n needs certificates derived from the counts: say --rederive, too")
        for other in others:
            if differences := _different_terms(first, other):
                raise MismatchError(
                    f"{first.name} and {other.name} are not comparable: {differences}; --rederive derives certificates "
                    "on the same terms from the counts"
                )
        level = min((one.alpha for one in every if one.alpha is not None), default=None)
        return Terms(next((one.n for one in every if one.n is not None), None), level, by_rule=True)
    tables = [counts_of(one) for one in every]
    level = min(counts.alpha for counts in tables) if alpha is None else alpha
    check_alpha(level)
    alike = len({(_rule(counts), counts.n) for counts in tables}) == 1
    if alike and n in (None, tables[0].n):
        return Terms(tables[0].n, level, by_rule=True)
    most = min(int(_free_samples(counts).max(initial=0)) for counts in tables)
    size = most if n is None else n
    if not 1 <= size <= most:
        raise ValueError(f"n must lie in [1, {most}], the samples that every classifier has at some image; got {size}")
    check_can_certify(size, level)
    return Terms(size, level, by_rule=False)


def tested_images(data: DataSpec) -> dict[str, Any]:
    """Return the settings that determine the test image that an example number stands for, JSON-like."""
    # The digits are numbered as a whole, whatever their splits.
    return {"name": "digits"} if data.name == "digits" else data.model_dump(mode="json", exclude=set(_ONLY_TRAINING))


def _rule(one: Certified) -> str:
    """Return the rule with its parameters, in words."""
    assert not isinstance(one, CertifiedClassifier)
    return one.rule if isinstance(one, LoggedCertificates) else rule_text(one.rule)


def _different_terms(a: CertifiedRun, b: CertifiedRun) -> str:
    """Return the differences of two runs that change the meaning of a certificate, in words; empty without any."""

    def terms(run: CertifiedRun) -> dict[str, list[str]]:
        every = [*run.all_certified]
        return {
            "rule": sorted({_rule(one) for one in every}),
            "n": sorted({f"{one.n:,}" for one in every if one.n is not None}),
            "alpha": sorted({f"{one.alpha:g}" for one in every if one.alpha is not None}),
            "n0": sorted({f"{one.n0:,}" for one in every if isinstance(one, CountTable)}),
        }

    return differing_terms(terms(a), terms(b))


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
    comparisons = []
    for (first_run, first), (second_run, second) in _pairs(runs, against):
        a, b = _groups((first_run, first), (second_run, second), terms)
        comparison = compare(a, b, sigma=first[1], population=_population((first_run, a), (second_run, b)))
        shared = 0 if comparison is None else comparison.images
        if not common_images and not shared == a.examples.size == b.examples.size:
            raise MismatchError(
                f"{first[0]} of {first_run.name} and {second[0]} of {second_run.name} are certified on different "
                f"images ({a.examples.size:,} and {b.examples.size:,}, {shared:,} in common); --rederive uses these"
            )
        if comparison is None:
            raise MismatchError(f"{first_run.name} and {second_run.name} have no images in common")
        examples = np.intersect1d(a.examples, b.examples)
        sides = (*first_run.certified[first], *second_run.certified[second])
        if any(not np.array_equal(_labels(sides[0], examples), _labels(one, examples)) for one in sides[1:]):
            raise MismatchError(
                f"{first_run.name} and {second_run.name} number their images differently: labels differ"
            )
        comparisons.append(comparison)
    if not comparisons:
        raise MismatchError("there is nothing to compare: the runs have no noise level in common")
    return tuple(comparisons)


def _groups(first: tuple[CertifiedRun, Name], second: tuple[CertifiedRun, Name], terms: Terms) -> tuple[Group, Group]:
    """Return both sides of a pair on the terms, with the samples that both have."""
    both = [run.certified[name] for run, name in (first, second)]
    samples = {} if terms.by_rule else common_samples([*both[0], *both[1]], terms)
    logs = [one for one in chain(*both) if isinstance(one, LoggedCertificates) and terms.as_logged(one)]
    writings = {(-one.precision.digits, one.precision.kind, one.rounding) for one in logs}

    def credited(one: Certified) -> FloatArray:
        credits_ = terms.credits(one, samples)
        # What the digits of a log leave out would be a difference of the same network from itself.
        for digits, kind, rounding in sorted(writings):
            credits_ = Precision(-digits, kind).write(credits_, rounding)
        return credits_

    def group(side: tuple[Certified, ...], run: CertifiedRun, name: Name) -> Group:
        rows = [(one.example, credited(one)) for one in side]
        # A log may be of an ensemble; as of one model, nothing is judged of its procedure.
        # Cascades and ensembles may share models, which is not looked into here.
        alone = [one for one in side if not isinstance(one, CertifiedClassifier)]
        models = [one.id for one in alone if isinstance(one, LoggedCertificates) or one.kind[0] == "model"]
        seeds = tuple(models) if len(models) == len(side) else ()
        return replace(Group.of_credits(rows, id_=name[0], label=_title(run, name)), seeds=seeds)

    return group(both[0], *first), group(both[1], *second)


def _population(first: tuple[CertifiedRun, Group], second: tuple[CertifiedRun, Group]) -> int | None:
    """Return the number of shared images where they alone can be meant; None where they are a sample of the test set.

    They are all that a run certified, if that is spread over the test set; those of the digits are in random order.
    """
    (run, a), (other, b) = first, second
    shared = int(np.intersect1d(a.examples, b.examples).size)
    spread = [one for one in (run, other) if samples_all(one.images)]
    whole = {max([one.images_to_certify or 0, *(known.example.size for known in one.all_certified)]) for one in spread}
    shuffled = any(one.data is not None and one.data.name == "digits" for one in spread)
    return None if shared in (0, *whole) or shuffled else shared


def costs_of_terms(runs: Sequence[CertifiedRun], terms: Terms, *, against: str | None = None) -> Table:
    """Return what common terms cost each pair of `compare_runs`: samples, and ACR beside that by the rule's own.

    On the images that both are certified on; one row for each side of each pair.
    """

    def own_credits(one: Certified, examples: IntArray) -> FloatArray:
        by_rule = Terms(terms.n, counts_of(one).alpha, by_rule=True).credits(one, {})
        return by_rule[np.isin(one.example, examples)]

    def rows() -> Iterator[dict[str, Cell]]:
        for pair in _pairs(runs, against):
            both = [run.certified[name] for run, name in pair]
            samples = common_samples([*both[0], *both[1]], terms)
            here = np.array(list(samples.values()))
            for (run, name), side, group in zip(pair, both, _groups(*pair, terms), strict=True):
                shared = np.array(list(samples), dtype=np.int64)
                had = [counts_of(one).drawn[np.isin(one.example, shared)] for one in side]
                own_samples = float(np.concatenate(had).mean())
                own_acr = float(np.mean([own_credits(one, shared) for one in side]))
                yield {
                    "σ": number_cell(name[1], digits=2),
                    "classifier": Cell(_title(run, name)),
                    "rule": Cell(f"{_rule(side[0])}, n = {side[0].n:,}"),
                    "own samples": Cell(f"{own_samples:,.0f}", own_samples),
                    "samples here": Cell(f"{here.mean():,.0f}", float(here.mean())),
                    "own ACR": number_cell(own_acr, digits=4),
                    "ACR here": number_cell(group.on(shared).acr, digits=4),
                }

    return Table.of(rows())


def _title(run: CertifiedRun, name: Name) -> str:
    seeds = len(run.certified[name])
    return f"{run.name}: {short_name(name[0])}" + (f" (mean of {seeds})" if seeds > 1 else "")


def _labels(one: Certified, examples: IntArray) -> IntArray:
    return np.asarray(one.label[np.searchsorted(one.example, examples)], dtype=np.int64)


def _pairs(
    runs: Sequence[CertifiedRun], against: str | None
) -> Iterator[tuple[tuple[CertifiedRun, Name], tuple[CertifiedRun, Name]]]:
    """Yield the classifiers to compare, each with its run; see `compare_runs`."""
    first, *others = runs
    if against is not None:
        references = [name for name in first.certified if name[0] == against]
        if not references:
            known = [*dict.fromkeys(label for label, _ in first.certified)]
            raise MismatchError(f"{first.name} has no classifier {against!r}{nearest(against, known)}")
        for reference, run in product(references, runs):
            for name in run.certified:
                if name[1] == reference[1] and not (run is first and name == reference):
                    yield (run, name), (first, reference)
        return
    for run in others:
        same = [(name, name) for name in run.certified if name in first.certified]
        every = [pair for pair in product(run.certified, first.certified) if pair[0][1] == pair[1][1]]
        for name, other in same or every:
            yield (run, name), (first, other)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return one row per comparison."""
    return Table.of(
        {
            "σ": sigma_cell(one.sigma),
            "classifier": Cell(one.first_label),
            "ACR": number_cell(one.first_acr, digits=4),
            "against": Cell(one.second_label),
            "its ACR": number_cell(one.second_acr, digits=4),
            **difference_cells(one.difference, procedures=procedures, models=models),
        }
        for one, procedures, models in with_holm(comparisons)
    )
