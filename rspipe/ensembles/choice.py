"""The weights of an ensemble, from its members' margins, by the weighting that a study names."""

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from rspipe.arrays import BoolArray
from rspipe.ensembles.calibration import Calibration
from rspipe.ensembles.moments import runner_up_pairs
from rspipe.ensembles.spec import Weighting
from rspipe.ensembles.weights import WeightSolution, solve_weights
from rspipe.ensembles.weights_acr import solve_acr
from rspipe.ensembles.weights_sween import solve_sween
from rspipe.errors import SolverError, nearest
from rspipe.smoothing.classifiers import COMBINATIONS
from rspipe.smoothing.metrics import standard_error

FOLDS = 4

_SAMPLES_PER_MEMBER = 10

_FEWEST_IMAGES = 2 * FOLDS

_CANDIDATES = ("esbrs_ratio", "esbrs_acr")


def _uniform(calibration: Calibration, reason: str) -> WeightSolution:
    weights = np.full(calibration.mean.shape[-1], 1 / calibration.mean.shape[-1])
    value = float(calibration.radii(weights).mean())
    return WeightSolution(weights, value, value, reason, "none", 0.0)


def _fit(weighting: str, calibration: Calibration) -> WeightSolution:
    """Return the solution of a program; `esbrs_paper` takes all competitors, as the paper's objective does."""
    if weighting == "esbrs_acr":
        return solve_acr(calibration.mean, calibration.covariance, cap=calibration.cap)
    if weighting == "sween":
        if calibration.label_probability is None:
            raise ValueError("sween needs the members' probabilities of the label, which were not kept")
        return solve_sween(calibration.label_probability)
    if weighting == "esbrs_paper":
        moments = calibration.mean, calibration.covariance
        return solve_weights(*moments, method="esbrs_paper", draws=calibration.draws)
    pairs = runner_up_pairs(calibration.mean, calibration.covariance)
    if len(pairs.mean) == 0:
        raise ValueError("the members together get no calibration image right")
    if weighting == "uniform":
        return solve_weights(pairs.mean, pairs.covariance, method="uniform")
    return solve_weights(pairs.mean, pairs.covariance, method="esbrs_ratio")


@dataclass(frozen=True)
class Candidate:
    """A way to choose weights, and what it gains over uniform ones on images that it was not fitted to."""

    method: str
    shrunk: bool
    """Whether its weights are halfway to uniform ones."""
    gain: float
    """Mean over images of the radius in units of sigma, less that of uniform weights; -inf where it has no solution."""
    error: float
    """Standard error of the gain."""

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.method} halfway to uniform" if self.shrunk else self.method


def cross_fitted(calibration: Calibration) -> tuple[Candidate, ...]:
    """Return what each candidate of `auto` gains: fitted to three quarters of the images, judged on the fourth.

    Images are dealt to the quarters in turn, so that the result is the same every time.
    """
    images = len(calibration.mean)
    fold, k = np.arange(images) % FOLDS, calibration.mean.shape[-1]
    uniform = np.full(k, 1 / k)
    candidates = []
    for method in _CANDIDATES:
        gains = np.full((2, images), -np.inf)
        for held_out in range(FOLDS):
            here = fold == held_out
            try:
                weights = _fit(method, calibration.of_images(~here)).weights
            except (ValueError, SolverError):
                continue
            judged = calibration.of_images(here)
            base = judged.radii(uniform)
            gains[0, here] = judged.radii(weights) - base
            gains[1, here] = judged.radii((weights + uniform) / 2) - base
        for shrunk, gain in enumerate(gains):
            known = bool(np.isfinite(gain).all())
            error = standard_error(gain) if known else float("inf")
            candidates.append(Candidate(method, bool(shrunk), float(gain.mean()), error))
    return tuple(candidates)


