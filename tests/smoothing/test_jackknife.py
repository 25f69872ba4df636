"""Facts about contrasts of ensembles: over all subsets of seeds, judged by leaving out one seed after the other."""

from itertools import combinations, product

import numpy as np
import pytest

from rspipe.smoothing.inference import difference
from rspipe.smoothing.jackknife import contrast_of_subsets, pseudo_values


def subset(*members):
    """Return members named "a0" for seed 0 of label a."""
    return frozenset((name[0], int(name[1:])) for name in members)


def table(**credits_):
    """Return credits by members: `a0_a1=...` is the ensemble of seeds 0 and 1 of label a."""
    return {subset(*name.split("_")): np.array([float(v) for v in text.split()]) for name, text in credits_.items()}


SINGLE = table(a0=".49 .16 .70 1.00 1.38", a1=".51 .20 .79 1.30 1.51", a2=".34 .41 .81 1.01 1.55")
PAIRS = table(a0_a1=".56 .23 .79 1.19 1.51", a0_a2=".50 .34 .82 1.10 1.50", a1_a2=".49 .36 .84 1.19 1.59")


def test_the_worked_case_of_the_average_of_two_comes_out_to_all_digits_given():
    result = contrast_of_subsets(PAIRS, SINGLE)
    one = result.procedures
    assert (one.estimate, one.low, one.high, one.p) == pytest.approx((0.056667, 0.012137, 0.101197, 0.031775), abs=1e-6)
    assert (one.seed_variance, one.image_variance, one.df) == pytest.approx((107.111e-6, 0, 2), abs=5e-10)
    assert one.verdict == "holds here"
    assert (result.models.low, result.models.high) == pytest.approx((0.04696, 0.066373), abs=1e-6)


def test_of_single_models_the_pseudo_values_are_their_credits_but_for_what_all_seeds_share():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 20)), rng.random((2, 20))
    first, second = (
        {subset(f"{name}{seed}"): row for seed, row in enumerate(side)} for name, side in zip("ab", (a, b), strict=True)
    )
    values = pseudo_values(first, second)
    for group, side, sign in zip(values.groups, (a, b), (1, -1), strict=True):
        assert group - group.mean(0) == pytest.approx(sign * (side - side.mean(0)))
    there, here = contrast_of_subsets(first, second), difference(a, b)
    for one, other in ((there.procedures, here.procedures), (there.models, here.models)):
        assert (one.low, one.high, one.p, one.df) == pytest.approx((other.low, other.high, other.p, other.df))


def test_models_made_from_others_are_paired_seed_by_seed():
    rng = np.random.default_rng(1)
    change = rng.random((3, 20))
    values = pseudo_values({subset(f"a{seed}"): row for seed, row in enumerate(change)})
    assert values.theta == pytest.approx(change.mean(0))
    assert np.stack(values.groups) == pytest.approx(change[None])


def test_pseudo_values_average_to_the_contrast_where_all_subsets_are_there():
    rng = np.random.default_rng(2)
    four = [f"a{seed}" for seed in range(4)]
    pairs, single = ({subset(*m): rng.random(10) for m in combinations(four, size)} for size in (2, 1))
    values = pseudo_values(pairs, single)
    assert values.groups[0].mean(0) == pytest.approx(values.theta)


def test_a_mixed_contrast_has_a_group_per_label():
    rng = np.random.default_rng(3)
    a, b = [f"a{seed}" for seed in range(3)], [f"b{seed}" for seed in (0, 7)]
    mixed = {subset(*pair): rng.random(10) for pair in product(a, b)}
    intra = {subset(*pair): rng.random(10) for pair in combinations(a, 2)}
    result = contrast_of_subsets(mixed, intra)
    assert result.seeds == (3, 2)
    assert result.procedures is not None
    # Two of A leave no pair of A without one of them; one of B is in every mixed ensemble.
    few_a = {pair: value for pair, value in mixed.items() if ("a", 2) not in pair}
    assert contrast_of_subsets(few_a, {subset("a0", "a1"): rng.random(10)}).procedures is None
    few_b = {pair: value for pair, value in mixed.items() if ("b", 7) not in pair}
    assert contrast_of_subsets(few_b, intra).procedures is None


