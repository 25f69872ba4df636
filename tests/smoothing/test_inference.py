"""Facts about differences: what they say of models and of procedures, and how often that is false."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

import rspipe
from rspipe.smoothing.inference import borrowed, contrast, difference, holm, tolerated_seed_sd

CASES = {
    "two seeds, new images": (
        (".78 .55 .98 1.44 2.02 | .72 .39 .90 1.45 2.01", ".52 .28 .70 1.10 1.42 | .48 .16 .77 1.10 1.44", None),
        (0.327, 949e-6, 4205e-6, 1.108567, -0.032794, 0.686794, 0.056666, "undecided"),
        (0.137031, 0.516969, 0.008781, "holds for these models"),
    ),
    "three seeds, all images of the test set": (
        (
            ".51 .23 .66 1.34 1.81 | .49 .25 .68 1.29 1.79 | .48 .21 .71 1.33 1.72",
            ".47 .33 .82 1.25 1.52 | .52 .26 .73 1.08 1.52 | .47 .24 .77 1.13 1.45",
            5,
        ),
        (0.062667, 455.111e-6, 0, 2.314160, -0.018158, 0.143491, 0.083215, "undecided"),
        (0.062667, 0.062667, 0, "holds for these models"),
    ),
    "wider for the models than by the seeds": (
        (".69 .18 .94 1.18 1.69 | .49 .47 .77 1.23 1.73", ".31 .33 .60 1.06 1.47 | .39 .19 .94 .99 1.27", None),
        (0.182, 2e-6, 0, 2, 0.041207, 0.322793, 0.022982, "holds here"),
        (0.041207, 0.322793, 0.022982, "holds for these models"),
    ),
}


def rows(text: str) -> np.ndarray:
    return np.array([[float(value) for value in row.split()] for row in text.split("|")])


@pytest.mark.parametrize("name", CASES)
def test_worked_cases_come_out_to_all_digits_given(name):
    (first, second, population), of_procedures, of_models = CASES[name]
    result = difference(rows(first), rows(second), population=population)
    estimate, seeds, images, df, low, high, p, verdict = of_procedures
    one = result.procedures
    assert one.estimate == result.estimate == pytest.approx(estimate, abs=5e-7)
    assert (one.seed_variance, one.image_variance) == pytest.approx((seeds, images), abs=5e-10)
    assert (one.df, one.low, one.high, one.p) == pytest.approx((df, low, high, p), abs=1e-6)
    assert one.verdict == verdict
    models = result.models
    assert (models.low, models.high, models.p) == pytest.approx(of_models[:3], abs=1e-6)
    assert models.verdict == of_models[3]


@st.composite
def labels(draw, *, least=1):
    """Return two labels [seed, image] on the same images, credits at random and some of them 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images = draw(st.integers(2, 30))
    shapes = [(draw(st.integers(least, 4)), images) for _ in "ab"]
    return [rng.random(shape) * (rng.random(shape) < 0.7) for shape in shapes]


def scopes(result):
    return [one for one in (result.procedures, result.models) if one is not None]


@given(labels(), st.sampled_from([None, 30, 1000]))
def test_swapping_the_sides_turns_the_sign_and_changes_nothing_else(pair, population):
    a, b = pair
    there, back = difference(a, b, population=population), difference(b, a, population=population)
    assert there.estimate == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    for one, other in zip(scopes(there), scopes(back), strict=True):
        assert (one.estimate, one.low, one.high) == pytest.approx((-other.estimate, -other.high, -other.low), abs=1e-12)
        assert (one.p, one.se, one.detectable) == pytest.approx((other.p, other.se, other.detectable))


@given(labels(least=2), st.floats(0.1, 10))
def test_another_unit_of_the_radius_scales_the_interval_and_leaves_p(pair, unit):
    plain, scaled = difference(*pair), difference(*(unit * side for side in pair))
    for one, other in zip(scopes(plain), scopes(scaled), strict=True):
        expected = unit * np.array([one.estimate, one.low, one.high, one.se, one.detectable])
        assert (other.estimate, other.low, other.high, other.se, other.detectable) == pytest.approx(expected, abs=1e-12)
        assert other.p == pytest.approx(one.p, rel=1e-6)


