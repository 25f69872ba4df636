"""How the ACR of ensembles grows with the number of members: measured, predicted, and its limit."""

import math
from collections.abc import Iterator, Sequence

from rspipe.arrays import FloatArray
from rspipe.ensembles.diagnostics import HyperbolaFit, MemberMargins, fit_hyperbola, gaussian_limit
from rspipe.report.differences import difference_of_means, group
from rspipe.report.results import Results, certified_ensembles, certified_models
from rspipe.report.tables import Cell, Part, Table, change_cell, interval_cell, number
from rspipe.smoothing.derivation import CertifiedClassifier
from rspipe.smoothing.metrics import mean_interval

Sizes = dict[int, FloatArray]
"""By number of members: [image] credited radii, averaged over all ensembles of that many."""


NUMBERS = (2.0, 4.0, 8.0, math.inf)
"""Numbers of models whose gain is predicted."""


def _classifiers(results: Results, *, sigma: float) -> dict[tuple[str, ...], dict[int, list[CertifiedClassifier]]]:
    """Return single models and uniform ensembles of probabilities by the labels of their members and their number."""
    labels = {model.id: model.label for model in results.models}
    found: dict[tuple[str, ...], dict[int, list[CertifiedClassifier]]] = {}
    found |= {(label,): {1: models} for label, models in certified_models(results, sigma=sigma).items()}
    for record, classifier in certified_ensembles(results, sigma=sigma):
        if record.method == "uniform" and record.average == "probabilities":
            of = tuple(dict.fromkeys(labels.get(member, member) for member in record.members))
            # In the order in which they were named first.
            same = next((key for key in found if {*key} == {*of}), of)
            found.setdefault(same, {}).setdefault(len(record.members), []).append(classifier)
    return found


def curves_by_size(results: Results, *, sigma: float) -> dict[str, Sizes]:
    """Return the ACR by number of members, image by image, by the methods of the members, e.g. "advmacer + macer".

    Methods without an ensemble are left out. Images are those that all classifiers of a curve share.
    """
    curves = {}
    for of, sizes in _classifiers(results, sigma=sigma).items():
        if any(size > 1 for size in sizes):
            shared = group([one for alike in sizes.values() for one in alike]).examples()
            curves[" + ".join(of)] = {size: group(sizes[size]).credit(shared) for size in sorted(sizes)}
    return curves


def _acr(classifiers: Sequence[CertifiedClassifier]) -> float:
    side = group(classifiers)
    examples = side.examples()
    return float(side.credit(examples).mean()) if examples.size else -math.inf


def _size_rows(results: Results, *, sigma: float) -> Iterator[dict[str, Cell]]:
    found = _classifiers(results, sigma=sigma)
    for of, sizes in found.items():
        single = [one for label in of for one in found.get((label,), {}).get(1, [])]
        for size in sorted(sizes) if max(sizes) > 1 else ():
            radii = group(sizes[size]).credit(group(sizes[size]).examples())
            alone = {label: found.get((label,), {}).get(size, []) for label in of} if len(of) > 1 else {}
            best = max((label for label, alike in alone.items() if alike), key=lambda one: _acr(alone[one]), default="")
            yield {
                "members of": Cell(" + ".join(of)),
                "k": Cell(f"{size}", size),
                "classifiers": Cell(f"{len(sizes[size])}", len(sizes[size])),
                "ACR [95 %]": interval_cell(mean_interval(radii) if radii.size else None),
                "less one model [95 %]": change_cell(
                    difference_of_means(sizes[size], single) if single and size > 1 else None
                ),
                "best method alone": Cell(f"{best} x{size}" if best else "–"),
                "less that [95 %]": change_cell(difference_of_means(sizes[size], alone[best]) if best else None),
            }


def sizes_part(results: Results, *, sigma: float) -> Part | None:
    """Return the ACR of uniform ensembles by number of members, with what it gains; None without an ensemble."""
    rows = list(_size_rows(results, sigma=sigma))
    if not rows:
        return None
    return Part(
        "ACR against the number of members",
        Table.of(rows),
        (),
        "Uniform averages of probabilities, the mean over all certified ensembles (at k = 1, models) of these methods. "
        "Less one model: than the models of these methods on average. Best method alone: of the methods mixed, the one "
        "whose k models have the largest ACR together. All differences are paired.",
    )


def _fit_cells(fit: HyperbolaFit | None) -> dict[str, Cell]:
    if fit is None:
        return {"hyperbola's limit [95 %]": Cell("–"), "straight limit": Cell("–")}
    return {
        "hyperbola's limit [95 %]": interval_cell(fit.limit),
        "straight limit": Cell(number(fit.straight), fit.straight),
    }


def limits_part(results: Results, at: Sequence[MemberMargins], *, sigma: float) -> Part | None:
    """Return what ever more models of a method would give; None where no method has two."""
    labels = {model.id: model.label for model in results.models}
    curves = curves_by_size(results, sigma=sigma)
    rows = []
    for margins in at:
        methods = [labels.get(member, member) for member in margins.members]
        if margins.average != "probabilities":
            continue
        for label in dict.fromkeys(methods):
            members = [member for member, method in zip(margins.members, methods, strict=True) if method == label]
            measured = curves.get(label, {})
            models = certified_models(results, sigma=sigma).get(label, [])
            if len(members) < 2 or not models:
                continue
            single = _acr(models)
            gains = gaussian_limit(margins.of(members), sigma=sigma, numbers=NUMBERS).gains
            rows.append(
                {
                    "method": Cell(label),
                    "models": Cell(f"{len(members)}", len(members)),
                    "ACR of one": Cell(number(single), single),
                    **{f"k = {k:g}".replace("inf", "∞"): interval_cell(gain, signed=True) for k, gain in gains.items()},
                    **_fit_cells(fit_hyperbola(measured)),
                }
            )
    if not rows:
        return None
    return Part(
        "More and more models of one method",
        Table.of(rows),
        (),
        "k: gain of ACR over one model that Gaussian margins of variance c + v / k predict, c being the covariance of "
        "two models and v what is each model's own (analysis of variance), intervals over calibration images; the "
        "table above has what was measured. The limits are fitted to the measured mean ACR of the uniform ensembles of "
        "one, two, three and more models, where there are three sizes: a − b / (k + kappa), with a bootstrap interval "
        "over test images, and the straight a − b / k, which errs on the low side.",
    )
