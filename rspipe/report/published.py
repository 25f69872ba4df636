"""Published ACRs beside the measured ones: of a figure, or image by image where their logs are at hand."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.report.differences import Group
from rspipe.report.logged import LoggedCertificates, differing_terms
from rspipe.report.results import Results
from rspipe.report.runs import Terms
from rspipe.smoothing.published import (
    Figure,
    FigureDifference,
    difference_from_credits,
    difference_from_figure,
    seed_sd_of_range,
)
from rspipe.smoothing.sampling import rule_text
from rspipe.spec import samples_all
from rspipe.study.claims import PublishedResult

_GRID = "radius_grid"

_OF_A_GRID = f"rule is {_GRID}, whose radii are those of a grid: not compared"

_PAIRED = 30
"""Shared images from which on logs are compared image by image. A sample of them has t = 2.05, near the normal 1.96."""


@dataclass(frozen=True)
class PublishedComparison:
    """A published ACR beside the measured one."""

    published: PublishedResult
    group: Group
    """Measured, on the images that are compared."""
    acr: float
    """Published: the figure, or that of the logs on the images that are compared."""
    seeds: int
    """Published."""
    difference: FigureDifference | None
    """Measured minus published; None where the images do not allow a comparison."""
    images: str
    """Those certified here, and those of the published ACR, in words."""
    differs: str
    """In what the entry differs from what was published; empty without anything."""


def compare_with_published(results: Results) -> tuple[PublishedComparison, ...]:
    """Return every published result whose entry is certified, and whose logs are at hand, beside the measured one."""
    comparisons = []
    for one in results.study.published:
        group = results.groups(one.sigma).get(one.entry)
        if group is None or not group.examples.size:
            continue
        if one.acr is not None:
            comparisons.append(_beside_figure(results, one, group))
        elif results.logs.keys() >= {*one.logs}:
            comparisons.append(_beside_logs(results, one, group))
    return tuple(comparisons)


def _beside_figure(results: Results, one: PublishedResult, group: Group) -> PublishedComparison:
    """Return a published figure beside a group's ACR, over its images where these allow it.

    Theirs are among ours, or ours are a sample of theirs, or of the same test set; the first images are no sample.
    """
    assert one.acr is not None
    own, theirs = group.examples, np.asarray(one.examples)
    shared = np.intersect1d(own, theirs)
    images: Literal["among theirs", "others", ""] = "among theirs"
    if shared.size == theirs.size:
        group, words = group.on(shared), f"the same {shared.size:,}"
    elif shared.size == own.size:
        images = "" if _no_sample(results, own) else "among theirs"
        words = f"{own.size:,} of their {theirs.size:,}"
    else:
        # The first images of a longer test set are no sample of it either.
        images = "" if _no_sample(results, own) or one.every == 1 else "others"
        words = f"{own.size:,}, of theirs {shared.size:,} of {theirs.size:,}"
    certify = results.study.certify
    if certify.rule.name == _GRID:
        images, words = "", f"{words}: {_OF_A_GRID}"
    elif not images:
        words = f"{words}: no sample of each other, not compared"
    difference = None
    if images:
        seed_sd = None
        if one.low is not None and one.high is not None:
            seed_sd = seed_sd_of_range(one.low, one.high, seeds=one.seeds)
        figure = Figure(acr=one.acr, images=theirs.size, decimals=one.rounded_to, seeds=one.seeds, seed_sd=seed_sd)
        difference = difference_from_figure(_credits(group), figure, images=images)
    terms = _other_terms(results, n=one.n, alpha=one.alpha)
    differs = ", ".join(text for text in (one.differs, terms) if text)
    return PublishedComparison(one, group, one.acr, one.seeds, difference, words, differs)


def _no_sample(results: Results, own: IntArray) -> bool:
    return results.population(own.size) is not None or bool(np.array_equal(own, np.arange(own.size)))


def _credits(group: Group) -> FloatArray:
    """Return the credits of a label's seeds; of ensembles, which have members in common, those of their mean alone."""
    return group.credits if group.seeds else group.mean_credits[None]