def test_incomplete_subsets_are_judged_where_each_seed_is_left_out_by_one_of_each_kind():
    some = {pair: value for pair, value in PAIRS.items() if pair != subset("a1", "a2")}
    assert contrast_of_subsets(some, SINGLE).procedures is None
    rng = np.random.default_rng(4)
    ring = {subset(f"a{seed}", f"a{(seed + 1) % 4}"): rng.random(5) for seed in range(4)}
    assert contrast_of_subsets(ring, SINGLE | table(a3=".4 .3 .7 1.1 1.4")).procedures is not None


def test_seeds_that_always_come_together_are_no_independent_parts():
    """Two disjoint pairs are two parts: as four seeds they would be called different in 11 % of cases, not 5 %."""
    rng = np.random.default_rng(6)
    apart = {subset("a0", "a1"): rng.random(5), subset("a2", "a3"): rng.random(5)}
    single = {subset(f"a{seed}"): rng.random(5) for seed in range(4)}
    assert contrast_of_subsets(apart, single).procedures is None
    assert contrast_of_subsets(apart | {subset("a1", "a2"): rng.random(5)}, single).procedures is not None
    mixed = {subset(f"a{seed}", f"b{seed}"): rng.random(5) for seed in range(2)}
    assert contrast_of_subsets(mixed).procedures is None
    assert contrast_of_subsets({subset(f"a{a}", f"b{b}"): rng.random(5) for a in (0, 1) for b in (0, 1)}).procedures


def test_an_ensemble_of_all_seeds_is_judged_for_its_models_alone():
    result = contrast_of_subsets(table(a0_a1_a2=".6 .4 .8 1.2 1.6"), SINGLE)
    assert result.procedures is None
    mean = np.mean([*SINGLE.values()], axis=0)
    assert result.models == difference([[0.6, 0.4, 0.8, 1.2, 1.6]], mean[None]).models


def test_subsets_that_cannot_be_compared_are_refused():
    for first, second in (({}, None), (PAIRS, {}), ({frozenset(): [1.0]}, None)):
        with pytest.raises(ValueError, match="at least one"):
            pseudo_values(first, second)
    with pytest.raises(ValueError, match="on the same images"):
        pseudo_values(PAIRS, {subset("a0"): [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"must be \[image\]"):
        pseudo_values({subset("a0"): [[1.0, 2.0]]})


@pytest.mark.parametrize("seeds", [3, 4])
def test_a_gain_that_is_0_is_seldom_seen_and_by_images_alone_often(seeds):
    """Pairs average what the seeds add to their credits, exactly, so averaging gains 0; other seeds, other noise."""
    rng, families, images = np.random.default_rng(seeds), 400, 200
    wrong = {"procedures": 0, "models": 0}
    for _ in range(families):
        # What a pair gains beside its members' mean is a mean of what its seeds bring along, 0 over all seeds.
        brings = 0.02 * rng.normal(size=(seeds, 1)) + 0.1 * rng.normal(size=(seeds, images))
        gains = {
            subset(*(f"a{seed}" for seed in pair)): brings[[*pair]].mean(0) for pair in combinations(range(seeds), 2)
        }
        result = contrast_of_subsets(gains)
        wrong["procedures"] += result.procedures.verdict != "undecided"
        wrong["models"] += result.models.verdict != "undecided"
    # Levels measured for such contrasts reach .083; three standard errors of the simulation on top.
    assert wrong["procedures"] / families <= 0.083 + 3 * (0.083 * 0.917 / families) ** 0.5
    assert wrong["models"] / families > 0.05 + 5 * (0.05 * 0.95 / families) ** 0.5
