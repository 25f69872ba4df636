"""What a study found, in three sentences: which method, whether ensembles pay, and how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from rspipe.report.differences import Comparison, with_holm
from rspipe.report.names import enumerated
from rspipe.report.questions import AVERAGING, WEIGHTS, answer_questions
from rspipe.report.results import Results
from rspipe.report.standings import Entry, scoped, told_apart
from rspipe.report.tables import number
from rspipe.smoothing.inference import relation
from rspipe.smoothing.judgement import LEVEL

Levels = Mapping[float, Sequence[Entry]]
"""By noise level, its entries, of largest ACR first."""


def conclusions(results: Results, levels: Levels) -> tuple[str, ...]:
    """Return the sentences: three, or where a rule decides radii and gives no ACR, one per noise level and one more."""
    if results.decided:
        return (*_of_decisions(results, levels), _of_decided_scope(results, levels))
    return (_of_methods(results, levels), _of_ensembles(results, levels), _of_certainty(results, levels))


def _at(sigmas: Sequence[float]) -> str:
    return f"σ = {enumerated([f'{sigma:g}' for sigma in sigmas])}"


def _by_value(values: Mapping[float, str]) -> list[tuple[str, list[float]]]:
    """Return the distinct values of noise levels, each with its levels."""
    ordered = sorted(values, key=lambda sigma: [*values.values()].index(values[sigma]))
    return [(value, [*alike]) for value, alike in groupby(ordered, key=values.__getitem__)]


def _acrs(tops: dict[float, Entry], sigmas: Sequence[float]) -> str:
    return enumerated([f"{number(tops[sigma].acr)} at σ = {sigma:g}" for sigma in sigmas])


def _acrs_among(tops: dict[float, Entry], numbers: dict[float, int], sigmas: Sequence[float]) -> str:
    """Return the ACRs of one method at noise levels, and among how many methods each is the largest."""
    if len({numbers[sigma] for sigma in sigmas}) == 1:
        return f" of {numbers[sigmas[0]]} methods, {_acrs(tops, sigmas)}"
    each = [f"{number(tops[sigma].acr)} of {numbers[sigma]} methods at σ = {sigma:g}" for sigma in sigmas]
    return f", {enumerated(each)}"


def _of_methods(results: Results, levels: Levels) -> str:
    """Return which method has the largest ACR, and which others may have it."""
    methods = {sigma: [one for one in found if one.kind == "model"] for sigma, found in levels.items()}
    methods = {sigma: found for sigma, found in methods.items() if found}
    if not methods:
        return "No single model is certified."
    tops = {sigma: found[0] for sigma, found in methods.items()}
    named = _by_value({sigma: top.name for sigma, top in tops.items()})
    numbers = {sigma: len(found) for sigma, found in methods.items()}
    if max(numbers.values()) == 1:
        return "; ".join(f"{name} has an ACR of {_acrs(tops, sigmas)}" for name, sigmas in named) + "."
    leads = "; ".join(f"{name} has the largest ACR{_acrs_among(tops, numbers, sigmas)}" for name, sigmas in named)
    ends = {}
    for sigma, found in methods.items():
        lower = told_apart(results, [one.group for one in found], sigma=sigma)
        open_ = [one.name for one, below in zip(found[1:], lower[1:], strict=True) if not below]
        if not open_:
            ends[sigma] = "every other method is lower" if len(found) > 1 else "nothing stands beside it"
        elif len(open_) == len(found) - 1:
            ends[sigma] = "none of the others can be told apart from it"
        else:
            ends[sigma] = f"only {enumerated(open_)} cannot be told apart from it"
    said = _by_value(ends)
    text = "; ".join(end if len(said) == 1 else f"{end} at {_at(at)}" for end, at in said)
    return f"{leads}: {text}."


def _of_ensembles(results: Results, levels: Levels) -> str:
    """Return whether averaging pays, what solved weights add, and how the best ensemble stands to the best method."""
    compositions = {sigma: [one for one in found if one.kind == "ensemble"] for sigma, found in levels.items()}
    if not any(compositions.values()):
        asked = results.study.ensembles
        return (
            f"{'No ensemble is certified yet' if asked else 'The study has no ensembles'}, so whether they pay is open."
        )
    comparisons, parts = answer_questions(results), []
    if averages := with_holm([one for one in comparisons if one.question == AVERAGING]):
        first, beside = _tallied(averages)
        gains = [one.difference.estimate for one, *_ in averages]
        span = " to ".join(dict.fromkeys(number(gain, signed=True) for gain in (min(gains), max(gains))))
        verdict = "pays at times" if first.higher else "does not show a gain"
        parts.append(
            f"Averaging {'pays' if 2 * first.higher > first.of else verdict}: {first.higher} of {first.of} averages "
            f"are above the mean of their members{_below(first)}{beside} ({span})"
        )
    if solved := with_holm([one for one in comparisons if one.question == WEIGHTS]):
        first, beside = _tallied(solved)
        ids = {one.first for one, *_ in solved}
        those = [one for found in compositions.values() for one in found if not ids.isdisjoint(_ids(one))]
        alone = sum(map(_is_model, those))
        single = f" ({alone} of them one member alone)" if alone else ""
        cases = f"{first.higher} of {first.of} cases{single}{_below(first)}"
        parts.append(f"solved weights are above plain averages in {cases}{beside}")
    # One member alone is a model.
    true = {sigma: [one for one in found if not _is_model(one)] for sigma, found in compositions.items()}
    if ensembles := {sigma: found for sigma, found in true.items() if found}:
        parts.append(_of_best_ensemble(results, levels, ensembles))
    else:
        parts.append("every ensemble has given all weight to one member")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _below(tally: "_Tally") -> str:
    return f" and {tally.lower} below" if tally.lower else ""


@dataclass(frozen=True)
class _Tally:
    """How many comparisons Holm's correction leaves higher and lower."""

    higher: int
    lower: int
    of: int