def _beside_logs(results: Results, one: PublishedResult, group: Group) -> PublishedComparison:
    """Return published logs beside a group, image by image; as two samples where hardly an image is in both."""
    logs = [results.logs[name] for name in one.logs]
    theirs = Group.of_credits([(log.example, _logged_credits(results, log)) for log in logs], id_="", label=one.source)
    shared = np.intersect1d(group.examples, theirs.examples)
    differs = ", ".join(text for text in dict.fromkeys([one.differs, *(_terms(results, log) for log in logs)]) if text)

    def beside(own: Group, theirs: Group, difference: FigureDifference | None, images: str) -> PublishedComparison:
        return PublishedComparison(one, own, theirs.acr, len(logs), difference, images, differs)

    if any(rule.startswith(_GRID) for rule in (results.study.certify.rule.name, *(log.rule for log in logs))):
        return beside(group, theirs, None, _OF_A_GRID)
    if any(not np.array_equal(_labels(results, shared), log.labels_of(shared)) for log in logs):
        return beside(group, theirs, None, "numbered otherwise: labels differ, not compared")
    spread = all(samples_all(log.images) for log in logs)
    if shared.size >= min(_PAIRED, group.examples.size, theirs.examples.size) > 0:
        own, other = group.on(shared), theirs.on(shared)
        whole = spread and shared.size == theirs.examples.size
        population = None if whole else results.population(shared.size)
        difference = difference_from_credits(_credits(own), other.credits, population=population)
        return beside(own, other, difference, f"{shared.size:,}, image by image")
    words = f"{group.examples.size:,}, of theirs {shared.size:,} of {theirs.examples.size:,}"
    if _no_sample(results, group.examples) or not spread or not theirs.examples.size:
        return beside(group, theirs, None, f"{words}: no sample of each other, not compared")
    of_seeds = theirs.credits.mean(1)
    figure = Figure(
        acr=theirs.acr,
        images=theirs.examples.size,
        seeds=len(logs),
        seed_sd=float(of_seeds.std(ddof=1)) if len(logs) > 1 else None,
    )
    return beside(group, theirs, difference_from_figure(_credits(group), figure, images="others"), words)


def _logged_credits(results: Results, log: LoggedCertificates) -> FloatArray:
    """Return the credits of a log, at the alpha of the study where its radii tell the counts of as many samples."""
    certify = results.study.certify
    if certify.rule.name == "fixed" and log.n == certify.n:
        return Terms(certify.n, certify.alpha, by_rule=True).credits(log, {})
    return log.credits


def _terms(results: Results, log: LoggedCertificates) -> str:
    """Return in what the certificates of a log are others than those of the study, in words."""
    # At the n of the study its radii tell the counts, and those at another alpha follow.
    known = log.n is not None and log.alpha is not None and log.n != results.study.certify.n
    return _other_terms(results, n=log.n if known else None, alpha=log.alpha if known else None, rule=log.rule)


def _other_terms(results: Results, *, n: int | None, alpha: float | None, rule: str = "fixed") -> str:
    """Return in what certificates are others than those of the study, in words; None is not known."""
    certify = results.study.certify
    # Parameters only where they alone may differ.
    own_rule = rule_text(certify.rule) if rule.partition(" ")[0] == certify.rule.name else certify.rule.name
    ours: dict[str, list[str]] = {"rule": [own_rule], "n": [f"{certify.n:,}"], "alpha": [f"{certify.alpha:g}"]}
    theirs = {"n": [] if n is None else [f"{n:,}"], "alpha": [] if alpha is None else [f"{alpha:g}"]}
    return differing_terms(ours, {"rule": [rule], **theirs})


def _labels(results: Results, examples: IntArray) -> IntArray:
    """Return the labels of images that are certified."""
    one = next(c for c in results.certified if np.isin(examples, c.example).all())
    return np.asarray(one.label[np.searchsorted(one.example, examples)], dtype=np.int64)
