"""How long weights take to solve, cvxpy's own work included, and how far they are from optimal."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import tyro

from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.choice import choose_weights
from rspipe.ensembles.moments import Moments, runner_up_pairs
from rspipe.ensembles.spec import Weighting
from rspipe.ensembles.weights import WeightSolution, solve_weights

MEMBERS = (2, 3, 5, 10, 30, 100, 300)
AIMS = {100: 0.05, 300: 1.0}
"""Seconds that esbrs_ratio may take."""
LARGEST_GAP = 1e-6
_DRAWS = 200
_CAP = 3.81
# Noise correlation of margins within a method and across methods, as measured on small CIFAR-10 networks.
_WITHIN, _ACROSS = 0.6, 0.5


@dataclass(frozen=True)
class Timing:
    """The cost of solving once."""

    median: float
    """Seconds."""
    processor: float
    """Seconds of this process alone, the median: on a machine with nothing else to do, the same."""
    gap: float
    support: int
    """Members with a weight above 1e-6."""


def realistic_calibration(k: int, *, images: int, competitors: int, seed: int) -> Calibration:
    """Return moments like those of k trained networks of two methods, estimated from 200 draws.

    Images differ in how hard they are, members a little in skill and in scale. Margins share noise: their correlation
    is 0.6 within a method and 0.5 across methods.
    """
    rng = np.random.default_rng(seed)
    scale, skill = rng.uniform(0.7, 1.3, k), rng.normal(1, 0.05, k)
    hardness = rng.normal(0.8, 0.6, images)
    gap = np.concatenate([np.zeros(1), rng.exponential(0.3, competitors - 1)])
    means, covariances, margins = [], [], []
    for hard in hardness:
        common = np.sqrt(_ACROSS) * rng.normal(size=(_DRAWS, competitors, 1))
        method = np.sqrt(_WITHIN - _ACROSS) * rng.normal(size=(_DRAWS, competitors, 2))
        own = np.sqrt(1 - _WITHIN) * rng.normal(size=(_DRAWS, competitors, k))
        noise = common + method[..., np.arange(k) % 2] + own
        centre = (hard + gap)[:, None] * skill + 0.1 * rng.normal(size=(competitors, k))
        margins.append((scale * (centre + 0.5 * noise)).astype(np.float16))
        moments = Moments.of(margins[-1])
        means.append(moments.mean)
        covariances.append(moments.covariance)
    label_probability = 1 / (1 + np.exp(-3 * (hardness[:, None, None] + 0.5 * rng.normal(size=(images, _DRAWS, k)))))
    return Calibration(np.stack(means), np.stack(covariances), _DRAWS, _CAP, label_probability, np.stack(margins))


def measured(solve: Callable[[], WeightSolution], *, repeats: int) -> Timing:
    """Return what solving costs, each time from the moments to checked weights."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter(), time.process_time()
        solution = solve()
        seconds.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    elapsed, processor = np.median(seconds, axis=0)
    return Timing(float(elapsed), float(processor), solution.gap, int((solution.weights > 1e-6).sum()))


def moment_table(*, members: tuple[int, ...], competitors: int, draws: int) -> list[str]:
    """Return lines on time and memory of the moments of one image, the networks' own time apart."""
    lines = [f"{'k':>4} {'moments of an image':>20} {'merging two parts':>18} {'kept per image':>15}"]
    for k in members:
        samples = np.random.default_rng(k).normal(size=(draws, competitors, k))
        moments = Moments.of(samples)
        building, merging = (
            processor_seconds(partial(Moments.of, samples)),
            processor_seconds(partial(moments.merge, moments)),
        )
        # Moments, margins in half precision, probabilities of the label in single.
        size = moments.mean.nbytes + moments.scatter.nbytes + 2 * samples.size + 4 * draws * k
        lines.append(f"{k:4} {1e3 * building:17.2f} ms {1e3 * merging:15.2f} ms {size / 1e6:12.3f} MB")
    return lines


def processor_seconds(work: Callable[[], object], *, repeats: int = 5) -> float:
    """Return the median processor time of some work."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def verdicts(timings: dict[int, Timing]) -> list[str]:
    """Return sentences on whether esbrs_ratio is as fast and as exact as it should be."""
    sentences = []
    for k, aim in AIMS.items():
        if k in timings:
            elapsed, processor = timings[k].median, timings[k].processor
            met = "met" if elapsed <= aim else "met in processor time alone" if processor <= aim else "MISSED"
            sentences.append(
                f"{1e3 * aim:.0f} ms at k = {k}: {met} ({1e3 * elapsed:.0f} ms, processor {1e3 * processor:.0f})"
            )
    worst = max(timings.values(), key=lambda timing: timing.gap).gap
    exact = "met" if worst <= LARGEST_GAP else "MISSED"
    return [*sentences, f"relative gap {LARGEST_GAP:g}: {exact} ({worst:.1e} at worst)"]


def bench_weights(
    members: tuple[int, ...] = MEMBERS, images: int = 200, competitors: int = 9, repeats: int = 5, others_to: int = 10
) -> None:
    """Print times and gaps of the programs for weights on realistic moments.

    Args:
        members: Numbers of members.
        images: Calibration images; their strongest competitors are what esbrs_ratio pools.
        competitors: Competing classes of an image.
        repeats: Solves of each program; the median is shown.
        others_to: Largest number of members for which esbrs_acr, sween and auto are timed, too.
    """
    began = time.perf_counter()
    solve_weights([1.0, 0.9], [[1.0, 0.3], [0.3, 1.0]])
    print(f"First solve in a process, importing cvxpy: {time.perf_counter() - began:.2f} s\n")
    print("\n".join(moment_table(members=members, competitors=competitors, draws=_DRAWS)), "\n")
    print(f"{'k':>4} {'program':>24} {'median':>10} {'processor':>11} {'gap':>9} {'members with weight':>20}")
    timings = {}
    for k in members:
        # The ratio needs one competitor; nine covariances of 300 members of 200 images would be a gigabyte.
        calibration = realistic_calibration(k, images=images, competitors=1 if k > others_to else competitors, seed=k)
        pairs = runner_up_pairs(calibration.mean, calibration.covariance)
        pooled = pairs.mean.mean(0), pairs.covariance.mean(0)
        programs = {
            "esbrs_ratio": partial(solve_weights, *pooled),
            "esbrs_ratio from images": partial(choose_weights, "esbrs_ratio", calibration),
        }
        if k <= others_to:
            slow: tuple[Weighting, ...] = ("esbrs_paper", "esbrs_acr", "sween", "auto")
            programs |= {program: partial(choose_weights, program, calibration) for program in slow}
        for program, solve in programs.items():
            timing = measured(solve, repeats=1 if program in ("esbrs_acr", "auto") else repeats)
            print(
                f"{k:4} {program:>24} {1e3 * timing.median:7.1f} ms {1e3 * timing.processor:8.1f} ms "
                f"{timing.gap:9.1e} {timing.support:20}",
                flush=True,
            )
            if program == "esbrs_ratio":
                timings[k] = timing
    print("\nesbrs_ratio,", "; ".join(verdicts(timings)))


if __name__ == "__main__":
    tyro.cli(bench_weights)
