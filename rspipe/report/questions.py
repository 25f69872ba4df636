"""The questions that a report answers, and the pairs of groups whose differences answer them."""

from itertools import product

from rspipe.ensembles.members import names_seeds
from rspipe.report.differences import Comparison, Group, compare
from rspipe.report.results import Results, ensemble_group, label_group
from rspipe.report.summaries import display_name
from rspipe.smoothing.classifiers import COMBINATIONS

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
    groups = {label: label_group(label, classifiers) for label, classifiers in results.models_at(sigma).items()}
    # A label may have an entry per noise level; each pair counts once.
    searched = dict.fromkeys(
        (search.label, entry.label)
        for search, entry in product(results.study.search, (*results.study.models, *results.study.default_groups))
        if search.method.name == entry.source and search.label in groups and entry.label in groups
    )
    baseline = results.baseline
    against = [(label, baseline) for label in groups if baseline in groups and label != baseline]
    return {
        METHOD: [(groups[a], groups[b]) for a, b in against if not {(a, b), (b, a)} & {*searched}],
        SEARCH: [(groups[a], groups[b]) for a, b in searched],
    }


def _member_pairs(results: Results, sigma: float) -> dict[str, _Pairs]:
    """Return uniform ensembles against the mean of their members, and against the best of them."""
    pairs: dict[str, _Pairs] = {AVERAGING: [], BEST_MEMBER: []}
    for record, classifier in results.ensembles_at(sigma):
        members = results.certified_members(record)
        if record.method != "uniform" or not members:
            continue
        ensemble = ensemble_group(record, classifier)
        mean = Group.of(members, id_=f"members of {record.id}", label="the mean of its members")
        pairs[AVERAGING].append((ensemble, mean))
        # On test images the best of several is best partly by luck; hence the choice on validation images.
        trained = [model for member in record.members if (model := results.model(member)) is not None]
        best, of_best = max(zip(trained, members, strict=True), key=lambda pair: pair[0].noisy_accuracy)
        pairs[BEST_MEMBER].append((ensemble, Group.of([of_best], id_=best.id, label=display_name(best))))
    return pairs


def _ensemble_pairs(results: Results, sigma: float) -> dict[str, _Pairs]:
    """Return ensembles against other weights and combinations of the same members, and mixed against intra-model ones.

    Of the subsets of one size, one is compared in the last: the first models of each label.
    """
    pairs: dict[str, _Pairs] = {WEIGHTS: [], COMBINING: [], MIXING: []}
    ensembles = [(record, ensemble_group(record, classifier)) for record, classifier in results.ensembles_at(sigma)]
    uniform = [(record, group) for record, group in ensembles if record.method == "uniform"]
    for (a, of_a), (b, of_b) in product(ensembles, uniform):
        if a.method != "uniform" and (a.members, a.average) == (b.members, b.average):
            pairs[COMBINING if a.method in COMBINATIONS else WEIGHTS].append((of_a, of_b))
    for (a, of_a), (b, of_b) in product(uniform, uniform):
        mixed, intra = ({model.label for m in r.members if (model := results.model(m))} for r in (a, b))
        alike = len(a.members) == len(b.members) and a.average == b.average
        alike = alike and not (names_seeds(a.label) or names_seeds(b.label))
        if alike and len(mixed) > 1 and len(intra) == 1 and intra < mixed:
            pairs[MIXING].append((of_a, of_b))
    return pairs


def answer_questions(results: Results) -> tuple[Comparison, ...]:
    """Return the comparisons that answer `QUESTIONS`, by question and noise level.

    Where several classifiers stand on one side (the seeds of a label, the members of an ensemble), their credited
    radii are averaged per image first. Every pair is compared on the images that all of its classifiers share.
    """
    comparisons: dict[str, list[Comparison]] = {question: [] for question in QUESTIONS}
    for sigma in results.sigmas:
        pairs = _method_pairs(results, sigma) | _member_pairs(results, sigma) | _ensemble_pairs(results, sigma)
        for question, of_question in pairs.items():
            compared = [compare(a, b, sigma=sigma, question=question) for a, b in of_question]
            comparisons[question] += [comparison for comparison in compared if comparison is not None]
    return tuple(comparison for question in QUESTIONS for comparison in comparisons[question])
