"""Facts about comparing runs: paired on the same images, on the same terms, or not at all."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rspipe.audit.log import certification_log
from rspipe.data.spec import MNISTData
from rspipe.errors import LogError, MismatchError
from rspipe.report.logged import log_caveat, read_logged
from rspipe.report.runs import (
    CertifiedRun,
    agreed_terms,
    common_samples,
    compare_runs,
    comparison_table,
    costs_of_terms,
)
from rspipe.smoothing.certificates import certify_counts
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import certified_by, derive, early_samples
from rspipe.smoothing.inference import difference
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule
from rspipe.spec import ImageRange
from rspipe.stages.report import read_run_or_log
from tests import results_builder as built
from tests.log_builder import rows, text

N0, N, ALPHA, SIGMA, MARK = 100, 2000, 0.001, 0.5, 500
EXAMPLES = np.arange(0, 120, 2)
DATA = built.study().data


def counts(skill, *, seed, examples=EXAMPLES, n=N, sigma=SIGMA, **changes):
    """Return two-class counts of a classifier: the label's share is near `skill`, the first MARK samples are noted."""
    rng = np.random.default_rng(seed)
    label = examples // 2 % 2
    share = rng.beta(8 * skill, 8 * (1 - skill), len(examples))
    first, rest = rng.binomial(MARK, share), rng.binomial(n - MARK, share)

    def by_class(right, total):
        other = total - right
        return np.where(label[:, None] == np.arange(2), right[:, None], other[:, None])

    content = {
        "classifier": np.full(len(examples), f"model-{seed}"),
        "kind": np.full(len(examples), "model"),
        "sigma": sigma,
        "rule": FixedRule(),
        "n0": N0,
        "n": n,
        "alpha": ALPHA,
        "seed": 0,
        "example": examples,
        "label": label,
        "selection": by_class(rng.binomial(N0, share), np.full(len(examples), N0)),
        "pilot": np.zeros((len(examples), 2), dtype=int),
        "estimation": by_class(first + rest, np.full(len(examples), n)),
        "stop": np.full(len(examples), "", dtype="<U8"),
        "marks": np.array([MARK, n]),
        "prefix": np.stack([by_class(first, np.full(len(examples), MARK)),
                            by_class(first + rest, np.full(len(examples), n))], axis=1),
        "probability_sum": np.zeros((len(examples), 2)),
        "probability_square": np.zeros((len(examples), 2)),
        "batch_size": np.full(len(examples), 100),
        "seconds": np.ones(len(examples)),
        "noise": np.full(len(examples), "float"),
    }  # fmt: skip
    return CountTable(**{**content, **changes})


def run(name, **labels):
    """Return a run of labels, each with a list of counts, one per seed."""
    return CertifiedRun(name, DATA, {(label, seeds[0].sigma): tuple(seeds) for label, seeds in labels.items()})


def credit(one, *, alpha=ALPHA):
    compared = certify_counts(one.selection, one.estimation, sigma=one.sigma, alpha=alpha)
    return np.where(compared.prediction == one.label, compared.radius, 0.0)


A, B = counts(0.8, seed=1), counts(0.9, seed=2)


def test_a_difference_is_that_of_credited_radii_image_by_image():
    first, second = run("one", m=[A]), run("two", m=[B])
    (compared,) = compare_runs([first, second], agreed_terms([first, second]))
    assert compared.difference.models == difference([credit(B)], [credit(A)]).models
    assert (compared.first_label, compared.second_label) == ("two: m", "one: m")
    assert (compared.first_acr, compared.second_acr) == pytest.approx((credit(B).mean(), credit(A).mean()))
    assert compared.difference.models.verdict == "holds for these models"
    assert compared.images == len(EXAMPLES)


def test_seeds_are_averaged_image_by_image():
    other = counts(0.85, seed=3)
    first, second = run("one", m=[A]), run("two", m=[B, other])
    (compared,) = compare_runs([first, second], agreed_terms([first, second]))
    assert compared.first_acr == pytest.approx((credit(B).mean() + credit(other).mean()) / 2)
    assert compared.first_label == "two: m (mean of 2)"


