"""Facts about decisions on one radius: worked thresholds, exact error and samples, and what decide returns."""

from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import binom
from torch import Tensor, nn

from rspipe.smoothing.certificates import ABSTAIN, clopper_pearson_lower
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.counting import count_image
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.decisions import DecisionLooks, decide, decision_looks, log_bets
from rspipe.smoothing.derivation import derive
from rspipe.smoothing.sampling import DecideRule, Sampling, rule_of

PHI = NormalDist()
FINE = {"first": 32, "growth": 1.1, "step": 32}
CASES: list[tuple[float, float, int, dict[str, Any], int, dict[int, tuple[int, int]]]] = [
    # Radius, sigma, n, options, looks, and (accept, give up) by t, from a program of its own; t + 1 is never.
    (0.25, 0.25, 10_000, FINE, 43, {32: (33, 19), 192: (182, 147), 1312: (1162, 1077), 9760: (8382, 8288)}),
    (0.5, 0.25, 100_000, FINE, 67, {32: (33, 27), 192: (193, 180), 4480: (4420, 4353), 97312: (95318, 95184)}),
    (0.0, 0.5, 10_000, FINE, 43, {32: (28, 7), 192: (128, 77), 1312: (742, 620), 9760: (5124, 4918)}),
    (0.5, 0.5, 10_000, {}, 31, {100: (98, 72), 600: (543, 483), 2100: (1842, 1739), 9600: (8246, 8128)}),
]
LAST = {(0.25, 10_000): 8529, (0.5, 100_000): 97_873, (0.0, 10_000): 5159, (0.5, 10_000): 8529}


def run(looks: DecisionLooks, p: float) -> tuple[float, float]:
    """Return the exact chance of acceptance and the mean number of samples at p, look by look."""
    alive, low, before, accepted, mean = np.ones(1), 0, 0, 0.0, 0.0
    for t, accept, give_up in zip(looks.t.tolist(), looks.accept.tolist(), looks.give_up.tolist(), strict=True):
        alive = np.convolve(alive, binom.pmf(np.arange(t - before + 1), t - before, p))
        k = low + np.arange(len(alive))
        accepted += alive[k >= accept].sum()
        stopped = (k >= accept) | (k <= give_up)
        mean += t * alive[stopped].sum()
        alive = alive[~stopped]
        low, before = (int(k[~stopped][0]), t) if alive.size else (0, t)
        if not alive.size:
            break
    return float(accepted), float(mean)


@pytest.mark.parametrize(("radius", "sigma", "n", "options", "size", "expected"), CASES)
def test_worked_thresholds(
    radius: float, sigma: float, n: int, options: dict[str, Any], size: int, expected: dict[int, tuple[int, int]]
) -> None:
    looks = decision_looks(radius, sigma=sigma, n=n, alpha=0.001, **options)
    places = {t: at for at, t in enumerate(looks.t.tolist())}
    assert len(places) == size
    assert {t: (int(looks.accept[places[t]]), int(looks.give_up[places[t]])) for t in expected} == expected
    assert (looks.accept[-1], looks.give_up[-1]) == (LAST[radius, n], LAST[radius, n] - 1)


@pytest.mark.parametrize(
    ("radius", "sigma", "options", "p", "accepted", "samples"),
    [
        (0.25, 0.25, FINE, 0.98, 1.0, 100.54),
        (0.25, 0.25, FINE, 0.86, 0.977978, 7744.78),
        (0.25, 0.25, FINE, PHI.cdf(1), 8.12139e-4, 7081.81),
        (0.25, 0.25, FINE, 0.7, 1.23023e-10, 91.71),
        (0.0, 0.5, FINE, 0.55, 0.999662, 2419.90),
        (0.5, 0.5, {}, 0.9, 1.0, 768.91),
    ],
)
def test_worked_chances_and_samples(
    radius: float, sigma: float, options: dict[str, Any], p: float, accepted: float, samples: float
) -> None:
    chance, mean = run(decision_looks(radius, sigma=sigma, n=10_000, alpha=0.001, **options), p)
    assert chance == pytest.approx(accepted, rel=1e-4)
    assert mean == pytest.approx(samples, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "table"),
    [
        (FINE, (36, 1927, 14_625, 71_628, 94_750, 38_864, 5593, 381, 66)),
        ({}, (100, 1987, 14_764, 71_555, 94_981, 38_932, 5629, 414, 100)),
        ({"first": 1000, "growth": 1.0, "step": 1000}, (1000, 2509, 14_718, 69_054, 94_108, 36_993, 5941, 1001, 1000)),
    ],
)
def test_the_samples_of_the_published_table_come_out_within_five_percent(
    options: dict[str, Any], table: tuple[int, ...]
) -> None:
    p0, n = PHI.cdf(1), 100_000
    looks, sd = decision_looks(0.5, sigma=0.5, n=n, alpha=0.001, **options), (p0 * (1 - p0) / n) ** 0.5
    for p, samples in zip([0.5, *(p0 + x * sd for x in (-20, -5, 0, 4, 8, 20)), 0.9207, 0.999], table, strict=True):
        assert run(looks, p)[1] == pytest.approx(samples, rel=0.05)