def _tallied(answered: Sequence[tuple[Comparison, bool, bool]]) -> tuple[_Tally, str]:
    """Return the tally of the comparisons that are judged for procedures, and what is said of the others beside it.

    Where none is judged for procedures, that of these models, and that it is one.
    """
    again = [(one, sure) for one, sure, _ in answered if one.difference.procedures is not None]
    alone = [(one, sure) for one, _, sure in answered if one.difference.procedures is None]

    def tally(judged: Sequence[tuple[Comparison, bool]]) -> _Tally:
        found = [relation(scoped(one.difference)) for one, sure in judged if sure]
        return _Tally(found.count("higher"), found.count("lower"), len(judged))

    others = tally(alone)
    if not again:
        return others, " (these models)"
    return tally(again), f", {others.higher} of {others.of} more for these models alone" if alone else ""


def _is_model(entry: Entry) -> bool:
    return entry.composition is not None and entry.composition.no_ensemble


def _ids(entry: Entry) -> set[str]:
    """Return the ids of an entry's ensembles."""
    return {classifier.id for classifier in entry.classifiers}


def _of_best_ensemble(results: Results, levels: Levels, ensembles: Levels) -> str:
    tops = {sigma: found[0] for sigma, found in ensembles.items()}
    against = {}
    for sigma, top in tops.items():
        methods = [one for one in levels[sigma] if one.kind == "model"]
        compared = results.compare(top.group, methods[0].group, sigma=sigma) if methods else None
        if compared is None:
            against[sigma] = "without a method beside it"
            continue
        judged = scoped(compared.difference)
        # Both were picked on these images: any pair of an ensemble and a method might have been.
        sure = judged.p <= LEVEL / (len(methods) * len(ensembles[sigma]))
        word = "above" if judged.estimate > 0 else "below"
        scope = " (these models)" if compared.difference.procedures is None else ""
        against[sigma] = f"{word if sure else 'not told apart from'} the best method{scope}"
    leads = enumerated([f"{one.name} ({number(one.acr)}) at σ = {sigma:g}" for sigma, one in tops.items()])
    said = _by_value(against)
    verdict = "; ".join(end if len(said) == 1 else f"{end} at {_at(sigmas)}" for end, sigmas in said)
    best = "the ensemble of largest ACR is" if len(tops) == 1 else "the ensembles of largest ACR are"
    return f"{best} {leads}, {verdict}"