def test_a_run_does_not_differ_from_itself():
    (compared,) = compare_runs([run("one", m=[A]), run("again", m=[A])], agreed_terms([run("one", m=[A])]))
    assert (compared.difference.models.low, compared.difference.models.high) == (0.0, 0.0)
    assert compared.difference.models.verdict == "undecided"


def test_seeds_judge_procedures_and_the_same_models_are_paired():
    a, b = [counts(0.8, seed=seed) for seed in (1, 2, 3)], [counts(0.9, seed=seed) for seed in (4, 5, 6)]
    first, second = run("one", m=a), run("two", m=b)
    (compared,) = compare_runs([first, second], agreed_terms([first, second]))
    assert compared.difference == difference([credit(one) for one in b], [credit(one) for one in a])
    assert compared.difference.procedures is not None
    words = dict(zip(comparison_table([compared]).columns, comparison_table([compared]).rows[0], strict=True))
    assert words["seeds"].text == "3 and 3"
    (same,) = compare_runs([first, run("again", m=a)], agreed_terms([first]))
    assert same.difference.seeds == (3,)
    assert same.difference.procedures.high == 0.0


def test_the_first_images_are_judged_alone():
    runs = [replace(run(name, m=[one]), images=ImageRange(first=60)) for name, one in (("one", A), ("two", B))]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert (compared.difference.population, compared.difference.models.low) == (60, compared.difference.estimate)
    (sampled,) = compare_runs([run("one", m=[A]), runs[1]], agreed_terms(runs))
    assert sampled.difference.population is None


@pytest.mark.parametrize(
    ("images", "alone"), [(None, False), (60, False), (ImageRange(skip=20), False), (ImageRange(first=60), True)]
)
def test_images_spread_over_the_test_set_are_a_sample_of_it_once_they_are_whole(images, alone):
    mnist = MNISTData(name="mnist", folder="nowhere")
    runs = [replace(run(name, m=[one]), data=mnist, images=images) for name, one in (("one", A), ("two", B))]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert compared.difference.population == (60 if alone else None)
    # Cut off after these 60, they are the first.
    begun = [replace(one, images_to_certify=10_000) for one in runs]
    (compared,) = compare_runs(begun, agreed_terms(begun))
    assert compared.difference.population == 60


def test_three_runs_are_each_compared_with_the_first_name_by_name():
    runs = [run("one", a=[A], b=[B]), run("two", a=[B], b=[A]), run("three", b=[B], c=[A])]
    compared = compare_runs(runs, agreed_terms(runs))
    assert [(one.first_label, one.second_label) for one in compared] == [
        ("two: a", "one: a"), ("two: b", "one: b"), ("three: b", "one: b")
    ]  # fmt: skip
    table = comparison_table(compared)
    assert len(table.rows) == 3
    assert [row[1].text for row in table.rows] == [one.first_label for one in compared]


def test_without_a_common_name_every_classifier_is_compared_with_every_one():
    runs = [run("one", a=[A], b=[B]), run("two", c=[A])]
    assert len(compare_runs(runs, agreed_terms(runs))) == 2


def test_one_classifier_can_be_compared_with_all_others_of_all_runs():
    runs = [run("one", a=[A], b=[B]), run("two", a=[B])]
    compared = compare_runs(runs, agreed_terms(runs), against="a")
    assert [(one.first_label, one.second_label) for one in compared] == [("one: b", "one: a"), ("two: a", "one: a")]
    with pytest.raises(MismatchError, match=r"one has no classifier 'c'; valid names: a, b"):
        compare_runs(runs, agreed_terms(runs), against="c")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(B, alpha=0.01), "alpha is 0.001 and 0.01"),
        (counts(0.9, seed=2, n=4000), "n is 2,000 and 4,000"),
        (replace(B, n0=50), "n0 is 100 and 50"),
    ],
)
def test_other_terms_are_refused_with_what_differs_and_the_remedy(other, told):
    with pytest.raises(MismatchError, match=f"{told}; --rederive derives"):
        agreed_terms([run("one", m=[A]), run("two", m=[other])])


