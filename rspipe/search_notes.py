"""What a search found, in sentences made from its records."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rspipe.records import Difference, SearchResult, Trial, TrialStatus
from rspipe.resolved import SearchSpec
from rspipe.search_figures import spec_of
from rspipe.sensitivity import LEAST_TRIALS, finished, front, sensitivity
from rspipe.summaries import SEARCH, Results
from rspipe.tables import bracketed, number, quantity

_ENDS: dict[TrialStatus, str] = {
    "stopped": "stopped early",
    "diverged": "diverged",
    "collapsed": "collapsed",
    "invalid": "had values that do not fit together",
}


def search_warnings(search: str, trials: Sequence[Trial]) -> Iterator[str]:
    """Yield a line on the trials that diverged, and one on those that collapsed, each with the first of them."""
    for status in ("diverged", "collapsed"):
        lost = [trial for trial in trials if trial.status == status]
        if lost:
            values = ", ".join(f"{name} = {value:.4g}" for name, value in sorted(lost[0].parameters.items()))
            first = f"trial {lost[0].index} ({values}): {lost[0].message}"
            yield f"{search}: {len(lost)} of {len(trials)} trials {status}, the first of them {first}"


def search_notes(results: Results, differences: Sequence[Difference]) -> list[str]:
    """Return some sentences on every finished search: what it cost, what it said, and what came of it."""
    notes = []
    for search in results.searches:
        spec = spec_of(results, search)
        trials = [trial for trial in results.trials if trial.search == search.id]
        if spec is None or not trials:
            continue
        name = f"{search.label} at σ = {search.sigma:g}"
        notes.append(f"{name}: {_cost(trials)} {_worth(search, differences)}")
        if spec.early_stopping is not None:
            notes.append(f"{name}: {_saved(spec, trials)}")
        notes.append(f"{name}: {_sensitivity(spec, trials)}")
        if len(spec.objectives) > 1:
            best = ", ".join(map(str, front(spec, trials)))
            notes.append(f"{name}: no trial beats {best} in {' and '.join(spec.objectives)} at once.")
    return notes


def _cost(trials: list[Trial]) -> str:
    spent = sum(trial.passes for trial in trials)
    ends = Counter(trial.status for trial in trials)
    others = "".join(f", {ends[status]} {words}" for status, words in _ENDS.items() if ends[status])
    return f"{len(trials)} trials{others}; {quantity(spent)} passes."


def _worth(search: SearchResult, differences: Sequence[Difference]) -> str:
    """Return what the winner is worth on test images, against settings that were not searched."""
    asked = [d for d in differences if d.question == SEARCH and d.sigma == search.sigma]
    told = [
        f"{bracketed(d.difference, signed=True)} against {d.second_label}" for d in asked if d.first == search.label
    ]
    return f"ACR of the winner on test images, trained in full: {'; '.join(told)}." if told else ""


def _saved(spec: SearchSpec, trials: list[Trial]) -> str:
    stopped = [trial for trial in trials if trial.status == "stopped"]
    if not stopped:
        return "early stopping stopped no trial."
    whole = sum(trial.passes / trial.epochs * spec.training.epochs for trial in stopped)
    saved = whole - sum(trial.passes for trial in stopped)
    ends = Counter(trial.epochs for trial in stopped)
    when = ", ".join(f"{count} after epoch {epoch}" for epoch, count in sorted(ends.items()))
    return f"early stopping ended {when} of {spec.training.epochs}, and saved {quantity(saved)} passes."


def _sensitivity(spec: SearchSpec, trials: list[Trial]) -> str:
    known, done = sensitivity(spec, trials), len(finished(trials))
    found, shares = {response.name: response for response in known.responses}, known.shares
    if not found:
        return f"{done} finished trials say nothing yet of single hyper-parameters ({LEAST_TRIALS} are the least)."
    order = sorted(found, key=lambda name: (-shares.get(name, 0.0), name))
    parts = []
    for name in order:
        response = found[name]
        share = f"{100 * shares[name]:.0f} % of the variance, " if name in shares else ""
        parts.append(
            f"{name} ({share}ACR varies by {number(response.swing)} on average, best near {response.best:.3g})"
        )
    return f"by {done} finished trials, " + ", ".join(parts) + "."


def search_note(results: Results) -> str:
    """Return how to read tables and figures of searches."""
    text = (
        "Objective: ACR on the validation images; its standard error is for the choice of images, which all trials "
        "share. The winner is the best of its trials there, so the gain flatters it; the paired differences on test "
        "images do not. Star: winner; cross: not finished; dashed: the settings of the study file (trial 0). "
    )
    if any(len(finished([t for t in results.trials if t.search == s.id])) >= LEAST_TRIALS for s in results.searches):
        text += (
            "Importance: share of the variance of the ACR over the space that a hyper-parameter explains alone "
            "(functional ANOVA of a random forest); together: their interactions. Response: average over the rest of "
            "the space by a Gaussian process, with its pointwise 95 % interval. Both know finished trials alone, are "
            "uncertain with few, and most certain where a search has looked most."
        )
    return text.strip()
