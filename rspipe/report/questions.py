"""The questions that a report answers, and the pairs of groups whose differences answer them."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from rspipe.arrays import FloatArray, IntArray
from rspipe.report.compositions import Composition, same_members
from rspipe.report.differences import Comparison, Group
from rspipe.report.results import Results
from rspipe.report.summaries import display_name
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.study.groups import ModelGroup

METHOD = "Does the training method change the ACR? Each method against the baseline"

SEARCH = "Does the search pay? Searched hyper-parameters against the study file's"

AVERAGING = "Does averaging help? Uniform ensembles against the mean of their members"

BEST_MEMBER = "Does an ensemble beat its best member? The member that was best on the validation images"

WEIGHTS = "Do solved weights help? Against uniform weights of the same members"

COMBINING = "Does another combination help? MME and consensus against the uniform average of the same members"

MIXING = "Does mixing methods help? Uniform ensembles of several methods against as many models of one of them"


QUESTIONS = (METHOD, SEARCH, AVERAGING, BEST_MEMBER, WEIGHTS, COMBINING, MIXING)
"""In the order of the report."""

_Pairs = list[tuple[Group, Group]]


def _method_pairs(results: Results, sigma: float) -> dict[str, _Pairs]:
    """Return labels against the baseline, and searched against set hyper-parameters; no pair twice."""
    groups = {label: results.label_group(label, certified) for label, certified in results.models_at(sigma).items()}
    entries = [one for one in (*results.study.models, *results.study.default_groups) if isinstance(one, ModelGroup)]
    # What differs in training or architecture, too, says nothing of hyper-parameters. A label may have an entry per
    # noise level; each pair counts once.
    searched = dict.fromkeys(
        (search.label, entry.label)
        for search, entry in product(results.study.search, entries)
        if (search.method.name, search.training, search.architecture)
        == (entry.source, entry.training, entry.architecture)
        and search.label in groups
        and entry.label in groups
    )
    baseline = results.baseline
    against = [(label, baseline) for label in groups if baseline in groups and label != baseline]
    return {
        METHOD: [(groups[a], groups[b]) for a, b in against if not {(a, b), (b, a)} & {*searched}],
        SEARCH: [(groups[a], groups[b]) for a, b in searched],
    }


def _member_pairs(results: Results, compositions: Sequence[Composition]) -> dict[str, _Pairs]:
    """Return uniform ensembles against the mean of their members, and against the best of them."""
    pairs: dict[str, _Pairs] = {AVERAGING: [], BEST_MEMBER: []}
    for composition in compositions:
        whole = results.with_certified_members(composition)
        if composition.method == "uniform" and whole is not None:
            pairs[AVERAGING].append((whole.group, mean_of_members(results, whole)))
            members = {member for record in whole.records for member in record.members}
            # Loaded models may have been evaluated on test images alone.
            if all(model.source != "checkpoint" for member in members if (model := results.model(member)) is not None):
                pairs[BEST_MEMBER].append((whole.group, _best_members(results, whole)))
    return pairs


def mean_of_members(results: Results, composition: Composition) -> Group:
    """Return the mean of the members of every ensemble, all of which are certified, one ensemble per row."""
    members = [Group.of(results.certified_members(record)) for record in composition.records]
    label = "the mean of its members"
    rows = [(one.examples, one.mean_credits) for one in members]
    return _beside(composition, rows, id_=f"members of {composition.name}", label=label)


def _best_members(results: Results, composition: Composition) -> Group:
    """Return the best member of every ensemble, one per row.

    On test images the best of several is best partly by luck; hence the choice on validation images.
    """
    best = []
    for record in composition.records:
        trained = [model for member in record.members if (model := results.model(member)) is not None]
        pairs = zip(trained, results.certified_members(record), strict=True)
        best.append(max(pairs, key=lambda pair: pair[0].noisy_accuracy))
    model, _ = best[0]
    rows = [(c.example, c.credited_radius) for _, c in best]
    if len(best) == 1:
        return _beside(composition, rows, id_=model.id, label=display_name(model))
    return _beside(composition, rows, id_=f"best of {composition.name}", label="its best member")


def _beside(
    composition: Composition, credits_: Sequence[tuple[IntArray, FloatArray]], *, id_: str, label: str
) -> Group:
    """Return a group with a row for every ensemble, made of the same models."""
    return replace(Group.of_credits(credits_, id_=id_, label=label), members=composition.members)


def _ensemble_pairs(compositions: Sequence[Composition]) -> dict[str, _Pairs]:
    """Return ensembles against other weights and combinations of the same members, and mixed against intra-model ones.

    Of the last, every choice of models that is certified is on either side.
    """
    pairs: dict[str, _Pairs] = {WEIGHTS: [], COMBINING: [], MIXING: []}
    uniform = [composition for composition in compositions if composition.method == "uniform"]
    for a, b in product(compositions, uniform):
        if a.method != "uniform" and (a.labels, a.average) == (b.labels, b.average):
            both = same_members(a, b)
            if both is not None:
                first, second = both
                pairs[COMBINING if a.method in COMBINATIONS else WEIGHTS].append((first.group, second.group))
    for a, b in product(uniform, uniform):
        mixed, intra = {*a.labels}, {*b.labels}
        alike = len(a.labels) == len(b.labels) and a.average == b.average
        if alike and len(mixed) > 1 and len(intra) == 1 and intra < mixed:
            pairs[MIXING].append((a.group, b.group))
    return pairs


def answer_questions(results: Results) -> tuple[Comparison, ...]:
    """Return the comparisons that answer `QUESTIONS`, by question and noise level.

    Where several classifiers stand on one side (the seeds of a label, ensembles of the same composition), their
    credited radii are averaged per image first. Every pair is compared on the images that all of its classifiers share.
    """
    comparisons: dict[str, list[Comparison]] = {question: [] for question in QUESTIONS}
    for sigma in results.sigmas:
        compositions = results.compositions(sigma)
        pairs = _method_pairs(results, sigma) | _member_pairs(results, compositions) | _ensemble_pairs(compositions)
        for question, of_question in pairs.items():
            compared = [results.compare(a, b, sigma=sigma, question=question) for a, b in of_question]
            comparisons[question] += [comparison for comparison in compared if comparison is not None]
    return tuple(comparison for question in QUESTIONS for comparison in comparisons[question])
