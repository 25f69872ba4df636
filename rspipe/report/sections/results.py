"""Section: the certified classifiers, one by one and averaged over seeds."""

from collections.abc import Iterator, Sequence

from rspipe.report.differences import judge_group
from rspipe.report.results import Results
from rspipe.report.section import Level, Section
from rspipe.report.summaries import SeedAverage, Summary
from rspipe.report.tables import (
    Cell,
    Table,
    duration,
    estimate_cell,
    half_cell,
    number,
    number_cell,
    percent_cell,
    quantity,
    sigma_cell,
)
from rspipe.smoothing.certificates import radius_cap


def result_table(summaries: Sequence[Summary]) -> Table:
    """Return one row per certified classifier; the noise level is a column where there are several.

    Radii that no classifier reaches are left out.
    """
    several = len({summary.sigma for summary in summaries}) > 1
    averaged = any(summary.rule != "decide" for summary in summaries)
    reached = {r for one in summaries for r, share in zip(one.radii, one.certified_accuracy, strict=True) if share}

    def beside_acr(summary: Summary) -> dict[str, Cell]:
        return {
            "abstained": percent_cell(summary.abstained),
            "saturated": percent_cell(summary.saturated),
            "two-sided ACR": number_cell(summary.acr_two_sided),
        }

    def row(summary: Summary) -> dict[str, Cell]:
        sigma = {"σ": sigma_cell(summary.sigma)} if several else {}
        accuracy = zip(summary.radii, summary.certified_accuracy, strict=True)
        return {
            **sigma,
            "classifier": Cell(summary.name),
            **({"ACR ± 95 %": estimate_cell(summary.acr)} if averaged else {}),
            **{f"CA({radius:g})": number_cell(share) for radius, share in accuracy if radius in reached or not reached},
            **(beside_acr(summary) if averaged else {}),
            "samples": Cell(quantity(summary.samples), summary.samples),
            "training": Cell(duration(summary.training_seconds), summary.training_seconds),
            "passes": Cell(quantity(summary.passes), summary.passes),
        }

    return Table.of(map(row, summaries))


def seed_table(averages: Sequence[SeedAverage]) -> Table:
    """Return one row per label and noise level, averaged over seeds."""
    return Table.of(
        {
            "σ": sigma_cell(average.sigma),
            "method": Cell(average.label),
            "seeds": number_cell(average.seeds, digits=0),
            "mean ACR": number_cell(average.models.estimate, digits=4),
            "these procedures ± 95 %": Cell("one seed")
            if average.procedures is None
            else half_cell(average.procedures),
            "these models ± 95 %": half_cell(average.models),
            "lowest seed": number_cell(average.lowest),
            "highest seed": number_cell(average.highest),
            "training of one": Cell(duration(average.training_seconds), average.training_seconds),
            "passes of one": Cell(quantity(average.passes), average.passes),
        }
        for average in averages
    )


def choice_table(results: Results) -> Table:
    """Return one row per ensemble that is certified of several choices of seeds, averaged over them.

    Without rows where the rule gives no ACR.
    """

    def rows() -> Iterator[dict[str, Cell]]:
        for sigma in () if results.decided else results.sigmas:
            for composition in results.compositions(sigma):
                group = composition.group
                if len(group.credits) < 2 or not group.examples.size:
                    continue
                acr = judge_group(group, population=results.population(group.examples.size))
                yield {
                    "σ": sigma_cell(sigma),
                    "ensemble": Cell(composition.label),
                    "choices of seeds": number_cell(len(group.credits), digits=0),
                    "mean ACR": number_cell(acr.estimate, digits=4),
                    "these procedures ± 95 %": Cell("not judged")
                    if acr.procedures is None
                    else half_cell(acr.procedures),
                    "these models ± 95 %": half_cell(acr.models),
                    "lowest": number_cell(float(group.credits.mean(1).min())),
                    "highest": number_cell(float(group.credits.mean(1).max())),
                }

    return Table.of(rows())


def section(results: Results) -> Section:
    """Return the section; it says so where nothing is certified."""
    certify = results.study.certify
    sigmas = [sigma for sigma in results.sigmas if results.summaries_at(sigma)]
    content = {
        "meant": results.images_meant,
        "decided": results.decided,
        "averages": seed_table(results.seed_averages),
        "choices": choice_table(results),
        "levels": [Level(sigma, result_table(results.listed_at(sigma))) for sigma in sigmas],
        "caps": {sigma: radius_cap(sigma=sigma, n=certify.n, alpha=certify.alpha) for sigma in sigmas},
    }
    acrs = [] if results.decided else [one.acr.estimate for one in results.summaries]
    span = f", ACR {number(min(acrs))} to {number(max(acrs))}" if acrs else ""
    finding = f"{len(results.summaries)} classifiers{span}." if results.summaries else ""
    return Section("results", content, finding=finding)
