"""Facts about cascades over noise levels: worked cases, the exact error by enumeration, the whole ball, refusals."""

from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, multinomial
from torch import Tensor

from rspipe.smoothing import cascades
from rspipe.smoothing.cascades import cascade, cascade_counts, predict_cascade, predict_level
from rspipe.smoothing.certificates import ABSTAIN, certify_counts, clopper_pearson_lower, clopper_pearson_upper

PHI = NormalDist()
A, B, C = 0.5, 0.25, 1.0
SURE = [100, 0, 0], [10000, 0, 0]

# Selection and estimation counts by level; class, level, radius at alpha = .001, from a program of its own.
CASES: list[tuple[list[Any], dict[str, Any], tuple[int, int, float]]] = [
    ([(A, *SURE), (B, *SURE)], {}, (0, 0, 1.597106)),
    ([(A, [80, 15, 5], [7900, 1500, 600]), (B, [99, 1, 0], [9900, 80, 20])], {}, (0, 0, 0.381117)),
    ([(A, [45, 35, 20], [4400, 3500, 2100]), (B, [90, 6, 4], [9000, 600, 400])], {}, (0, 1, 0.055786)),
    ([(A, [30, 35, 35], [3100, 3600, 3300]), (B, [58, 22, 20], [5900, 2200, 1900])], {}, (0, 1, 0.046986)),
    ([(A, [52, 30, 18], [5010, 3000, 1990]), (B, [99, 1, 0], [9990, 5, 5])], {}, (ABSTAIN, -1, 0.0)),
    ([(A, *SURE), (B, *SURE)], {"shares": (0.5, 0.5)}, (0, 0, 1.585457)),
    (
        [
            (C, [40, 35, 25], [4000, 3500, 2500]),
            (A, [44, 36, 20], [4300, 3500, 2200]),
            (B, [85, 10, 5], [8600, 900, 500]),
        ],
        {},
        (0, 2, 0.068460),
    ),
    (
        [(A, [40, 40, 20], [4000, 3800, 2200]), (B, [48, 30, 22], [4900, 3000, 2100])],
        {"two_sided": True},
        (0, 1, 0.051283),
    ),
]


@pytest.mark.parametrize(("levels", "options", "expected"), CASES)
def test_worked_cases(levels: Any, options: dict[str, Any], expected: tuple[int, int, float]) -> None:
    result = cascade(levels, alpha=0.001, **options)
    assert (result.prediction, result.level) == expected[:2]
    assert result.radius == pytest.approx(expected[2], abs=5e-7)


def test_many_images_are_certified_as_each_alone() -> None:
    rng = np.random.default_rng(0)
    selection = rng.multinomial(100, [0.5, 0.3, 0.2], size=(2, 4, 5))
    estimation = np.stack([rng.multinomial(1000, p, size=(4, 5)) for p in ([0.45, 0.35, 0.2], [0.8, 0.1, 0.1])])
    together = cascade([(A, selection[0], estimation[0]), (B, selection[1], estimation[1])], alpha=0.01)
    assert {-1, 1} <= set(together.level.ravel().tolist())
    for at in np.ndindex(4, 5):
        alone = cascade(
            [(A, selection[0][at], estimation[0][at]), (B, selection[1][at], estimation[1][at])], alpha=0.01
        )
        for name in ("prediction", "level", "radius"):
            assert getattr(together, name)[at] == getattr(alone, name)


