"""What a study found, in three sentences: which method, whether ensembles pay, and how sure that is."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median

from rspipe.report.differences import Comparison, with_holm
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
        return (*_of_decisions(results, levels), "Decided are these radii alone: there is no average certified radius.")
    return (_of_methods(results, levels), _of_ensembles(results, levels), _of_certainty(results, levels))


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _at(sigmas: Sequence[float]) -> str:
    return f"σ = {_listed([f'{sigma:g}' for sigma in sigmas])}"


def _by_value(values: dict[float, str]) -> list[tuple[str, list[float]]]:
    """Return the distinct values of noise levels, each with its levels."""
    ordered = sorted(values, key=lambda sigma: [*values.values()].index(values[sigma]))
    return [(value, [*alike]) for value, alike in groupby(ordered, key=values.__getitem__)]


def _acrs(tops: dict[float, Entry], sigmas: Sequence[float]) -> str:
    return _listed([f"{number(tops[sigma].acr)} at σ = {sigma:g}" for sigma in sigmas])


def _of_methods(results: Results, levels: Levels) -> str:
    """Return which method has the largest ACR, and which others may have it."""
    methods = {sigma: [one for one in found if one.kind == "model"] for sigma, found in levels.items()}
    methods = {sigma: found for sigma, found in methods.items() if found}
    if not methods:
        return "No single model is certified."
    tops = {sigma: found[0] for sigma, found in methods.items()}
    most = max(map(len, methods.values()))
    named = _by_value({sigma: top.name for sigma, top in tops.items()})
    if most == 1:
        return "; ".join(f"{name} has an ACR of {_acrs(tops, sigmas)}" for name, sigmas in named) + "."
    leads = "; ".join(f"{name} has the largest ACR of {most} methods, {_acrs(tops, at)}" for name, at in named)
    ends = {}
    for sigma, found in methods.items():
        lower = told_apart(results, [one.group for one in found], sigma=sigma)
        open_ = [one.name for one, below in zip(found[1:], lower[1:], strict=True) if not below]
        if not open_:
            ends[sigma] = "every other method is lower" if len(found) > 1 else "nothing stands beside it"
        elif len(open_) == len(found) - 1:
            ends[sigma] = "none of the others can be told apart from it"
        else:
            ends[sigma] = f"only {_listed(open_)} cannot be told apart from it"
    said = _by_value(ends)
    text = "; ".join(end if len(said) == 1 else f"{end} at {_at(at)}" for end, at in said)
    return f"{leads}: {text}."


def _of_ensembles(results: Results, levels: Levels) -> str:
    """Return whether averaging pays, what solved weights add, and how the best ensemble stands to the best method."""
    ensembles = {sigma: [one for one in found if one.kind == "ensemble"] for sigma, found in levels.items()}
    ensembles = {sigma: found for sigma, found in ensembles.items() if found}
    if not ensembles:
        return "The study has no ensembles, so whether they pay is not asked."
    comparisons, parts = answer_questions(results), []
    if averages := with_holm([one for one in comparisons if one.question == AVERAGING]):
        higher = _higher(averages)
        gains = [one.difference.estimate for one, *_ in averages]
        span = " to ".join(dict.fromkeys(number(gain, signed=True) for gain in (min(gains), max(gains))))
        verdict = "pays" if 2 * higher > len(averages) else "does not show a gain" if not higher else "pays at times"
        parts.append(
            f"Averaging {verdict}: {higher} of {len(averages)} averages are above the mean of their members ({span})"
        )
    if solved := with_holm([one for one in comparisons if one.question == WEIGHTS]):
        parts.append(f"solved weights are above plain averages in {_higher(solved)} of {len(solved)} cases")
    parts.append(_of_best_ensemble(results, levels, ensembles))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _higher(answered: Sequence[tuple[Comparison, bool, bool]]) -> int:
    """Return how many comparisons Holm's correction leaves higher, for procedures where these are judged."""
    count = 0
    for one, procedures, models in answered:
        sure = models if one.difference.procedures is None else procedures
        count += sure and relation(scoped(one.difference)) == "higher"
    return count


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
    leads = _listed([f"{one.name} ({number(one.acr)}) at σ = {sigma:g}" for sigma, one in tops.items()])
    said = _by_value(against)
    verdict = "; ".join(end if len(said) == 1 else f"{end} at {_at(sigmas)}" for end, sigmas in said)
    best = "the ensemble of largest ACR is" if len(tops) == 1 else "the ensembles of largest ACR are"
    return f"{best} {leads}, {verdict}"


def _of_certainty(results: Results, levels: Levels) -> str:
    """Return what the verdicts are about, what they rest on, and how many comparisons are open."""
    every = [one for found in levels.values() for one in found]
    images = sorted({one.group.examples.size for one in every})
    models = [one for one in every if one.kind == "model"]
    seeds = sorted({len(one.classifiers) for one in models})
    on = f"{_range(images)} test images" if results.population(images[0]) is None else f"these {_range(images)} images"
    beyond = "other test images" if results.population(images[0]) is None else "these images alone"
    comparisons = [one.difference for one in answer_questions(results)]
    some = any(one.procedures is None for one in comparisons)
    unless = ", or for these models where that is said or marked †," if some else ","
    if seeds and seeds[0] > 1:
        about = f"Verdicts hold for training again with other seeds{unless} on {beyond}"
        basis = f"{on} and {_range(seeds)} seeds"
    elif len(seeds) > 1:
        about = (
            f"Verdicts hold for training again where there are two seeds, else for these trained models, on {beyond}"
        )
        basis = f"{on} and {_range(seeds)} seeds"
    else:
        about = f"Verdicts hold for these trained models on {beyond}, and say nothing of training again"
        basis = f"{on} and one seed"
    judged = [scoped(one) for one in comparisons]
    open_ = [one.detectable for one in judged if relation(one) == "undecided"]
    if not judged:
        return f"{about}; they rest on {basis}."
    end = (
        f"{len(open_)} of {len(judged)} comparisons are undecided, where a difference below {number(median(open_))} "
        "would mostly go unseen"
        if open_
        else f"all {len(judged)} comparisons are decided"
    )
    return f"{about}; they rest on {basis}, and {end}."


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