@given(labels(least=2), st.sampled_from([None, 30, 1000]))
def test_the_p_value_is_below_5_percent_exactly_where_the_interval_leaves_0_out(pair, population):
    for one in scopes(difference(*pair, population=population)):
        assert (one.p < 0.05) == (one.verdict != "undecided") == (one.low > 0 or one.high < 0)


@given(labels(least=2))
def test_procedures_are_never_surer_than_models_and_a_finite_test_set_never_less_sure(pair):
    new, finite = difference(*pair), difference(*pair, population=40)
    for one in (new, finite):
        assert one.procedures.high - one.procedures.low >= (one.models.high - one.models.low) * (1 - 1e-12)
        assert one.procedures.verdict == "undecided" or one.models.verdict != "undecided"
    for one, other in zip(scopes(finite), scopes(new), strict=True):
        assert one.high - one.low <= other.high - other.low + 1e-12


@given(labels(least=2), st.randoms())
def test_the_order_of_seeds_and_images_does_not_matter(pair, random):
    order = random.sample(range(pair[0].shape[1]), pair[0].shape[1])
    one, other = difference(*pair), difference(*(side[::-1][:, order] for side in pair))
    for before, after in zip(scopes(one), scopes(other), strict=True):
        assert (after.low, after.high, after.p) == pytest.approx(
            (before.low, before.high, before.p), rel=1e-6, abs=1e-9
        )


@given(labels(least=2))
def test_a_difference_of_labels_is_the_contrast_of_their_means_in_either_sign_of_a_group(pair):
    a, b = pair
    assert rspipe.difference(a, b) == rspipe.contrast(a.mean(0) - b.mean(0), [a, b])
    turned = contrast(a.mean(0) - b.mean(0), [a, -b])
    assert turned.procedures.low == pytest.approx(difference(a, b).procedures.low, abs=1e-12)


def test_on_all_images_of_a_test_set_the_rule_is_welchs_t_test_of_the_acrs():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 50)), rng.random((5, 50)) * 1.01
    one = difference(a, b, population=50).procedures
    v, w = a.mean(1).var(ddof=1) / 3, b.mean(1).var(ddof=1) / 5
    df = (v + w) ** 2 / (v**2 / 2 + w**2 / 4)
    half = t.ppf(0.975, df) * (v + w) ** 0.5
    expected = (df, a.mean() - b.mean() - half, 2 * t.sf(abs(a.mean() - b.mean()) / (v + w) ** 0.5, df))
    assert (one.df, one.low, one.p) == pytest.approx(expected)


def test_models_are_judged_by_the_paired_t_interval_over_images():
    a, b = rows(".5 .6 .0 .3 | .7 .8 .4 .3"), rows(".2 .2 .0 .4")
    result, values = difference(a, b), np.array([0.4, 0.5, 0.2, -0.1])
    half = t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert (result.models.low, result.models.high) == pytest.approx((values.mean() - half, values.mean() + half))
    assert result.models.p == pytest.approx(2 * t.sf(values.mean() / values.std(ddof=1) * 2, 3))


def test_credits_of_single_precision_are_computed_with_in_double():
    a, b = np.random.default_rng(2).random((2, 3, 2000), dtype=np.float32)
    assert difference(a, b) == difference(a.astype(np.float64), b.astype(np.float64))


def test_one_seed_on_a_side_says_nothing_of_procedures():
    a, b = np.random.default_rng(1).random((2, 2, 40))
    assert difference(a, b[:1]).procedures is None
    assert difference(a, b).procedures is not None
    assert contrast(a.mean(0), ()).procedures is None
    assert (difference(a, b[:1]).seeds, difference(a, b[:1]).images) == ((2, 1), 40)


def test_what_does_not_differ_is_undecided_and_one_image_decides_nothing():
    radius = np.array([[0.1, 1.0, 3.0], [0.1, 1.0, 3.0]])
    for one in scopes(difference(radius, radius)):
        assert (one.low, one.high, one.p, one.verdict) == (0.0, 0.0, 1.0, "undecided")
    for one in scopes(difference([[1.0], [0.9]], [[0.0], [0.1]])):
        assert (one.low, one.high, one.p, one.verdict) == (-np.inf, np.inf, 1.0, "undecided")
    only = difference([[1.0], [0.9]], [[0.0], [0.1]], population=1)
    assert (only.models.low, only.models.high) == pytest.approx((0.9, 0.9))


