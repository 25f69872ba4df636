"""Paired differences of ACR between the classifiers of a study."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from typing import Literal

import numpy as np

from rspipe.ensembles.members import names_seeds
from rspipe.records import Interval, Record
from rspipe.report.page import element, paragraph, table_html
from rspipe.report.results import Results, Side, baseline_label, certified_ensembles, certified_models, display_name
from rspipe.report.tables import TONES, Cell, Table, bracketed, number_cell
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import paired_difference, verdict


@dataclass(frozen=True, kw_only=True)
class Difference(Record):
    """A paired difference of ACR between two classifiers on the same images."""

    sigma: float
    first: str
    second: str
    """Ids; the difference is first minus second."""
    first_label: str
    second_label: str
    question: str
    """What the comparison answers."""
    difference: Interval
    verdict: Literal["higher", "lower", "not significant"]
    """Of the first, by whether the 95 % interval leaves 0 out; not adjusted for the number of comparisons."""
    images: int
    """Images that both were certified on."""


METHOD = "Does the training method change the ACR? Each method against the baseline"

SEARCH = "Does the search pay? Searched hyper-parameters against the study file's"

AVERAGING = "Does averaging help? Uniform ensembles against the mean of their members"

BEST_MEMBER = "Does an ensemble beat its best member? The member that was best on the validation images"

WEIGHTS = "Do solved weights help? Against uniform weights of the same members"

COMBINING = "Does another combination help? MME and consensus against the uniform average of the same members"

MIXING = "Does mixing methods help? Uniform ensembles of several methods against as many models of one of them"


QUESTIONS = (METHOD, SEARCH, AVERAGING, BEST_MEMBER, WEIGHTS, COMBINING, MIXING)
"""In the order of the report."""


def acr_difference(first: Side, second: Side) -> tuple[Interval, int] | None:
    """Return the paired difference of ACR on the images that all classifiers share, and their number; None without."""
    examples = np.intersect1d(first.examples(), second.examples())
    if examples.size == 0:
        return None
    everywhere = np.ones(examples.size, dtype=bool)
    interval = paired_difference(first.credit(examples), everywhere, second.credit(examples), everywhere)
    return interval, int(examples.size)


def differences(question: str, sigma: float, pairs: Iterable[tuple[Side, Side]]) -> Iterator[Difference]:
    """Yield the paired difference of each pair, on the images that all its classifiers share."""
    for first, second in pairs:
        found = acr_difference(first, second)
        if found is None:
            continue
        interval, images = found
        yield Difference(
            sigma=sigma,
            first=first.id,
            second=second.id,
            first_label=first.label,
            second_label=second.label,
            question=question,
            difference=interval,
            verdict=verdict(interval),
            images=images,
        )


def _method_pairs(results: Results, sigma: float) -> dict[str, list[tuple[Side, Side]]]:
    """Labels against the baseline, and searched against set hyper-parameters; no pair twice."""
    models = certified_models(results, sigma=sigma)
    by_label = {label: Side.of_label(label, classifiers) for label, classifiers in models.items()}
    # A label may have an entry per noise level; each pair counts once.
    searched = dict.fromkeys(
        (search.label, group.label)
        for search, group in product(results.study.search, (*results.study.models, *results.study.default_groups))
        if search.method.name == group.method.name and search.label in by_label and group.label in by_label
    )
    baseline = baseline_label(results.study)
    against = [(label, baseline) for label in by_label if baseline in by_label and label != baseline]
    return {
        METHOD: [(by_label[a], by_label[b]) for a, b in against if not {(a, b), (b, a)} & {*searched}],
        SEARCH: [(by_label[a], by_label[b]) for a, b in searched],
    }


def _ensemble_pairs(results: Results, sigma: float) -> dict[str, list[tuple[Side, Side]]]:
    """Ensembles against their members, against other weights, and mixed against intra-model ones."""
    pairs: dict[str, list[tuple[Side, Side]]] = {
        question: [] for question in (AVERAGING, BEST_MEMBER, WEIGHTS, COMBINING, MIXING)
    }
    trained = {model.id: model for model in results.models}
    certified = {c.id: c for c in results.certified if c.sigma == sigma}
    ensembles = certified_ensembles(results, sigma=sigma)
    uniform = [(record, c) for record, c in ensembles if record.method == "uniform"]
    for record, classifier in uniform:
        side = Side.of_ensemble(record, classifier)
        if any(member not in certified or member not in trained for member in record.members):
            continue
        members = [certified[member] for member in record.members]
        pairs[AVERAGING].append((side, Side(f"members of {record.id}", "the mean of its members", members)))
        best = max((trained[member] for member in record.members), key=lambda model: model.noisy_accuracy)
        pairs[BEST_MEMBER].append((side, Side(best.id, display_name(best), (certified[best.id],))))
        # On test images the best of several is best partly by luck; hence the choice on validation images.
    for (a, of_a), (b, of_b) in product(ensembles, uniform):
        if a.method != "uniform" and (a.members, a.average) == (b.members, b.average):
            question = COMBINING if a.method in COMBINATIONS else WEIGHTS
            pairs[question].append((Side.of_ensemble(a, of_a), Side.of_ensemble(b, of_b)))
    for (a, of_a), (b, of_b) in product(uniform, uniform):
        mixed, intra = ({trained[m].label for m in r.members if m in trained} for r in (a, b))
        # Of the subsets of one size, one is compared: the first models of each label.
        alike = len(a.members) == len(b.members) and a.average == b.average
        alike = alike and not (names_seeds(a.label) or names_seeds(b.label))
        if alike and len(mixed) > 1 and len(intra) == 1 and intra < mixed:
            pairs[MIXING].append((Side.of_ensemble(a, of_a), Side.of_ensemble(b, of_b)))
    return pairs


def compare(results: Results) -> tuple[Difference, ...]:
    """Return the paired differences of ACR that answer `QUESTIONS`, by question and noise level.

    Where several classifiers stand on one side (the seeds of a label, the members of an ensemble), their credited
    radii are averaged per image first. Every pair is compared on the images that all of its classifiers share.
    The intervals are over images; they know nothing of how another training would have come out.
    """
    found: dict[str, list[Difference]] = {question: [] for question in QUESTIONS}
    for sigma in sorted({c.sigma for c in results.certified}):
        for question, pairs in {**_method_pairs(results, sigma), **_ensemble_pairs(results, sigma)}.items():
            found[question] += differences(question, sigma, pairs)
    return tuple(difference for question in QUESTIONS for difference in found[question])


def difference_table(differences: Sequence[Difference]) -> Table:
    """Return one row per paired comparison."""
    return Table.of(
        {
            "σ": number_cell(difference.sigma, digits=2),
            "first": Cell(difference.first_label),
            "second": Cell(difference.second_label),
            "first − second [95 %]": Cell(
                bracketed(difference.difference, signed=True), difference.difference.estimate
            ),
            "first is": Cell(difference.verdict, tone=TONES[difference.verdict]),
            "images": number_cell(difference.images, digits=0),
        }
        for difference in differences
    )


def group(classifiers: Sequence[CertifiedClassifier]) -> Side:
    """Return classifiers that are averaged per image."""
    return Side("", "", classifiers)


def difference_of_means(first: Sequence[CertifiedClassifier], second: Sequence[CertifiedClassifier]) -> Interval | None:
    """Return the paired difference of ACR of two groups, each averaged per image; None where they share no image."""
    found = acr_difference(group(first), group(second))
    return None if found is None else found[0]


def differences_part(differences: Sequence[Difference]) -> str:
    content = ""
    for question in QUESTIONS:
        asked = [difference for difference in differences if difference.question == question]
        if asked:
            content += element("h3", escape(question)) + table_html(difference_table(asked), name="first")
    if not content:
        return ""
    return content + paragraph(
        f"Differences of ACR on the same images, with paired 95 % intervals (normal). {len(differences)} comparisons, "
        "not adjusted for their number.",
        style="soft",
    )