def test_other_test_images_are_refused_whatever_is_asked():
    second = replace(run("two", m=[B]), data=DATA.model_copy(update={"name": "mnist"}))
    with pytest.raises(MismatchError, match="of different test images"):
        agreed_terms([run("one", m=[A]), second], rederive=True)


def test_other_images_are_refused_unless_the_common_ones_are_asked_for():
    few = counts(0.9, seed=2, examples=EXAMPLES[10:])
    runs = [run("one", m=[A]), run("two", m=[few])]
    terms = agreed_terms(runs)
    with pytest.raises(MismatchError, match=r"certified on different images \(50 and 60, 50 in common\); --rederive"):
        compare_runs(runs, terms)
    (compared,) = compare_runs(runs, terms, common_images=True)
    assert compared.images == 50
    assert compared.second_acr == pytest.approx(credit(A)[10:].mean())
    apart = [run("one", m=[A]), run("two", m=[counts(0.9, seed=2, examples=EXAMPLES + 1)])]
    with pytest.raises(MismatchError, match="no images in common"):
        compare_runs(apart, terms, common_images=True)


def test_images_that_are_numbered_otherwise_are_noticed_by_their_labels():
    runs = [run("one", m=[A]), run("two", m=[replace(B, label=1 - B.label)])]
    with pytest.raises(MismatchError, match="labels differ"):
        compare_runs(runs, agreed_terms(runs))
    # Of a second seed, too, on either side.
    for first, second in (([A, replace(B, label=1 - B.label)], [B]), ([A], [B, replace(A, label=1 - A.label)])):
        runs = [run("one", m=first), run("two", m=second)]
        with pytest.raises(MismatchError, match="labels differ"):
            compare_runs(runs, agreed_terms(runs))


def test_another_alpha_is_derived_from_the_counts_for_all():
    other = replace(B, alpha=0.01)
    runs = [run("one", m=[A]), run("two", m=[other])]
    terms = agreed_terms(runs, rederive=True)
    assert (terms.alpha, terms.n, terms.by_rule) == (0.001, N, True)
    (compared,) = compare_runs(runs, terms, common_images=True)
    assert compared.first_acr == pytest.approx(credit(B, alpha=0.001).mean())
    (looser,) = compare_runs(runs, agreed_terms(runs, rederive=True, alpha=0.05), common_images=True)
    assert looser.second_acr == pytest.approx(credit(A, alpha=0.05).mean())


def test_fewer_samples_are_the_first_ones_that_were_drawn():
    runs = [run("one", m=[A]), run("two", m=[counts(0.9, seed=4, n=4000)])]
    terms = agreed_terms(runs, rederive=True, n=MARK)
    assert (terms.n, terms.by_rule) == (MARK, False)
    (compared,) = compare_runs(runs, terms, common_images=True)
    early = certify_counts(A.selection, A.prefix[:, 0], sigma=SIGMA, alpha=ALPHA)
    assert compared.second_acr == pytest.approx(np.where(early.prediction == A.label, early.radius, 0.0).mean())
    assert agreed_terms(runs, rederive=True).n == N


def planned(one, *, sizes, given_up=()):
    """Return the same counts as a plan leaves them: the first samples of each image, none of those given up."""
    stop = np.where(sizes < one.n, "planned", "").astype("<U8")
    estimation = early_samples(one, sizes)
    for row, reason in given_up:
        stop[row], estimation[row] = reason, 0
    prefix = np.where((estimation.sum(1)[:, None] >= one.marks)[..., None], one.prefix, -1)
    return replace(one, rule=PlannedRule(name="planned"), estimation=estimation, stop=stop, prefix=prefix)