def test_a_published_log_is_decided_in_the_samples_that_its_probabilities_say(shared_data: Path) -> None:
    """Cohen's 500 images of CIFAR-10 at sigma .25, their p by the logged radii, in 50 quantiles."""
    log = shared_data / "certify-logs" / "cohen-cifar10-r110-sigma0.25.tsv"
    if not log.is_file():
        pytest.skip(f"needs {log}")
    rows = np.genfromtxt(log, names=True, delimiter="\t", usecols=("predict", "radius"))
    bound = ndtr(rows["radius"] / 0.25)
    # The count whose bound at alpha = .001 was logged, to first order; where nothing was certified p is not known, and
    # taken to be between .4 and .505.
    share = np.minimum(bound - PHI.inv_cdf(0.001) * np.sqrt(bound * (1 - bound) / 100_000), 1)
    unknown = np.random.default_rng(0).uniform(0.4, 0.505, len(share))
    p = np.quantile(np.where(rows["predict"] == ABSTAIN, unknown, share), (np.arange(50) + 0.5) / 50)
    looks = decision_looks(0.25, sigma=0.25, n=100_000, alpha=0.001)
    chances, costs = zip(*(run(looks, one) for one in p.tolist()), strict=True)
    assert np.mean(costs) == pytest.approx(1691, rel=0.05)
    assert np.mean(chances) == pytest.approx(0.6599, abs=0.002)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(("radius", "n"), [(0.0, 2000), (0.25, 300), (0.5, 2000), (1.0, 4000)])
def test_the_exact_error_is_at_most_alpha_below_what_the_radius_needs(radius: float, n: int, alpha: float) -> None:
    looks, p0 = decision_looks(radius, sigma=0.5, n=n, alpha=alpha), PHI.cdf(radius / 0.5)
    errors = [run(looks, p)[0] for p in p0 * np.array([0.8, 0.98, 0.999, 1.0])]
    assert errors == sorted(errors)
    assert 0.5 * alpha < errors[-1] <= alpha


def test_a_decision_proves_little_less_than_a_fixed_number_of_samples() -> None:
    p0, n = PHI.cdf(1), 10_000
    looks, p = decision_looks(0.5, sigma=0.5, n=n, alpha=0.001), p0 + 4 * (p0 * (1 - p0) / n) ** 0.5
    counts = np.arange(n + 1)
    fixed = binom.pmf(counts, n, p) @ (clopper_pearson_lower(counts, n, alpha=0.001) >= p0)
    assert fixed - 0.03 < run(looks, p)[0] < fixed


def test_bets_are_the_integral_of_likelihood_ratios_over_the_prior() -> None:
    p0, grid = 0.7, np.linspace(0.7, 1, 200_001)[1:-1]
    for k, t in [(8, 10), (40, 50), (99, 100)]:
        ratio = (grid / p0) ** k * ((1 - grid) / (1 - p0)) ** (t - k)
        assert log_bets(np.array(k), np.array(t), p0) == pytest.approx(np.log(ratio.mean()), abs=1e-4)


def linear(distance: float) -> tuple[Any, Tensor]:
    return (lambda batch: torch.stack([-batch[:, 0], batch[:, 0]], dim=1)), torch.tensor([distance, 0.0])


def test_decide_proves_what_lies_within_and_gives_up_what_lies_beyond() -> None:
    classifier, x = linear(0.5)
    near = decide(classifier, x, 0.3, sigma=0.5, n=10_000)
    assert (near.prediction, near.radius, near.proven) == (1, 0.3, True)
    far = decide(classifier, x, 0.8, sigma=0.5, n=10_000)
    assert (far.prediction, far.radius, far.proven) == (ABSTAIN, 0.0, False)
    assert max(near.samples, far.samples) < 3000
    assert near.samples % 100 == 0


def test_a_decision_does_not_depend_on_the_batch_size() -> None:
    classifier, x = linear(0.4)
    first, *others = (
        decide(classifier, x, 0.33, sigma=0.5, n=5000, block_size=500, batch_size=size) for size in (10, 100, 250, 500)
    )
    assert others == [first] * 3


class Line(nn.Module):
    """Two classes by the first number."""

    def forward(self, batch: Tensor) -> Tensor:
        return torch.stack([-batch[:, 0], batch[:, 0]], dim=1)


def counted(distance: float, rule: DecideRule, *, n: int = 5000, **call: Any) -> CountTable:
    spec = Sampling(rule=rule, n=n, block_size=500, **call)
    shared: dict[str, Any] = {"label": 1, "sigma": 0.5, "example": 3, "classes": 2}
    return count_image([Line()], [Classifier("a", (0,), (1.0,))], torch.tensor([distance, 0.0]), spec=spec, **shared)