def test_a_constant_advantage_has_no_uncertainty_however_different_the_images():
    radius = np.array([[0.1, 1.0, 3.0, 2.0]] * 2)
    for one in scopes(difference(radius + 0.25, radius)):
        assert (one.low, one.high) == pytest.approx((0.25, 0.25), abs=1e-12)
        assert one.p < 1e-12


@pytest.mark.parametrize(
    ("first", "second", "population", "says"),
    [
        ([1.0], [1.0], None, r"credits must be \[seed, image\] on the same images"),
        ([[1.0]], [[1.0, 2.0]], None, r"credits must be \[seed, image\] on the same images"),
        ([[]], [[]], None, r"credits must be \[seed, image\] on the same images"),
        ([[1.0, np.nan]], [[1.0, 2.0]], None, "credits must be finite"),
        ([[1.0, 2.0]], [[1.0, 2.0]], 1, "population must be at least the number of images, 2, got 1"),
    ],
)
def test_credits_that_cannot_be_compared_are_refused(first, second, population, says):
    with pytest.raises(ValueError, match=says):
        difference(first, second, population=population)


@pytest.mark.parametrize(
    ("theta", "groups", "says"),
    [
        ([[1.0]], [], r"theta must be \[image\]"),
        ([], [], r"theta must be \[image\]"),
        ([1.0, 2.0], [[[1.0]]], r"groups must be \[seed, image\] on the 2 images"),
        ([1.0, 2.0], [[1.0, 2.0]], r"groups must be \[seed, image\] on the 2 images"),
    ],
)
def test_groups_that_do_not_fit_a_contrast_are_refused(theta, groups, says):
    with pytest.raises(ValueError, match=says):
        contrast(theta, groups)


def test_the_smallest_detectable_difference_is_the_one_of_the_table():
    # Seed sd, sd of the paired differences, images; for 2 (without the factor), 3, 5 and 10 seeds a side.
    table = {
        (0.0008, 0.12, 500): (0.016, 0.0152, 0.0151, 0.0151),
        (0.0008, 0.12, 10_000): (0.0054, 0.0041, 0.0037, 0.0035),
        (0.0019, 0.18, 2_000): (0.0151, 0.0126, 0.0119, 0.0116),
        (0.005, 0.18, 10_000): (0.026, 0.0156, 0.0112, 0.0083),
        (0.003, 0.065, 200): (0.020, 0.0157, 0.0142, 0.0135),
    }
    for (seed_sd, sd, images), expected in table.items():
        for seeds, value in zip((2, 3, 5, 10), expected, strict=True):
            # Groups of exactly this variance over seeds and none of seed x image; images of exactly this one.
            seed = np.linspace(-1, 1, seeds)[:, None] * np.ones(images)
            group = seed * seed_sd / seed[:, 0].std(ddof=1)
            theta = np.resize([1.0, -1.0], images)
            one = contrast(theta * sd / theta.std(ddof=1), [group, group]).procedures
            factor = 1 if seeds > 2 else 2 if seed_sd**2 > sd**2 / images else 1.5
            # One in the last digit shown.
            assert one.detectable / factor == pytest.approx(value, abs=10.0 ** -(len(str(value)) - 2))


def crossed(rng, *, seeds, images, seed_sd, both_sd, image_sd):
    """Return credits [seed, image] of a label whose mean is 0 in the crossed model."""
    own = rng.normal(size=images) * image_sd
    return own + rng.normal(size=(seeds, 1)) * seed_sd + rng.normal(size=(seeds, images)) * both_sd


