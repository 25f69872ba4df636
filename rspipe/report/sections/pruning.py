"""Section: members that an ensemble of all could drop, and the cap that n sets to any ACR."""

import numpy as np

from rspipe.ensembles.choice import prunable
from rspipe.errors import SolverError
from rspipe.report.results import Results, members_text
from rspipe.report.section import Section
from rspipe.report.tables import number
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.metrics import average_certified_radius


def pruning_sentences(results: Results, *, sigma: float) -> list[str]:
    """Return which members get no weight in an ensemble of all at a noise level, a sentence for each average."""
    sentences = []
    for margins in results.margins_at(sigma):
        size = len(margins.members)
        if size < 2:
            continue
        try:
            dropped = prunable(margins.calibration)
        except (ValueError, SolverError) as error:
            sentences.append(f"Of {margins.average}: no weights for all {size} members, since {error}.")
            continue
        out = [member for member, drop in zip(margins.members, dropped, strict=True) if drop]
        of = "" if margins.average == "probabilities" else f" (averages of {margins.average})"
        if out:
            sentences.append(
                f"Of these models, {members_text(results, out)} could be dropped from an ensemble of all {size}{of}: "
                "neither esbrs_ratio nor esbrs_acr gives them any weight on the calibration images. That would save "
                f"{100 * len(out) / size:.0f} % of its certification."
            )
        else:
            sentences.append(
                f"Of these models, none could be dropped: all {size} have weight in an ensemble of all{of}."
            )
    return sentences


def cap_sentence(results: Results, *, sigma: float) -> str | None:
    """Return the ACR that n samples allow at most, beside the largest one; None where nothing is certified."""
    certify = results.study.certify
    cap = radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha)
    at = [c for c in results.certified if c.sigma == sigma]
    if not at:
        return None
    best = max(at, key=lambda c: average_certified_radius(c.radius, c.correct))
    acr, accuracy = average_certified_radius(best.radius, best.correct), float(np.mean(best.correct))
    if acr == 0:
        return None
    return (
        f"n = {certify.n:,} samples at α = {certify.alpha:g} prove no radius beyond {number(cap)}, so the ACR of any "
        f"ensemble is at most its accuracy times that: {number(accuracy * cap)} for the classifier with the largest "
        f"ACR, {number(acr)}, which is {100 * acr / (accuracy * cap):.0f} % of it."
    )


def section(results: Results) -> Section | None:
    """Return the section; None where no margins were read."""
    levels = {}
    for sigma in results.sigmas:
        cap = cap_sentence(results, sigma=sigma) if results.margins_at(sigma) else None
        sentences = [*pruning_sentences(results, sigma=sigma), *([cap] if cap else [])]
        if sentences:
            levels[sigma] = sentences
    return Section("pruning", {"levels": levels}) if levels else None