def test_a_plan_is_compared_with_the_samples_that_it_has_of_each_image():
    """The same model by another rule: no image differs, though each has samples of its own."""
    sizes = np.where(np.arange(60) % 3 == 0, MARK, N)
    wrong = np.flatnonzero(A.selection.argmax(1) != A.label)[0]
    plan = planned(A, sizes=sizes, given_up=[(wrong, "label")])
    runs = [run("one", m=[A]), run("two", m=[plan])]
    terms = agreed_terms(runs, rederive=True)
    assert (terms.n, terms.by_rule) == (N, False)
    (compared,) = compare_runs(runs, terms, common_images=True)
    assert (compared.difference.models.low, compared.difference.models.high) == (0.0, 0.0)
    mixed = certify_counts(A.selection, early_samples(A, sizes), sigma=SIGMA, alpha=ALPHA)
    assert compared.second_acr == pytest.approx(np.where(mixed.prediction == A.label, mixed.radius, 0.0).mean())
    both = common_samples([A, plan], terms)
    assert [both[example] for example in EXAMPLES.tolist()] == np.where(np.arange(60) == wrong, N, sizes).tolist()


def test_an_image_that_is_futile_counts_0_and_costs_the_other_side_nothing():
    plan = planned(A, sizes=np.full(60, N), given_up=[(0, "futility"), (7, "label")])
    runs = [run("one", m=[A]), run("two", m=[plan])]
    (compared,) = compare_runs(runs, agreed_terms(runs, rederive=True), common_images=True)
    assert compared.second_acr == pytest.approx(credit(A).mean())
    assert compared.first_acr == pytest.approx(np.delete(credit(A), [0, 7]).sum() / 60)


def test_looks_that_end_by_what_they_see_leave_the_first_look_alone():
    """Samples that end as soon as they look good would flatter: MARK of them is what the rule always has."""
    grid = replace(A, rule=RadiusGridRule(name="radius_grid"))
    runs = [run("one", m=[B]), run("two", m=[grid])]
    terms = agreed_terms(runs, rederive=True)
    assert set(common_samples([B, grid], terms).values()) == {MARK}
    (compared,) = compare_runs(runs, terms, common_images=True)
    first = certify_counts(B.selection, B.prefix[:, 0], sigma=SIGMA, alpha=ALPHA)
    assert compared.second_acr == pytest.approx(np.where(first.prediction == B.label, first.radius, 0.0).mean())


def test_what_common_terms_cost_is_shown_for_both_sides():
    sizes = np.where(np.arange(60) < 30, MARK, N)
    runs = [run("one", m=[A]), run("two", m=[planned(B, sizes=sizes)])]
    terms = agreed_terms(runs, rederive=True)
    table = costs_of_terms(runs, terms)
    (compared,) = compare_runs(runs, terms, common_images=True)
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["classifier"].text for row in cells] == ["two: m", "one: m"]
    assert [row["own samples"].value for row in cells] == [sizes.mean(), N]
    assert [row["samples here"].value for row in cells] == [sizes.mean()] * 2
    assert [row["ACR here"].value for row in cells] == [compared.first_acr, compared.second_acr]
    assert cells[0]["own ACR"].value == compared.first_acr
    assert cells[1]["own ACR"].value == pytest.approx(credit(A).mean())
    assert compared.second_acr < credit(A).mean()


def test_what_another_alpha_costs_is_shown_beside_each_runs_own():
    runs = [
        run("one", m=[A]),
        run("two", m=[planned(replace(B, alpha=0.01), sizes=np.full(60, N), given_up=[(0, "label")])]),
    ]
    terms = agreed_terms(runs, rederive=True, alpha=1e-5)
    table = costs_of_terms(runs, terms)
    second, first = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert first["own ACR"].value == pytest.approx(credit(A).mean())
    assert second["own ACR"].value == pytest.approx(np.delete(credit(B, alpha=0.01), 0).sum() / 60)
    assert second["ACR here"].value < second["own ACR"].value
    # What was given up was not drawn.
    assert second["own samples"].value == pytest.approx(N * 59 / 60)