@pytest.mark.parametrize(("seeds", "most"), [(2, 0.063), (3, 0.057), (5, 0.052)])
@pytest.mark.parametrize("population", [None, 300])
def test_procedures_that_are_alike_are_seldom_called_different_and_by_images_alone_often(seeds, most, population):
    rng, families = np.random.default_rng(seeds), 1000
    sizes = {"seeds": seeds, "images": 300, "seed_sd": 0.02, "both_sd": 0.1, "image_sd": 0.05}
    wrong = {"procedures": 0, "models": 0}
    for _ in range(families):
        # On a finite test set its images are what they are: the labels are alike in each of them.
        apart = sizes if population is None else {**sizes, "image_sd": 0.0}
        result = difference(crossed(rng, **apart), crossed(rng, **apart), population=population)
        wrong["procedures"] += result.procedures.verdict != "undecided"
        wrong["models"] += result.models.verdict != "undecided"
    # `most` is the worst level of the rule over all shares of variance; three standard errors of the simulation on top.
    assert wrong["procedures"] / families <= most + 3 * (most * (1 - most) / families) ** 0.5
    # By images alone: seeds make the variance 1 + .02^2 / (.1^2 / 300 + .05^2 * seeds / 300) times what is believed.
    assert wrong["models"] / families > 0.05 + 5 * (0.05 * 0.95 / families) ** 0.5


@pytest.fixture(scope="module")
def recipes(shared_data: Path) -> list[np.ndarray]:
    """[seed, image] credits of the published recipes on MNIST that were trained five times, on 10,000 images."""
    logs = pd.read_csv(shared_data / "published-logs.csv")
    logs = logs[(logs.data_set == "mnist") & (logs.sigma == logs.train_sigma) & (logs["rows"] == 10_000)]
    logs = logs[logs.groupby("recipe").id.transform("size") >= 5].groupby("recipe").head(5)
    wanted = [("log", "in", logs.id.tolist())]
    radii = pd.read_parquet(
        shared_data / "published-logs.parquet", filters=wanted, columns=["log", "radius", "correct"]
    )
    credit = {log: np.where(one.correct, one.radius, 0.0) for log, one in radii.groupby("log")}
    return [np.stack([credit[log] for log in alike]) for _, alike in logs.groupby("recipe").id]


@pytest.mark.parametrize(
    ("step", "a_seed_each", "two_each"), [(1, 0.49, 0.0), (5, 0.26, 0.017), (20, 0.11, 0.008), (100, 0.05, 0.007)]
)
def test_on_published_logs_the_same_recipe_is_seldom_called_different_from_itself(recipes, step, a_seed_each, two_each):
    def level(verdicts: list[list[str]]) -> tuple[float, float]:
        """Return the share called different, with its standard error; recipes are independent, their splits are not."""
        shares = np.array([np.mean([verdict != "undecided" for verdict in of_recipe]) for of_recipe in verdicts])
        return float(shares.mean()), float(shares.std(ddof=1) / len(shares) ** 0.5)

    assert len(recipes) > 20
    models, procedures = [], []
    for credits_ in recipes:
        part, population = credits_[:, ::step], 10_000 // step if step == 1 else None
        pairs = [*combinations(range(5), 2)]
        apart = [(a, b) for a in pairs for b in pairs if a < b and not {*a} & {*b}]
        models.append([difference(part[[a]], part[[b]]).models.verdict for a, b in pairs])
        procedures.append(
            [difference(part[[*a]], part[[*b]], population=population).procedures.verdict for a, b in apart]
        )
    share, error = level(models)
    assert share == pytest.approx(a_seed_each, abs=3 * error)
    share, error = level(procedures)
    # A share of 0 has no error of its own: three in the number of recipes is its upper bound.
    assert share == pytest.approx(two_each, abs=max(3 * error, 3 / len(recipes)))
    assert share < 0.05


def test_a_seed_sd_beyond_the_tolerated_one_takes_the_verdict_back():
    rng = np.random.default_rng(2)
    a, b = rng.normal(1.0, 0.1, (1, 400)), rng.normal(0.9, 0.1, (1, 400))
    one = difference(a, b)
    sd = tolerated_seed_sd(one)
    assert sd == pytest.approx((((a - b).mean() / 1.959964) ** 2 / 2 - (a - b).var(ddof=1) / 400 / 2) ** 0.5)
    assert 1.959964 * (2 * sd**2 + one.models.image_variance) ** 0.5 == pytest.approx(one.estimate)
    assert tolerated_seed_sd(difference(a, a)) is None


