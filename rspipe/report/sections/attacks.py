"""Section: attacks inside, on and beyond the certified radii of test images."""

from collections.abc import Sequence

from rspipe.records import BoundaryCheck
from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, number, sigma_cell


def attack_table(checks: Sequence[BoundaryCheck]) -> Table:
    """Return one row per attacked classifier and distance."""
    return Table.of(
        {
            "σ": sigma_cell(check.sigma),
            "classifier": Cell(check.name),
            "× radius": Cell(f"{factor:g}", factor),
            "gone": Cell(number(check.distance[row], digits=2), check.distance[row]),
            "images": Cell(f"{check.images}", check.images),
            "same": Cell(f"{check.same[row]}", check.same[row]),
            "abstained": Cell(f"{check.abstained[row]}", check.abstained[row]),
            "changed": Cell(
                f"{check.changed[row]}", check.changed[row], tone="bad" if factor <= 1 and check.changed[row] else ""
            ),
            "changed so far": Cell(
                f"{100 * check.ever_changed[row] / check.images:.0f} %", check.ever_changed[row] / check.images
            ),
        }
        for check in checks
        for row, factor in enumerate(check.factors)
    )


def attack_findings(checks: Sequence[BoundaryCheck]) -> list[str]:
    """Return per classifier whether anything changed within the radius, and how tight the radius is."""
    sentences = []
    for check in checks:
        inside = sum(factor <= 1 for factor in check.factors) * check.images
        name = f"{check.name} at σ = {check.sigma:g}"
        within = (
            f"none of {inside} predictions within the certified radius changed"
            if check.broken == 0
            else f"{check.broken} of {inside} predictions within the certified radius changed"
        )
        half = [f for f, count in zip(check.factors, check.ever_changed, strict=True) if 2 * count >= check.images]
        beyond = (
            f"half of the images or more changed within {half[0]:g} radii: for them the certified radius is at least "
            f"{1 / half[0]:.2f} of the true one"
            if half and half[0] > 0
            else f"fewer than half of the images changed within {check.factors[-1]:g} radii"
        )
        sentences.append(
            f"{name}: {within} (each prediction is wrong with probability {check.alpha:g} at most, which makes "
            f"{check.expected_broken:.2g} on average at most); {beyond}."
        )
    return sentences


def section(results: Results) -> Section | None:
    """Return the section; None where nothing was attacked."""
    checks = sorted(results.attacks, key=lambda check: (check.sigma, check.name))
    if not checks:
        return None
    settings = sorted({f"{check.steps} steps, {check.draws} noise samples, n = {check.n:,}" for check in checks})
    content = {"attacks": attack_table(checks), "sentences": attack_findings(checks), "settings": settings}
    broken, inside = (
        sum(check.broken for check in checks),
        sum(check.images * sum(factor <= 1 for factor in check.factors) for check in checks),
    )
    finding = f"{broken} of {inside:,} predictions within certified radii changed."
    return Section("attacks", content, finding=finding)