def logged(tmp_path, one, *, name="sigma_0.50.tsv", written="{:.6f}", less=5e-7, keep=None):
    """Return a log of a classifier as a run: of radii a little smaller, so that six decimals are rounded down."""
    compared = certify_counts(one.selection, one.estimation, sigma=one.sigma, alpha=one.alpha)
    rows = zip(one.example, one.label, compared.prediction, compared.radius, strict=True)
    lines = [
        f"{i}\t{label}\t{c}\t{written.format(r - less if r else r)}\t{int(c == label)}\t1" for i, label, c, r in rows
    ]
    path = tmp_path / name
    path.write_text("\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *lines[:keep], ""]))
    return read_run_or_log(str(path))


MANY = np.arange(0, 600, 2)
C, D = counts(0.8, seed=5, examples=MANY), counts(0.9, seed=6, examples=MANY)
# Of radii that are rounded to six decimals.
ROUNDED = 1e-6


def rounded_down(radius):
    return np.floor(radius / ROUNDED) * ROUNDED


def test_a_log_is_compared_with_a_run_image_by_image(tmp_path):
    runs = [run("one", m=[C], other=[D]), logged(tmp_path, D)]
    compared = compare_runs(runs, agreed_terms(runs))
    assert [one.first_label for one in compared] == ["sigma_0.50.tsv: log"] * 2
    against_c, against_d = compared
    assert against_c.first_acr == pytest.approx(credit(D).mean(), abs=ROUNDED)
    assert against_c.second_acr == pytest.approx(rounded_down(credit(C)).mean(), abs=1e-12)
    assert against_c.difference.models.estimate == pytest.approx(credit(D).mean() - credit(C).mean(), abs=ROUNDED)
    assert abs(against_d.difference.models.estimate) <= ROUNDED
    assert against_c.images == 300


def test_two_logs_are_compared_with_each_other(tmp_path):
    runs = [logged(tmp_path, C), logged(tmp_path, D, name="noise_0.50.log")]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert (compared.first_label, compared.second_label) == ("noise_0.50.log: log", "sigma_0.50.tsv: log")
    assert compared.difference.models.estimate == pytest.approx(credit(D).mean() - credit(C).mean(), abs=ROUNDED)


def test_a_log_on_other_terms_is_refused_and_derived_again_from_the_counts_that_it_implies(tmp_path):
    loose = replace(D, alpha=0.01)
    runs = [run("one", m=[C]), logged(tmp_path, loose)]
    with pytest.raises(MismatchError, match=r"alpha is 0\.001 and 0\.01; --rederive derives"):
        agreed_terms(runs)
    (compared,) = compare_runs(runs, agreed_terms(runs, rederive=True), common_images=True)
    # The same counts at the other alpha: a rung of the ladder is further from the next one than six decimals.
    abstained = certify_counts(D.selection, D.estimation, sigma=SIGMA, alpha=0.01).prediction == -1
    assert compared.first_acr == pytest.approx(np.where(abstained, 0, credit(D)).mean(), abs=1e-12)
    (fewer,) = compare_runs(runs, agreed_terms(runs, rederive=True, n=MARK), common_images=True)
    assert 0 < fewer.first_acr < compared.first_acr


def test_a_log_of_some_images_is_compared_on_those_when_asked(tmp_path):
    runs = [run("one", m=[C]), logged(tmp_path, D, keep=200)]
    with pytest.raises(MismatchError, match=r"different images \(200 and 300, 200 in common\)"):
        compare_runs(runs, agreed_terms(runs))
    (compared,) = compare_runs(runs, agreed_terms(runs, rederive=True), common_images=True)
    assert compared.images == 200
    assert compared.second_acr == pytest.approx(rounded_down(credit(C)[:200]).mean(), abs=1e-12)


def test_a_log_of_other_images_is_noticed_by_its_labels(tmp_path):
    runs = [run("one", m=[C]), logged(tmp_path, replace(D, label=1 - D.label))]
    with pytest.raises(MismatchError, match="labels differ"):
        compare_runs(runs, agreed_terms(runs))


def test_a_log_that_does_not_tell_its_terms_is_taken_as_it_is(tmp_path):
    """Radii of two digits tell neither n nor alpha, and nothing can be derived from them."""
    runs = [run("one", m=[C]), logged(tmp_path, D, written="{:.1f}")]
    (log,) = runs[1].all_certified
    assert (log.n, log.alpha) == (None, None)
    assert "do not tell n and alpha" in log_caveat(log)
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert compared.first_acr == pytest.approx(credit(D).mean(), abs=0.05)
    with pytest.raises(MismatchError, match="nothing can be derived from it"):
        agreed_terms(runs, rederive=True)


PLANNED, LOOSE = PlannedRule(), PlannedRule(eps=0.05)
GRID, HALVES = RadiusGridRule(), RadiusGridRule(grid=(0.5, 1.0))


def ruled(tmp_path, rule, *, kind="certify"):
    """Return the log of certificates of D as a run, as rspipe writes it."""
    counts = replace(D, rule=rule)
    certified = certified_by(counts, derive(D, kind=kind))
    path = tmp_path / "gaussian-s0.5-seed0.tsv"
    path.write_text(certification_log(replace(certified, n=1000 + certified.example), rule, kind=kind))
    return read_run_or_log(str(path))


@pytest.mark.parametrize("rule", [PLANNED, LOOSE, GRID, HALVES])
def test_a_log_is_compared_under_the_rule_that_it_names(tmp_path, rule):
    log = ruled(tmp_path, rule)
    for other in (FixedRule(), PLANNED, LOOSE, GRID, HALVES):
        runs = [run("one", m=[replace(C, rule=other)]), log]
        if other == rule:
            assert agreed_terms(runs).by_rule
            continue
        with pytest.raises(MismatchError, match=rf"rule is {other.name}.* and {rule.name} .*; --rederive derives"):
            agreed_terms(runs)


@pytest.mark.parametrize("rule", [FixedRule(), PLANNED])
def test_a_network_does_not_differ_from_its_own_log_by_what_the_digits_leave_out(tmp_path, rule):
    runs = [run("one", m=[replace(D, rule=rule)]), ruled(tmp_path, rule)]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert (compared.difference.models.low, compared.difference.models.high) == (0.0, 0.0)
    assert compared.first_acr == compared.second_acr == pytest.approx(credit(D).mean(), abs=ROUNDED)


@pytest.mark.parametrize(("written", "step"), [("{:.4f}", 1e-4), ("{:.3}", 1e-2)])
def test_nor_from_a_log_with_few_digits(tmp_path, written, step):
    runs = [run("one", m=[D]), logged(tmp_path, D, written=written, less=0)]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert (compared.difference.models.low, compared.difference.models.high) == (0.0, 0.0)
    assert compared.second_acr == pytest.approx(credit(D).mean(), abs=step)


def test_a_log_of_another_certificate_is_none_of_certify(tmp_path):
    with pytest.raises(MismatchError, match="rule is fixed and two_sided;"):
        agreed_terms([run("one", m=[D]), ruled(tmp_path, FixedRule(), kind="two_sided")])


@pytest.mark.parametrize(("rule", "kind"), [(DecideRule(), "certify"), (FixedRule(), "predict")])
def test_a_log_without_an_acr_is_compared_with_nothing(tmp_path, rule, kind):
    with pytest.raises(LogError, match=r"seed0\.tsv: certificates by (decide .*|predict) have no ACR to compare"):
        ruled(tmp_path, rule, kind=kind)


@pytest.mark.parametrize(
    ("examples", "choice"),
    [
        (range(10_000), ImageRange()),
        (range(0, 10_000, 20), ImageRange(skip=20)),
        (range(0, 50_000, 100), ImageRange(skip=100)),
        (range(500), ImageRange(first=500)),
        (range(0, 8540, 20), ImageRange(skip=20, first=427)),
        (range(500, 1000), ImageRange(start=500, first=500)),
        ([3], ImageRange(start=3, first=1)),
        ([0, 1, 5], (0, 1, 5)),
    ],
)
def test_the_images_of_a_log_are_told_from_their_numbers(tmp_path, examples, choice):
    (log,) = logged(tmp_path, counts(0.9, seed=6, examples=np.array(examples))).all_certified
    assert log.images == choice


def test_a_log_without_a_noise_level_or_radii_is_one_clear_line(tmp_path):
    with pytest.raises(LogError, match=r"x\.tsv: nothing says its noise level; name the file sigma_0\.25\.tsv"):
        logged(tmp_path, D, name="x.tsv", written="{:.0f}")
    (tmp_path / "predict.tsv").write_text("idx\tlabel\tpredict\tcorrect\n0\t1\t1\t1\n")
    with pytest.raises(LogError, match="has no radii, which a comparison of ACR needs"):
        read_run_or_log(str(tmp_path / "predict.tsv"))
    again = read_run_or_log(str(tmp_path / "x.tsv"), sigma=0.5)
    assert list(again.certified) == [("log", 0.5)]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"alpha": 0.01}, "say --rederive, too"),
        ({"n": 500}, "say --rederive, too"),
        ({"rederive": True, "n": 0}, r"n must lie in \[1, 2000\]"),
        ({"rederive": True, "n": N + 1}, r"n must lie in \[1, 2000\]"),
        ({"rederive": True, "alpha": 0.0}, "alpha"),
        ({"rederive": True, "alpha": 1.5}, "alpha"),
        ({"rederive": True, "alpha": float("nan")}, "alpha"),
        ({"rederive": True, "n": 3}, "n = 3"),
    ],
)
def test_nonsense_is_refused(asked, told):
    with pytest.raises(ValueError, match=told):
        agreed_terms([run("one", m=[A]), run("two", m=[B])], **asked)


