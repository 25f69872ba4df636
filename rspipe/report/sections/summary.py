"""Section: the classifier of largest ACR at each noise level."""

from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import bracketed


def largest_acr(results: Results) -> list[str]:
    """Return a sentence per noise level on the classifier of largest ACR, and what that choice is worth."""
    sentences = []
    for sigma in results.sigmas:
        summaries = results.summaries_at(sigma)
        if not summaries:
            continue
        top = max(summaries, key=lambda summary: summary.acr.estimate)
        sentence = (
            f"At σ = {sigma:g}, {top.name} has the largest ACR, {bracketed(top.acr)} for this model on other images"
        )
        if len(summaries) > 1:
            sentence += f", of {len(summaries)} classifiers; being picked on the test images flatters it"
        sentences.append(f"{sentence}.")
    return sentences


def section(results: Results) -> Section:
    """Return the section; it says so where nothing is certified."""
    return Section("summary", {"largest": largest_acr(results)})
