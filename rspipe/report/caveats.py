"""The warnings at the head of the report: facts that a reader must know before believing the numbers."""

from collections.abc import Iterator

from rspipe.report.names import enumerated
from rspipe.report.results import Results
from rspipe.report.summaries import display_name

_SATURATED = 0.1
"""Share of saturated images from which on a classifier is warned of."""


def caveats(results: Results) -> list[str]:
    """Return a sentence per fact."""
    return [
        *_lost_models(results),
        *_related_models(results),
        *_same_recipes(results),
        *_single_seeds(results),
        *_unfinished(results),
        *_weak_certificates(results),
    ]


def _lost_models(results: Results) -> Iterator[str]:
    for model in results.models:
        name = f"{display_name(model)} at σ = {model.train_sigma:g}"
        if model.status != "finished":
            reason = f" ({model.message})" if model.message else ""
            yield f"{name} {model.status}{reason}: it is not certified and no ensemble can hold it."
        elif model.collapsed:
            held_out = "held-out" if model.source == "checkpoint" else "validation"
            yield f"{name} collapsed: it predicts a single class on the {held_out} images."


def _related_models(results: Results) -> Iterator[str]:
    labels = dict.fromkeys(model.label for model in results.models if model.common_seed is not None)
    if len(labels) > 1:
        yield (
            f"The study asks for common seeds (training.common_seeds): models of {', '.join(labels)} with the same "
            "seed share what they drew in training, initial weights, order of batches and noise. They are no "
            "independent trainings, and an ensemble of them is not what one of unrelated models would be."
        )


def _same_recipes(results: Results) -> Iterator[str]:
    """Yield the labels of which one is a search that ended with the settings of the other."""
    for search in results.searches:
        recipes = {
            model.label: {key: value for key, value in model.spec.items() if key not in ("label", "seed")}
            for model in results.models
            if model.train_sigma == search.sigma and model.spec
        }
        own = recipes.pop(search.label, None)
        if own is not None and (same := [label for label, recipe in recipes.items() if recipe == own]):
            why = "" if search.best_index else "no trial was better than the settings in the study file. "
            yield (
                f"At σ = {search.sigma:g} {search.label} is the recipe of {', '.join(same)} under another name: {why}"
                "They differ in the draws of their trainings."
            )


def _single_seeds(results: Results) -> Iterator[str]:
    single = [one for one in results.seed_averages if one.seeds < 2]
    levels: dict[str, list[float]] = {}
    for one in single:
        levels.setdefault(one.label, []).append(one.sigma)
    if not single:
        return
    every = {label: [one.sigma for one in results.seed_averages if one.label == label] for label in levels}
    names = [
        label if at == every[label] else f"{label} at σ = {enumerated([f'{sigma:g}' for sigma in at])}"
        for label, at in levels.items()
    ]
    asked = [_seeds_asked(results, one.label, one.sigma) for one in single]
    trained = any(model.source != "checkpoint" for model in results.models if model.label in levels)
    more = " Other seeds failed, or are not certified yet." if max(asked) > 1 else ""
    advice = " Give the study three seeds." if trained and min(asked) < 2 else ""
    yield (
        f"One seed is certified of {', '.join(names)}: how training again would have come out is unknown, and "
        f"nothing is said of these procedures there.{more}{advice}"
    )


def _seeds_asked(results: Results, label: str, sigma: float) -> int:
    """Return how many seeds of a label the study has at a noise level."""
    groups = (*results.study.models, *results.study.default_groups, *results.study.search)
    return len({seed for one in groups if one.label == label and sigma in one.sigma for seed in one.seeds})


def _unfinished(results: Results) -> Iterator[str]:
    known = {record.id for record in results.records}
    if unknown := [c.id for c in results.certified if c.id not in known]:
        yield f"{len(unknown)} certified classifiers have no record and are left out: {', '.join(unknown)}."
    for sigma in results.sigmas:
        summaries = results.summaries_at(sigma)
        if not summaries:
            continue
        images = {summary.images for summary in summaries}
        if len(images) > 1:
            yield (
                f"At σ = {sigma:g} the classifiers are certified on different numbers of images "
                f"({min(images)} to {max(images)}): certification is not finished; what compares them uses the "
                "images that all have."
            )
        if max(images) < (results.images_to_certify or 0):
            yield (
                f"At σ = {sigma:g}, {max(images):,} of {results.images_to_certify:,} images are certified: "
                "certification is not finished."
            )
        if (part := results.population(min(images))) is not None:
            yield (
                f"At σ = {sigma:g}, what rests on {part:,} images is about these alone: images that are not spread "
                "over the test set, as the first of it, are no sample of it."
            )
        done = {summary.id for summary in summaries}
        models = [m for m in results.models if m.train_sigma == sigma and m.status == "finished" and m.id not in done]
        ensembles = [record for record in results.ensembles if record.sigma == sigma and record.id not in done]
        if count := len(models) + len(ensembles):
            yield f"At σ = {sigma:g}, {count} trained classifiers are not certified yet."


def _weak_certificates(results: Results) -> Iterator[str]:
    if any(summary.rule == "radius_grid" for summary in results.summaries):
        yield (
            "Rule radius_grid proves radii at the grid alone, rounded down: read the certified accuracies there. The "
            "ACR is a lower bound, not to be compared with that of other rules."
        )
    if results.decided:
        yield (
            "Rule decide answers at the radii that it is asked for alone: certified accuracies there, and no ACR. "
            "Where none of them is 0, nothing is said of clean accuracy."
        )
        if results.study.claims or results.study.published:
            yield "What the study claims or quotes of published ACRs is not judged."
        return
    # Rule radius_grid ends an image when its answer is clear: n limits nothing there.
    capped = [one for one in results.summaries if one.saturated >= _SATURATED and one.rule != "radius_grid"]
    if capped:
        most = max(capped, key=lambda summary: summary.saturated)
        yield (
            f"{len(capped)} of {len(results.summaries)} classifiers have 10 % or more saturated images (up to "
            f"{100 * most.saturated:.0f} %, {most.name} at σ = {most.sigma:g}): n limits the radius there, "
            "and ACR understates both the radius and the differences."
        )