def test_runs_without_a_common_noise_level_have_nothing_to_compare():
    runs = [run("one", m=[A]), run("two", m=[counts(0.9, seed=2, sigma=0.25)])]
    with pytest.raises(MismatchError, match="no noise level in common"):
        compare_runs(runs, agreed_terms(runs))


def test_a_log_whose_damage_names_a_huge_class_is_refused_in_a_line(tmp_path):
    """Seen with a mutated log: 369 PiB were asked for."""
    cells = rows(images=60)
    cells[5][1] = "999999999999999"
    (tmp_path / "sigma_0.25.tsv").write_bytes(text(cells))
    with pytest.raises(LogError, match=r"class 999,999,999,999,999 stands in a log of 60 images; too many counts"):
        read_logged(tmp_path / "sigma_0.25.tsv")


def test_some_classifiers_of_a_run_are_compared_when_asked(tmp_path):
    whole = run("one", smoothadv=[C], macer=[D])
    runs = [whole.only(["macer"]), logged(tmp_path, C)]
    (compared,) = compare_runs(runs, agreed_terms(runs))
    assert compared.second_label == "one: macer"
    with pytest.raises(MismatchError, match="one has no classifier 'smothadv'; did you mean 'smoothadv'"):
        whole.only(["macer", "smothadv"])


