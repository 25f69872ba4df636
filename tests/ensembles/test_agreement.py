"""Facts about the agreement of predicted and measured changes: right predictions pass, wrong ones do not."""

from itertools import combinations

import numpy as np
import pytest

from rspipe.ensembles.agreement import agreement

SEEDS = 4
PAIRS = [*combinations(range(2 * SEEDS), 2)]
MEMBERS = [frozenset(("ab"[one // SEEDS], one % SEEDS) for one in pair) for pair in PAIRS]


def changes(rng, *, images, slope=1.0, spread=0.02, noise=0.1):
    """Return predicted and measured changes of all pairs of eight models, whose errors come from their two members.

    The true change of a pair is that of its members together; measured is `slope` times as much as predicted.
    """
    true = rng.normal(size=2 * SEEDS) * spread

    def observed(truth, images):
        members = truth[:, None] + noise * rng.normal(size=(2 * SEEDS, images)) + 0.3 * noise * rng.normal(size=images)
        return np.array([members[a] + members[b] for a, b in PAIRS])

    return observed(true, images), observed(slope * true, images)


def covered(interval, value):
    return interval.low <= value <= interval.high


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_the_slope_is_found_again_in_spite_of_noisy_predictions(slope):
    rng, families = np.random.default_rng(1), 150
    agreements = [agreement(*changes(rng, images=400, slope=slope), MEMBERS) for _ in range(families)]
    slopes = np.array([one.models.estimate for one in agreements if one.models is not None])
    assert len(slopes) > 0.9 * families
    # The ratio of noisy sums is skewed: its median is what is not.
    assert np.median(slopes) == pytest.approx(slope, abs=4 * 1.2533 * slopes.std() / len(slopes) ** 0.5)
    misses = sum(not covered(one.models, slope) for one in agreements if one.models is not None)
    assert misses / len(slopes) <= 0.05 + 3 * (0.05 * 0.95 / families) ** 0.5
    assert all(one.procedures.low <= one.models.low for one in agreements if one.procedures is not None)


def test_right_predictions_are_seldom_refused_though_ensembles_share_their_members():
    rng, families = np.random.default_rng(2), 200
    agreements = [agreement(*changes(rng, images=100), MEMBERS) for _ in range(families)]
    refused = sum(one.p < 0.05 for one in agreements)
    assert refused / families <= 0.05 + 3 * (0.05 * 0.95 / families) ** 0.5
    # One in twenty on average, but by no means independently: of 28, 5 or more would be 1 % if they were.
    beyond = np.array([one.beyond for one in agreements])
    assert beyond.mean() / len(PAIRS) == pytest.approx(0.05, abs=4 * beyond.std() / len(PAIRS) / families**0.5 + 0.005)
    assert (beyond >= 5).mean() > 0.05


def test_wrong_predictions_are_refused():
    rng = np.random.default_rng(3)
    for wrong in ({"slope": -1.0}, {"slope": 0.0}):
        one = agreement(*changes(rng, images=2000, **wrong), MEMBERS)
        assert not covered(one.models, 1.0)
        assert one.p < 0.01
        assert one.beyond > len(PAIRS) / 2
    assert agreement(*changes(rng, images=2000, slope=-1.0), MEMBERS).correlation < -0.9


def test_predictions_that_are_noise_alone_tell_no_slope():
    rng = np.random.default_rng(4)
    told = [agreement(*changes(rng, images=50, spread=0.0), MEMBERS).models is not None for _ in range(100)]
    # One in a hundred; four standard errors on top, and .01 since the noise is itself estimated from 50 images.
    assert np.mean(told) <= 0.02 + 4 * (0.01 * 0.99 / 100) ** 0.5


def test_one_ensemble_is_judged_by_its_own_error():
    predicted, measured = changes(np.random.default_rng(5), images=400)
    one = agreement(predicted[:1], measured[:1], MEMBERS[:1])
    assert (one.ensembles, one.models, one.beyond) == (1, None, 0)
    assert np.isnan(one.correlation)
    off = agreement(predicted[:1], measured[:1] + 1.0, MEMBERS[:1])
    assert (off.beyond, off.p) == (1, pytest.approx(0.05, abs=5 * (0.05 * 0.95 / 2000) ** 0.5))


def test_ensembles_that_are_their_members_have_no_error_and_are_no_evidence():
    one = agreement(np.zeros((3, 20)), np.zeros((3, 30)), MEMBERS[:3])
    assert (one.beyond, one.p, one.models) == (0, 1.0, None)


def test_with_one_seed_of_a_label_the_slope_is_for_these_models_alone():
    predicted, measured = changes(np.random.default_rng(6), images=400)
    few = [at for at, one in enumerate(MEMBERS) if not one & {("b", 1), ("b", 2), ("b", 3)}]
    one = agreement(predicted[few], measured[few], [MEMBERS[at] for at in few])
    assert one.models is not None
    assert one.procedures is None