def test_the_scatter_of_other_labels_decides_more_and_knows_where_there_are_too_few():
    rng = np.random.default_rng(3)
    sizes = {"seeds": 2, "images": 200, "seed_sd": 0.003, "both_sd": 0.02, "image_sd": 0.01}
    every = [crossed(rng, **sizes) for _ in range(5)]
    first, second = every[0] + 0.03, every[1]
    one = borrowed(first, second, [first, *every[1:]])
    assert one.verdict == "would hold if seeds scatter as in the other labels"
    assert one.df == 5
    variance = max(
        np.mean([row.mean(1).var(ddof=1) for row in every]), np.mean([r.mean(1).var(ddof=1) for r in every[:2]])
    )
    assert one.seed_variance == pytest.approx(variance)
    assert borrowed(first, second, every[:3]) is None
    assert borrowed(first, second[:1], every) is None


def test_shares_have_the_interval_of_agresti_and_min_for_these_models():
    first, second = np.zeros((2, 1, 50), dtype=bool)
    first[0, :9], second[0, 6:10] = True, True
    one = difference(first, second).models
    b, c, n = 6.5, 1.5, 52
    centre, se = (b - c) / n, (b + c - (b - c) ** 2 / n) ** 0.5 / n
    assert (one.low, one.high) == pytest.approx((centre - 1.959964 * se, centre + 1.959964 * se))
    assert one.p == pytest.approx(2 * norm.sf(centre / se))
    assert one.estimate == pytest.approx(5 / 50)
    equal = difference(first, first)
    assert equal.models.low < 0 < equal.models.high
    assert difference(first, second, population=50).models.low == pytest.approx(0.1)


def test_holms_correction_is_the_one_of_the_textbook():
    # Four classifiers of a common error; p-values of z = 4, 2.6, 2.2, ... against .05 / 6, .05 / 5, ...
    acr = np.array([0.0, 2.2, 4.8, 4.0])
    first, second = np.triu_indices(4, 1)
    p = 2 * norm.sf(np.abs(acr[first] - acr[second]))
    expected = np.zeros(6, dtype=bool)
    for rank, at in enumerate(np.argsort(p)):
        if p[at] > 0.05 / (len(p) - rank):
            break
        expected[at] = True
    assert 0 < expected.sum() < 6
    assert np.array_equal(holm(p), expected)


def test_equal_classifiers_are_not_significantly_different_and_constant_differences_are():
    same, other = np.full((1, 3), 0.5), np.full((1, 3), 0.25)
    rejected = holm([difference(*pair).models.p for pair in ((same, same), (same, other), (other, same))])
    assert rejected.tolist() == [False, True, True]


def test_of_equally_good_classifiers_the_correction_calls_few_different():
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        credit = rng.normal(size=(8, 1, 100))
        wrong += bool(holm([difference(a, b).models.p for a, b in combinations(credit, 2)]).any())
    # At most 5 % of 200 families; six standard deviations of that binomial on top.
    assert wrong <= 10 + 6 * (200 * 0.05 * 0.95) ** 0.5


def test_a_verdict_on_shares_of_procedures_agrees_with_its_p_value_and_with_that_of_the_models() -> None:
    """Agresti and Min's interval is not centred on the difference, and no narrower one is about more."""
    rng, sure = np.random.default_rng(0), 0
    for _ in range(2000):
        a, b = rng.random((2, 2, 32)) < rng.uniform(0.05, 0.6, (2, 1, 1))
        judged = difference(a, b)
        assert judged.procedures is not None
        assert (judged.procedures.verdict != "undecided") == (judged.procedures.p < 0.05)
        assert judged.procedures.verdict == "undecided" or judged.models.verdict != "undecided"
        sure += judged.procedures.verdict != "undecided"
    assert 20 < sure < 1980


def test_a_contrast_of_shares_has_a_width_even_where_all_images_agree() -> None:
    theta = np.zeros(30)
    assert contrast(theta, ()).models.high == 0
    assert contrast(theta, (), shares=True).models.high == pytest.approx(1.96 / 32, rel=0.02)