def table_of_logs(tmp_path, *many, levels=None):
    """Return a Parquet file of several logs, numbered from 7 on."""
    columns = {name: [] for name in ("log", "idx", "label", "predict", "radius")}
    for number, one in enumerate(many, 7):
        compared = certify_counts(one.selection, one.estimation, sigma=one.sigma, alpha=one.alpha)
        values = np.full(one.example.size, number), one.example, one.label, compared.prediction, compared.radius
        for name, column in zip(columns, values, strict=True):
            columns[name].extend(column.tolist())
    path = tmp_path / "logs_sigma_0.50.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_logs_of_a_range_are_trainings_of_one_recipe(tmp_path):
    path = table_of_logs(tmp_path, C, D)
    both, second = (read_run_or_log(f"{path}#{numbers}") for numbers in ("7-8", "8"))
    whole = run("one", m=[C, D])
    (compared,) = compare_runs([whole, both], agreed_terms([whole, both]))
    assert compared.first_label == "logs_sigma_0.50.parquet#7-8: log (mean of 2)"
    assert compared.first_acr == pytest.approx((credit(C).mean() + credit(D).mean()) / 2, abs=ROUNDED)
    assert compared.difference.procedures is not None
    (alone,) = compare_runs([whole, second], agreed_terms([whole, second]))
    assert alone.first_acr == pytest.approx(credit(D).mean(), abs=ROUNDED)


def test_logs_of_a_range_have_one_noise_level(tmp_path):
    quiet = counts(0.8, seed=5, examples=MANY, sigma=0.25)
    path = table_of_logs(tmp_path, D, quiet).rename(tmp_path / "logs.parquet")
    with pytest.raises(LogError, match=r"logs.parquet#7-8: logs of noise levels 0.25, 0.5; name one recipe's"):
        read_run_or_log(f"{path}#7-8")