def spread(k: Any, n: Any) -> Any:
    """Counts [..., class] of k samples on class 0 and the others on three more classes, evenly."""
    rest = n - np.asarray(k)
    return np.stack([k, rest // 3, (rest + 1) // 3, (rest + 2) // 3], axis=-1)


@pytest.mark.parametrize("likely", [0, 1])
@pytest.mark.parametrize("options", [{}, {"shares": (0.5, 0.5)}], ids=["default", "equal"])
def test_the_exact_error_is_at_most_alpha_whatever_the_coupling(likely: int, options: dict[str, Any]) -> None:
    """All pairs of counts, at the worst dependence between levels: events of either coincide as often as they can."""
    alpha, n = 0.05, 80
    count, both = np.arange(n + 1), (n + 1, n + 1, 4)
    first, second = (np.broadcast_to(spread(count, n)[at], both) for at in (np.s_[:, None], np.s_[None]))
    selections = [np.broadcast_to(spread(sure, 30), both) for sure in (20 if likely == 0 else 12, 20)]
    claims = cascade([(A, selections[0], first), (B, selections[1], second)], alpha=alpha, **options)
    answers = np.where((claims.level == 0).any(1), claims.radius[:, 0], -1.0)
    errors = []
    for p, r in product([0.3, 0.42, 0.49, 0.4999, 0.5, 0.5001, 0.51, 0.58, 0.7], repeat=2):
        handed, own = -A * PHI.inv_cdf(max(p, (1 - p) / 3)), B * PHI.inv_cdf(r)
        false = (claims.level == 1) & (claims.radius > max(min(handed, own), 0.0))
        # A rectangle of pairs: the chance of both sides is at most the smaller of theirs.
        assert np.array_equal(false, np.outer(false.any(1), false.any(0)))
        at_first, at_second = binom.pmf(count, n, p), binom.pmf(count, n, r)
        wrong = answers > max(A * PHI.inv_cdf(p), 0.0)
        errors.append(at_first @ wrong + min(at_first @ false.any(1), at_second @ false.any(0)))
    assert 0.3 * alpha < max(errors) <= alpha


def test_a_two_sided_last_level_errs_at_most_as_often_as_alpha_says() -> None:
    """All counts of three classes at the last level, with the first level's, at the worst dependence between them."""
    alpha, n = 0.05, 60
    count = np.arange(n + 1)
    three = np.array([(k, j, n - k - j) for k in range(n + 1) for j in range(n + 1 - k)])
    both = (n + 1, len(three), 3)
    first = np.broadcast_to(np.stack([count, (n - count) // 2, (n - count + 1) // 2], axis=-1)[:, None], both)
    selections = [np.broadcast_to(np.array(one), both) for one in ([12, 10, 8], [14, 10, 6])]
    levels = [(A, selections[0], first), (B, selections[1], np.broadcast_to(three, both))]
    claims = cascade(levels, alpha=alpha, two_sided=True)
    assert (claims.radius > cascade(levels, alpha=alpha).radius + 0.01).any()
    assert set(claims.prediction[claims.level == 1].tolist()) == {0}
    answers = np.where((claims.level == 0).any(1), claims.radius[:, 0], -1.0)
    errors = []
    for p, r in product([0.4, 0.49, 0.5, 0.51, 0.6], [(0.4, 0.4), (0.45, 0.44), (0.5, 0.3), (0.5, 0.5), (0.6, 0.3)]):
        top = max(p, (1 - p) / 2)
        own = B / 2 * (PHI.inv_cdf(r[0]) - PHI.inv_cdf(max(r[1], 1e-9)))
        false = (claims.level == 1) & (claims.radius > max(min(-A * PHI.inv_cdf(top), own), 0.0))
        assert np.array_equal(false, np.outer(false.any(1), false.any(0)))
        at_second = multinomial.pmf(three, n, [*r, 1 - sum(r)])
        wrong = binom.pmf(count, n, p) @ (answers > max(A * PHI.inv_cdf(p), 0.0))
        errors.append(wrong + min(binom.pmf(count, n, p) @ false.any(1), at_second @ false.any(0)))
    assert 0.2 * alpha < max(errors) <= alpha


def test_all_of_alpha_for_each_claim_would_be_wrong() -> None:
    n, alpha = 1000, 0.001
    counts, p = np.arange(n + 1), 0.5
    answers = clopper_pearson_lower(counts, n, alpha=alpha) > 0.5
    hands_on = clopper_pearson_upper(np.maximum(counts, n - counts), n, alpha=alpha) < 0.5
    both = binom.pmf(counts, n, p) @ (answers | (clopper_pearson_upper(counts, n, alpha=alpha) < 0.5))
    assert not hands_on.any()
    assert both > 1.5 * alpha


def test_three_levels_of_comonotone_counts_err_at_most_as_often_as_alpha_says() -> None:
    rng, alpha, n, draws, sigmas = np.random.default_rng(0), 0.05, 300, 5000, (1.0, 0.5, 0.25)
    total = 0
    for p in [(0.5, 0.5, 0.5), (0.499, 0.501, 0.6), (0.45, 0.5, 0.51)]:
        uniform = rng.random(draws)
        k = [np.searchsorted(binom.cdf(np.arange(n), n, one), uniform) for one in p]
        levels = [
            (sigma, spread(rng.binomial(30, one, draws), 30), spread(counts, n))
            for sigma, one, counts in zip(sigmas, p, k, strict=True)
        ]
        claims = cascade(levels, alpha=alpha)
        false = 0
        for level, sigma in enumerate(sigmas):
            terms = [-before * PHI.inv_cdf(one) for before, one in zip(sigmas[:level], p[:level], strict=True)]
            true = max(min([*terms, sigma * PHI.inv_cdf(p[level])]), 0.0)
            # Of another class than 0 any claim is false.
            false += int(((claims.level == level) & ((claims.radius > true) | (claims.prediction > 0))).sum())
        assert false <= binom.isf(1e-6, draws, alpha)
        total += false
    assert total > 0


def test_within_the_radius_the_cascade_answers_the_same() -> None:
    """Of linear classifiers with a third class, whose probabilities along a line are known."""
    sigma = np.array([A, B])

    def answer(x: float) -> tuple[int, float]:
        """Class and true radius at x: at level 0 class 0 right of .3, class 1 left of -.3; at level 1 split at 0."""
        right, left = PHI.cdf((x - 0.3) / A), PHI.cdf((-x - 0.3) / A)
        for c, p in enumerate((right, left)):
            if p > 0.5:
                return c, A * PHI.inv_cdf(p)
        handed = -A * PHI.inv_cdf(max(right, left))
        own = PHI.cdf(abs(x) / B)
        return int(x < 0), min(handed, B * PHI.inv_cdf(own))

    assert sigma.min() == B
    for x in np.linspace(-1, 1, 81):
        c, radius = answer(x)
        for step in np.linspace(-0.999, 0.999, 9):
            assert radius <= 1e-12 or answer(x + step * radius)[0] == c


def test_pilots_show_what_is_handed_on_where_a_plan_gave_up_at_half_of_the_share() -> None:
    selection = np.array([[[45, 35, 20]], [[90, 6, 4]]])
    estimation = np.array([[[0, 0, 0]], [[900, 60, 40]]])
    futile = np.array([[[400, 300, 200]], [[0, 0, 0]]])
    result = cascade_counts((A, B), selection, estimation, alpha=0.01, futile=futile)
    upper = beta.isf(0.5 * 0.9 * 0.01, 401, 500)
    lower = beta.ppf(0.9 * 0.01, 900, 101)
    assert (result.prediction[0], result.level[0]) == (0, 1)
    assert result.radius[0] == pytest.approx(min(-A * PHI.inv_cdf(upper), B * PHI.inv_cdf(lower)), rel=1e-8)


def test_a_first_level_that_answers_is_certify_at_its_share() -> None:
    selection, estimation = np.array([80, 15, 5]), np.array([790, 150, 60])
    own = certify_counts(selection, estimation, sigma=A, alpha=0.009)
    assert cascade([(A, selection, estimation), (B, selection, estimation)], alpha=0.01).radius == own.radius


@pytest.mark.parametrize(
    ("levels", "options", "says"),
    [
        ([(A, *SURE)], {}, "two levels or more"),
        ([(A, *SURE), (B, SURE[0], [0, 0, 0])], {}, "label_stop = false"),
        ([(A, *SURE), (B, [1.0, 0, 0], SURE[1])], {}, "whole numbers"),
        ([(A, *SURE), (B, *SURE)], {"shares": (0.9, 0.2)}, "sum 1 at most"),
        ([(A, *SURE), (B, *SURE)], {"shares": (1.0,)}, "one for each of 2 levels"),
        ([(A, *SURE), (B, *SURE)], {"alpha": 1.5}, "alpha"),
        ([(A, *SURE), (-B, *SURE)], {}, "sigma must be positive"),
    ],
)
def test_what_is_no_cascade_is_refused(levels: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cascade(levels, **{"alpha": 0.001, **options})


# PREDICT.


def thirds(batch: Tensor) -> Tensor:
    """Class 0 right of 1/2, class 1 left of -1/2, else class 2 or 3 by the sign of the second number."""
    x, y = batch[:, 0], batch[:, 1]
    return torch.stack([x - 0.5, -x - 0.5, torch.where(y > 0, 0.0, -9.0), torch.where(y > 0, -9.0, 0.0)], dim=1)


def halves(batch: Tensor) -> Tensor:
    return torch.stack([batch[:, 0], -batch[:, 0], *[torch.full_like(batch[:, 0], -9.0)] * 2], dim=1)


def test_prediction_goes_through_the_levels() -> None:
    levels = [(A, thirds), (B, halves)]
    assert predict_cascade(levels, torch.tensor([1.5, 0.0])) == 0
    # No class of the first level exceeds 1/2 here, and the second is sure.
    assert predict_cascade(levels, torch.tensor([0.3, 0.0])) == 0
    assert predict_cascade(levels, torch.tensor([-0.3, 0.0])) == 1
    assert predict_cascade(levels, torch.tensor([0.0, 0.0])) == ABSTAIN
    assert predict_cascade(levels, torch.tensor([0.5, 0.0])) == ABSTAIN


def quarters(batch: Tensor) -> Tensor:
    """Class 0 right of .2, the others in equal parts left of it: .4 for it at 0, .2 for each other one."""
    x, y = batch[:, 0], batch[:, 1]
    left = torch.where(x > 0.25 * B, -9.0, 9.0)
    parts = [torch.where((y > low) & (y <= high), left, -9.0) for low, high in ((-9, -0.11), (-0.11, 0.11), (0.11, 9))]
    return torch.stack([torch.zeros_like(x), *parts], dim=1)


def test_a_two_sided_last_level_answers_below_one_half_and_another_does_not() -> None:
    levels, x = [(A, thirds), (B, quarters)], torch.zeros(2)
    assert predict_cascade(levels, x) == ABSTAIN
    assert predict_cascade(levels, x, two_sided=True) == 0


@pytest.mark.parametrize(("two_sided", "tested"), [(False, 0), (True, 1)])
def test_each_level_answers_at_half_of_its_share_of_alpha(
    two_sided: bool, tested: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the largest count of a level, once too few for that share and once enough; the other level hands on."""
    n, alpha = 1000, 0.05
    # Both classes of a level may be wrong at two levels: one-sided tests at alpha / 4, a two-sided one at as much.
    tail = alpha / 4 / (1 + two_sided)
    enough = 1 + int(binom.isf(tail, n, 0.5))
    assert binom.sf(enough - 1, n, 0.5) <= tail < binom.sf(enough - 2, n, 0.5)
    assert binom.sf(enough - 2, n, 0.5) < alpha / 2
    handed_on = [340, 330, 330]

    def answer(count: int) -> int:
        counts = iter([[count, n - count] if at == tested else handed_on for at in range(2)])
        monkeypatch.setattr(cascades, "class_counts", lambda *_, **__: np.array(next(counts)))
        levels = [(0.5, halves), (0.25, halves)]
        return predict_cascade(levels, torch.zeros(2), n=n, alpha=alpha, two_sided=two_sided)

    assert (answer(enough), answer(enough - 1)) == (0, ABSTAIN)


def test_a_level_answers_hands_on_or_leaves_it_open_by_exact_tests() -> None:
    n, alpha = 200, 0.01
    for top in range(100, n + 1):
        tail = float(binom.sf(top - 1, n, 0.5))
        assert predict_level(np.array([top, n - top]), alpha=alpha) == (0 if tail <= alpha else ABSTAIN)
    for top in range(67, 101):
        counts = np.array([top, top, n - 2 * top]) if 3 * top >= n and 2 * top <= n else np.array([top, n - top])
        handed = float(binom.cdf(counts.max(), n, 0.5)) <= alpha
        assert predict_level(counts, alpha=alpha) == (None if handed else ABSTAIN)


def test_too_few_samples_to_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="n = 10 can never certify"):
        predict_cascade([(A, halves), (B, halves)], torch.zeros(2), n=10)
    for few in ([], [(A, halves)]):
        with pytest.raises(ValueError, match=f"a cascade has two levels or more, got {len(few)}"):
            predict_cascade(few, torch.zeros(2))