@pytest.mark.parametrize("radius", [0.0, 0.2, 0.36, 0.45, 0.8])
def test_a_pass_by_rule_decide_draws_and_says_what_decide_does(radius: float) -> None:
    for distance in (0.4, 0.05):
        counts = counted(distance, DecideRule(radii=(radius,), label_stop=False))
        classifier, x = linear(distance)
        alone = decide(classifier, x, radius, sigma=0.5, n=5000, example=3, block_size=500)
        own = derive(counts)
        assert (own.prediction[0], own.radius[0], own.n_a[0]) == (alone.prediction, alone.radius, alone.n_a)
        assert counts.drawn[0] == alone.samples
        assert counts.stop[0] == ("settled" if alone.samples < 5000 else "")
        # The bound is what the radius needs, and no more.
        assert own.p_a_lower[0] == (pytest.approx(PHI.cdf(radius / 0.5), rel=1e-9) if alone.proven else 0)


def test_of_several_radii_those_count_up_to_the_first_that_is_not_proven() -> None:
    radii = (0.1, 0.2, 0.36, 0.45)
    counts = counted(0.4, DecideRule(radii=radii))
    single = [counted(0.4, DecideRule(radii=(radius,))) for radius in radii]
    assert counts.drawn[0] == max(one.drawn[0] for one in single)
    proven = [radius for radius, one in zip(radii, single, strict=True) if derive(one).prediction[0] == 1]
    assert derive(counts).radius[0] == max(proven) == 0.36
    # A radius that is proven early stays so, whatever the counts to come: it is proven by those that were noted.
    assert len(counts.marks) == len(decision_looks(0.1, sigma=0.5, n=5000, alpha=0.001).t)
    # A radius beyond the first that was given up takes no samples.
    lost = counted(0.4, DecideRule(radii=(0.8, 0.9)))
    assert lost.drawn[0] == counted(0.4, DecideRule(radii=(0.8,))).drawn[0]
    assert derive(lost).prediction[0] == ABSTAIN


def test_counts_by_rule_decide_do_not_depend_on_the_batch_size() -> None:
    rule = DecideRule(radii=(0.2, 0.36))
    first, *others = (counted(0.4, rule, batch_size=size) for size in (None, 50, 500))
    for other in others:
        assert np.array_equal(first.prefix, other.prefix)
        assert np.array_equal(first.estimation, other.estimation)


def test_other_certificates_are_not_derived_from_decisions() -> None:
    counts = counted(0.4, DecideRule(radii=(0.2,)))
    with pytest.raises(ValueError, match="rule decide stops by its estimation samples"):
        derive(counts, kind="two_sided")
    assert derive(counts, alpha=0.5).radius[0] == 0.2
    assert derive(counts, alpha=1e-9).prediction[0] == ABSTAIN


def test_the_rule_is_given_by_its_name_or_a_table() -> None:
    assert rule_of("decide") == DecideRule()
    assert rule_of({"name": "decide", "radii": [0, 1]}) == DecideRule(radii=(0.0, 1.0))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"radii": ()}, "one radius or more"),
        ({"radii": (0.5, 0.25)}, "must ascend"),
        ({"radii": (-0.1,)}, "none below 0"),
        ({"futility": 0.0}, "futility"),
        ({"early_share": 1.0}, "early_share"),
        ({"growth": 0.5}, "growth"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DecideRule(**given)


def test_false_decisions_are_as_rare_as_alpha_says() -> None:
    classifier, x = linear(0.2)
    false = sum(decide(classifier, x, 0.2001, sigma=0.5, n0=1, n=300, alpha=0.2, seed=s).proven for s in range(150))
    assert false <= binom.isf(1e-6, 150, 0.2)


@pytest.mark.parametrize(
    ("radius", "options", "says"),
    [
        (-0.1, {}, "radius must be at least 0"),
        (float("nan"), {}, "radius must be at least 0"),
        (0.5, {"alpha": 0.0}, "alpha must lie in"),
        (3.0, {"n": 100}, "can never prove radius 3"),
        (99.0, {"n": 100}, "can never prove radius 99"),
        (0.5, {"sigma": 0.0}, "sigma must be positive"),
        (0.5, {"batch_size": 33}, "must divide block_size"),
    ],
)
def test_what_cannot_be_decided_is_refused(radius: float, options: dict[str, Any], says: str) -> None:
    classifier, x = linear(0.5)
    with pytest.raises(ValueError, match=says):
        decide(classifier, x, radius, **{"sigma": 0.5, **options})


def test_looks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="early_share must lie in"):
        decision_looks(0.5, sigma=0.5, n=100, alpha=0.001, early_share=1.0)
    with pytest.raises(ValueError, match="alpha must lie in"):
        decision_looks(0.5, sigma=0.5, n=100, alpha=0.001, futility=0.0)
