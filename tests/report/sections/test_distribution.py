"""Facts about where an ACR comes from: shares of images by p_A."""

from dataclasses import replace

import numpy as np
import pytest

from rspipe.report.sections.distribution import EDGES, spread, spread_figure, spread_table, spreads
from rspipe.smoothing.certificates import ABSTAIN, certified_radius, clopper_pearson_lower
from tests import results_builder as built


def classifier(n_a, predicted, *, stopped=()):
    """Return certificates of images of class 1 with given counts and predictions."""
    n_a, predicted = np.array(n_a), np.array(predicted)
    bound = clopper_pearson_lower(n_a, built.N, alpha=built.ALPHA)
    made = built.certified("a", "model", 0.5, skill=0.5, seed=0, images=len(n_a))
    return replace(
        made,
        label=np.ones(len(n_a), dtype=int),
        prediction=predicted,
        n_a=n_a,
        n=np.full(len(n_a), built.N),
        p_a_lower=bound,
        radius=np.where(predicted == ABSTAIN, 0.0, certified_radius(np.maximum(bound, 0.5), sigma=0.5)),
        stopped=np.isin(np.arange(len(n_a)), stopped),
    )


def test_every_image_is_in_one_bin():
    # Of ten images: all samples, .995, .95, .8, .6, wrong with all samples, abstained, given up as wrong.
    n = built.N
    one = classifier(
        [n, n, int(0.995 * n), int(0.95 * n), int(0.8 * n), int(0.6 * n), n, int(0.5 * n), 0, int(0.95 * n)],
        [1, 1, 1, 1, 1, 1, 2, ABSTAIN, ABSTAIN, 1],
        stopped=[8],
    )
    shares = spread("a", [one])
    assert (shares.wrong, shares.abstained, shares.saturated) == pytest.approx((0.2, 0.1, 0.2))
    assert shares.bins == pytest.approx((0.1, 0.1, 0.2, 0.1, 0.0, 0.0))
    assert len(shares.bins) == len(EDGES) + 1
    credited = np.where(one.correct, one.radius, 0.0)
    assert shares.acr == pytest.approx(credited.mean())
    assert shares.of_saturated == pytest.approx(2 * one.radius[0] / credited.sum())
    assert shares.quartiles[1] == pytest.approx(np.median(one.p_a_lower[[0, 1, 2, 3, 4, 5, 9]]))


def test_two_classifiers_of_one_acr_are_told_apart():
    n = built.N
    sure = classifier([n] * 5 + [0] * 5, [1] * 5 + [2] * 5)
    even = classifier([int(0.9 * n)] * 10, [1] * 10)
    even = replace(even, radius=np.full(10, sure.radius[0] / 2))
    a, b = spread("sure", [sure]), spread("even", [even])
    assert a.acr == pytest.approx(b.acr)
    assert (a.saturated, b.saturated) == (0.5, 0.0)
    assert (a.of_saturated, b.of_saturated) == (1.0, 0.0)


def test_shares_are_averaged_over_seeds_and_sum_to_one():
    results = built.results()
    for sigma in built.SIGMAS:
        for one in spreads(results, sigma=sigma):
            assert one.wrong + one.abstained + sum(one.bins) + one.saturated == pytest.approx(1.0)
    labels = {one.label for one in spreads(results, sigma=0.25)}
    assert "gaussian" in labels
    assert "advmacer ×2 · ratio" in labels


def test_a_classifier_that_is_never_right_has_no_quartiles_and_no_acr():
    shares = spread("lost", [classifier([built.N] * 3, [2] * 3)])
    assert shares.wrong == 1.0
    assert shares.of_saturated == 0.0
    assert np.isnan(shares.quartiles).all()
    assert "–, –, –" in [cell.text for cell in spread_table([shares]).rows[0]]


def test_bins_that_n_samples_cannot_reach_are_left_out_of_the_table():
    # 1 - .999^(1 / 10,000) leaves .99931 as the largest bound.
    columns = spread_table(spreads(built.results(), sigma=0.5)).columns
    assert "p_A ≥ 0.9" in columns
    assert "p_A ≥ 0.9999" not in columns


def test_the_figure_has_a_row_per_entry_by_acr_with_differences_from_the_baseline():
    results = built.results()
    (axes,) = spread_figure(results, sigma=0.25).axes
    shares = sorted(spreads(results, sigma=0.25), key=lambda one: -one.acr)
    labels = [text.get_text().rpartition("  ")[0] for text in axes.get_yticklabels()]
    assert labels == [
        one.label.replace("gaussian", "gaussian (baseline, %)", one.label == "gaussian") for one in shares
    ]
    cells = np.array([float(text.get_text().replace("−", "-")) for text in axes.texts]).reshape(len(shares), -1)
    base = labels.index("gaussian (baseline, %)")
    rounding = 0.05 * cells.shape[1]
    assert cells[base].sum() == pytest.approx(100, abs=rounding)
    for row, one in zip(cells, shares, strict=True):
        if one.label != "gaussian":
            assert row[0] == pytest.approx(100 * (one.wrong - shares[base].wrong), abs=0.05)
            # What is lost in one column is gained in the others.
            assert row.sum() == pytest.approx(0, abs=rounding)


def test_without_the_baseline_rows_of_the_figure_are_shares():
    results = built.results()
    others = tuple(one for one in results.certified if not one.id.startswith("gaussian"))
    (axes,) = spread_figure(replace(results, certified=others), sigma=0.25).axes
    first = [float(text.get_text()) for text in axes.texts[: len(axes.get_xticks())]]
    assert sum(first) == pytest.approx(100, abs=0.5)
    assert spread_figure(replace(results, certified=()), sigma=0.25) is None
