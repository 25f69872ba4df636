"""Risk and saving of the sampling rules: exact error probabilities, and expected samples on published logs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import risks
import tyro
from scipy.special import ndtr

from rspipe.arrays import FloatArray, IntArray
from rspipe.smoothing import rules

N0, PILOT, N, ALPHA, FUTILITY = 100, 1000, 100_000, 0.001, 0.001
EPS = (0.005, 0.01, 0.02, 0.05)
GRID = tuple(0.25 * step for step in range(1, 17))
PROBABILITIES = np.array([0.5001, 0.51, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99999])
RULES = ("label stop", *(f"eps {eps:g}" for eps in EPS), "radius grid")
# Found by other code, with another size grid: samples with label stop and, in brackets, the change of ACR in percent
# and the samples without. The last is a range over all its logs.
NOTES = {
    "cohen-cifar10-r110-sigma0.25": "80,100|61,796|53,257 (-.25; 61,238)|41,160 (-.8)|26,118 (-2.3)|9k to 23k",
    "cohen-cifar10-r110-sigma0.50": "72,700|48,568|38,356 (-.33; 46,274)|26,134 (-1.0)|13,951 (-2.7)|9k to 23k",
}


@dataclass(frozen=True)
class Images:
    """The images of a log: arrays [image]."""

    p: FloatArray
    """Probability of the selected class."""
    right: rules.BoolArray
    """Whether that class is the label."""
    sigma: float


def invert(radius: FloatArray, *, sigma: float) -> FloatArray:
    """Return k / n for the counts k of n whose lower bounds are nearest to Phi(radius / sigma)."""
    bounds = rules.lower_bounds(N, ALPHA)
    return np.searchsorted((bounds[1:] + bounds[:-1]) / 2, ndtr(radius / sigma)) / N


def read_images(log: Path) -> Images | str:
    """Return the images of a log, or why it is left out.

    Radii are taken for those of alpha = .001, also where they are of another. Abstentions are spread evenly over p in
    (.40, .505), every other one with the right class.
    """
    table, named = pd.read_csv(log, sep="\t"), re.search(r"sigma(\d+\.\d+)", log.name)
    abstained = (table["predict"] == -1).to_numpy()
    if named is None:
        return "its name has no sigma"
    if len(table) < 400:
        return f"it has only {len(table)} images"
    if table["predict"][~abstained].nunique() < 2:
        return "its model predicts one class only"
    ranks = np.arange(abstained.sum())
    p, right = np.empty(len(table)), table["correct"].to_numpy() == 1
    p[~abstained] = invert(table["radius"].to_numpy()[~abstained], sigma=float(named[1]))
    p[abstained], right[abstained] = 0.40 + 0.105 * (ranks + 0.5) / max(ranks.size, 1), ranks % 2 == 0
    return Images(p, right, float(named[1]))


def plans() -> list[IntArray]:
    """Return the planned sizes of each eps."""
    grid = rules.size_grid(N, block=1000)
    return [rules.planned_sizes(n=N, alpha=ALPHA, pilot=PILOT, eps=eps, grid=grid) for eps in EPS]


def false_claims() -> FloatArray:
    """Return the probability of a false claim [rule, p] of CERTIFY, of each plan and of the radius grid."""
    fixed = risks.error_probability(PROBABILITIES, N, alpha=ALPHA)
    planned = [
        risks.planned_error_probability(PROBABILITIES, sizes, pilot=PILOT, alpha=ALPHA, futility=FUTILITY)
        for sizes in plans()
    ]
    return np.stack([fixed, *planned, risks.looks_error_probability(PROBABILITIES, rules.looks(N, ALPHA))])


def savings(images: Images) -> Iterator[tuple[float, float, str]]:
    """Yield for each of RULES the samples per image with and without label stop, and what changes against CERTIFY."""
    right, (p, back) = images.right, np.unique(images.p, return_inverse=True)
    yield N0 + N * right.mean(), N0 + N, "ACR +0.00 %"
    acr = rules.expected_radius(p, N, alpha=ALPHA)[back] @ right
    for sizes in plans():
        samples, radius = risks.planned_cost(p, sizes, pilot=PILOT, alpha=ALPHA, futility=FUTILITY)
        change = 100 * (radius[back] @ right / acr - 1)
        yield np.where(right, samples[back], N0).mean(), samples[back].mean(), f"ACR {change:+.2f} %"
    price = partial(risks.looks_cost, p, sigma=images.sigma, grid=GRID, futility=FUTILITY)
    (samples, claimed), (_, fixed) = price(rules.looks(N, ALPHA)), price([rules.Look(N, ALPHA)])
    drawn, points = N0 + samples[back], 100 * (right @ (claimed - fixed)[back]) / right.size
    worst = points[np.abs(points).argmax()]
    yield np.where(right, drawn, N0).mean(), drawn.mean(), f"CA {worst:+.2f} points at worst"


def bench_rules(logs: tyro.conf.Positional[Path]) -> None:
    """Print what the sampling rules risk, and what they need and lose on published logs.

    Args:
        logs: Folder of certification logs, *sigma<number>.tsv.
    """
    errors = false_claims() / ALPHA
    print(f"Probability of a false claim / alpha, n = {N}, alpha = {ALPHA}")
    print(f"{'p':>9}", *(f"{name:>11}" for name in ("fixed", *RULES[1:])))
    for p, row in zip([*PROBABILITIES, "maximum"], [*errors.T, errors.max(1)], strict=True):
        print(f"{p:>9}", *(f"{error:11.4f}" for error in row))
    for log in sorted(logs.glob("*.tsv")):
        images = read_images(log)
        if isinstance(images, str):
            print(f"\n{log.stem}: left out, {images}")
            continue
        print(
            f"\n{log.stem}, {images.right.size} images\n{'':12} samples factor no label  {'against CERTIFY':24} notes"
        )
        notes = NOTES.get(log.stem, "|" * len(RULES)).split("|")
        for name, (samples, unstopped, change), note in zip(RULES, savings(images), notes, strict=False):
            print(f"{name:12} {samples:7,.0f} {(N0 + N) / samples:6.2f} {unstopped:8,.0f}  {change:24} {note}".rstrip())


if __name__ == "__main__":
    tyro.cli(bench_rules)