def _auto(calibration: Calibration) -> WeightSolution:
    """Return the weights of the best candidate, or uniform ones unless its gain exceeds two standard errors."""
    if len(calibration.mean) < _FEWEST_IMAGES:
        return _uniform(calibration, f"uniform: fewer than {_FEWEST_IMAGES} calibration images")
    best = max(cross_fitted(calibration), key=lambda candidate: candidate.gain)
    if not np.isfinite(best.gain):
        return _uniform(calibration, "uniform: no candidate has a solution")
    verdict = f"{best.name}, cross-fitted gain {best.gain:+.4f} σ (standard error {best.error:.4f}"
    uniform = np.full(calibration.mean.shape[-1], 1 / calibration.mean.shape[-1])
    if end := calibration.saturated(uniform):
        verdict += f"; {100 * end:.0f} % of the images end at {calibration.largest_radius:.2f} σ, where none can gain"
    verdict += ")"
    if not best.gain > 2 * best.error:
        return _uniform(calibration, f"uniform: best candidate {verdict} is within 2 standard errors")
    solution = _fit(best.method, calibration)
    weights = (solution.weights + uniform) / 2 if best.shrunk else solution.weights
    value, at_uniform = (float(calibration.radii(w).mean()) for w in (weights, uniform))
    return WeightSolution(weights, value, at_uniform, verdict, solution.solver, solution.gap)


def _shrunk(solution: WeightSolution, *, samples: int) -> WeightSolution:
    """Return a solution drawn to uniform weights by what `samples` lack of ten per member."""
    k = len(solution.weights)
    share = samples / (_SAMPLES_PER_MEMBER * k)
    weights = share * solution.weights + (1 - share) / k
    status = f"{solution.status}, drawn to uniform as {samples} samples are few for {k} members"
    spread = None if solution.spread is None else share * solution.spread
    return replace(solution, weights=weights, status=status, spread=spread)


def choose_weights(weighting: Weighting, calibration: Calibration) -> WeightSolution:
    """Return an ensemble's weights.

    * `uniform`, `esbrs_ratio`, `esbrs_paper`: `rspipe.ensembles.weights.solve_weights`, of each image's strongest
      competitor, the paper's of all competitors of each image.
    * `esbrs_acr`: `rspipe.ensembles.weights_acr.solve_acr`. `sween`: `rspipe.ensembles.weights_sween.solve_sween`.
    * `auto`: of `esbrs_ratio`, `esbrs_acr` and both halfway to uniform the one with the largest radii on images that
      it was not fitted to, by the draws at which the ensemble is right; uniform weights unless it gains more than two
      standard errors. The objective is the mean of these radii (`Calibration.radii`); the gap is that of the program
      chosen. The status says which.
    * `mme`, `consensus`: not an average; the weights say nothing.

    With fewer than ten samples (draws of images) per member the weights are drawn to uniform ones in proportion; the
    objective and the gap stay those of the program.

    Raises:
        ValueError: There is no such weighting, moments are not finite or not moments, or they allow no solution.
        SolverError: No solver found one.
    """
    if weighting not in get_args(Weighting):
        raise ValueError(f"unknown weighting {weighting!r}{nearest(str(weighting), get_args(Weighting))}")
    k = calibration.mean.shape[-1]
    if weighting in COMBINATIONS:
        return WeightSolution(np.full(k, 1 / k), float("nan"), float("nan"), "no weights", "none", 0.0)
    solution = _auto(calibration) if weighting == "auto" else _fit(weighting, calibration)
    samples = len(calibration.mean) * calibration.draws
    return _shrunk(solution, samples=samples) if samples < _SAMPLES_PER_MEMBER * k else solution


def prunable(calibration: Calibration) -> BoolArray:
    """Return [k] whether a member gets no weight from `esbrs_ratio` and none from `esbrs_acr`.

    Raises:
        ValueError: The moments allow no solution.
        SolverError: No solver found one.
    """
    pooled, direct = (_fit(method, calibration).weights for method in _CANDIDATES)
    return np.asarray(np.maximum(pooled, direct) < 1e-3, dtype=np.bool_)