def _of_certainty(results: Results, levels: Levels) -> str:
    """Return what the verdicts are about, what they rest on, and how many comparisons are open."""
    models = [one for found in levels.values() for one in found if one.kind == "model"]
    seeds = [len(one.classifiers) for one in models]
    beyond, basis = _basis(results, levels)
    comparisons = answer_questions(results)
    some = any(one.difference.procedures is None for one in comparisons)
    unless = ", or for these models where that is said or marked †," if some else ","
    if seeds and min(seeds) > 1:
        about = f"Verdicts hold for training again with other seeds{unless} on {beyond}"
    elif seeds and max(seeds) > 1:
        about = (
            "Verdicts hold for training again where both sides have two seeds, else, and where marked †, for these "
            f"models, on {beyond}"
        )
    else:
        about = f"Verdicts hold for these trained models on {beyond}, and say nothing of training again"
    if not comparisons:
        return f"{about}; they rest on {basis}."
    open_ = [
        scoped(one.difference).detectable
        for question in dict.fromkeys(one.question for one in comparisons)
        for one, procedures, of_models in with_holm([one for one in comparisons if one.question == question])
        if not (of_models if one.difference.procedures is None else procedures)
    ]
    end = (
        f"{len(open_)} of {len(comparisons)} comparisons are undecided, where a difference below "
        f"{number(median(open_))} would mostly go unseen"
        if open_
        else f"all {len(comparisons)} comparisons are decided"
    )
    return f"{about}; they rest on {basis}, and {end}."


def _basis(results: Results, levels: Levels) -> tuple[str, str]:
    """Return the images that verdicts are about, and the images and seeds that they rest on."""
    every = [one for found in levels.values() for one in found]
    images = sorted({one.group.examples.size for one in every})
    seeds = sorted({len(one.classifiers) for one in every if one.kind == "model"})
    these = "" if results.population(images[0]) is None else "these "
    of_seeds = f"{_range(seeds)} seeds" if seeds and seeds[-1] > 1 else "one seed"
    return results.images_meant, f"{these}{_range(images)} test images and {of_seeds}"


def _of_decided_scope(results: Results, levels: Levels) -> str:
    beyond, basis = _basis(results, levels)
    return (
        "Decided are these radii alone: there is no average certified radius. Verdicts hold for training again where "
        f"both sides have two seeds or more, else for these trained models, on {beyond}; they rest on {basis}."
    )


def _range(counts: Sequence[int]) -> str:
    return " to ".join(dict.fromkeys((f"{min(counts):,}", f"{max(counts):,}")))


def _of_decisions(results: Results, levels: Levels) -> Iterator[str]:
    """Yield, where a rule decides radii and gives no ACR, who certifies most images at each of them."""
    for sigma, found in levels.items():
        parts = []
        for radius in results.radii:
            groups = [one.reaching(radius) for one in found]
            top = max(range(len(found)), key=lambda at: groups[at].acr)
            open_ = len(found) - 1 - sum(told_apart(results, groups, sigma=sigma))
            apart = f", {open_} of {len(found) - 1} others not told apart from it" if len(found) > 1 else ""
            parts.append(f"{found[top].name} certifies {100 * groups[top].acr:.1f} % at radius {radius:g}{apart}")
        yield f"At σ = {sigma:g}, {'; '.join(parts)}."
