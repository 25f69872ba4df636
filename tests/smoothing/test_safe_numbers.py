"""Facts about rounding: no bound and no radius is above what the counts prove, checked with ball arithmetic."""

import pytest

from rspipe.smoothing.certificates import certified_radius, clopper_pearson_lower, clopper_pearson_upper

flint = pytest.importorskip("flint", reason="needs python-flint, which is in the dev extra", exc_type=ImportError)

SIZES = (60, 100, 1000, 10_000, 100_000, 1_000_000)
ALPHAS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)


@pytest.fixture(autouse=True)
def _bits():
    """Compute with 140 bits, where the radius of a tail's ball is far below what rounding could hide."""
    with flint.ctx.workprec(140):
        yield


def tail(k, n, p):
    """P(Bin(n, p) >= k) of a ball p."""
    return p.beta_lower(k, n - k + 1, True)


def refuted(probability, alpha):
    """Whether a tail is not provably at most alpha."""
    return not probability <= flint.arb(alpha)


def counts(n, alpha):
    """The largest counts, which most images have and whose tails take no time, and one in the middle."""
    return [*range(n // 2 if n <= 100 else n - 24, n + 1), int(n * (0.503 + 0.4 * alpha / ALPHAS[-1]))]


@pytest.mark.parametrize("n", SIZES)
def test_no_bound_and_no_radius_is_refuted_by_the_tail_of_its_count(n):
    sigma, half = 0.3, flint.arb(1) / 2
    for alpha in ALPHAS:
        k = counts(n, alpha)
        lower, upper = clopper_pearson_lower(k, n, alpha=alpha), clopper_pearson_upper(k, n, alpha=alpha)
        radius = certified_radius(lower, sigma=sigma)
        for count, low, high, reach in zip(k, lower.tolist(), upper.tolist(), radius.tolist(), strict=True):
            assert not refuted(tail(count, n, flint.arb(low)), alpha), (count, alpha)
            # P(Bin(n, u) <= k) = P(Bin(n, 1 - u) >= n - k).
            assert high == 1 or not refuted(tail(n - count, n, 1 - flint.arb(high)), alpha), (count, alpha)
            if reach > 0:
                p = half + (flint.arb(reach) / flint.arb(sigma) / flint.arb(2).sqrt()).erf() / 2
                assert not refuted(tail(count, n, p), alpha), (count, alpha)


def test_bounds_to_the_nearest_number_would_be_refuted():
    from scipy.special import betaincinv

    n, alpha = 100_000, 0.001
    nearest = [float(betaincinv(k, n - k + 1, alpha)) for k in range(n - 99, n + 1)]
    bad = [refuted(tail(k, n, flint.arb(p)), alpha) for k, p in zip(range(n - 99, n + 1), nearest, strict=True)]
    assert 20 < sum(bad) < 80
