"""Facts about a pass over an image: each classifier's counts are its own, whatever the rule, the batch and the others.

The networks are affine maps of two numbers in float64, one product and one sum at a time: no sample's logits depend on
its batch. The expected counts come from `class_counts` of each classifier alone, and from replays of the rules by hand.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta, binom
from torch import Tensor, nn

from rspipe.errors import ModelError
from rspipe.networks.architectures import build_network
from rspipe.networks.deployment import deploy
from rspipe.networks.precision import Precision
from rspipe.smoothing import counting
from rspipe.smoothing.certificates import certified_radius
from rspipe.smoothing.certify import class_counts
from rspipe.smoothing.classifiers import BatchLimit, Classifier, Scores, classify
from rspipe.smoothing.counting import count_image
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.decisions import decision_looks
from rspipe.smoothing.derivation import CertificateKind, derive
from rspipe.smoothing.noise import Noise, Stream, noisy_batches
from rspipe.smoothing.rules import looks, planned_sizes, size_grid
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule, Rule
from rspipe.smoothing.spec import CertifySpec

PHI = NormalDist()
# The chance that a correct program fails a check made at this level with fresh seeds.
FALSE_ALARM = 1e-6
CLASSES = 3
X = torch.tensor([0.3, -0.2])
SIGMA = 0.5
N = 2500
RULES: dict[str, Rule] = {
    "fixed": FixedRule(),
    "planned": PlannedRule(name="planned", pilot=150, eps=0.04, label_stop=False),
    "radius_grid": RadiusGridRule(name="radius_grid", grid=(0.1, 0.25, 0.5, 0.75, 1.0), label_stop=False),
    "decide": DecideRule(name="decide", radii=(0.1, 0.25, 0.75), label_stop=False),
}
EVERY_RULE = pytest.mark.parametrize("rule", RULES)


class Affine(nn.Module):
    """Logits of CLASSES classes; keeps the batches that it sees."""

    def __init__(self, *rows: tuple[float, float, float]) -> None:
        super().__init__()
        self.rows = rows
        self.seen: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        self.seen.append(batch.clone())
        first, second = batch[:, 0].double(), batch[:, 1].double()
        return torch.stack([first * a + second * b + c for a, b, c in self.rows], dim=1)


def networks() -> list[Affine]:
    """One that is always sure of class 0, one that mostly is, one in doubt between all, one that leans to class 1."""
    return [
        Affine((0.1, 0.1, 9.0), (0.2, 0.0, 0.0), (0.0, 0.2, 0.0)),
        Affine((1.0, -1.0, 0.5), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),
        Affine((0.3, 1.0, 0.35), (-1.0, 0.2, 0.2), (0.5, -0.8, -0.2)),
        Affine((1.0, 0.0, 0.0), (-1.0, 0.5, 0.9), (0.0, -1.0, 0.0)),
    ]


def single(member: int) -> Classifier:
    return Classifier(f"model {member}", (member,), (1.0,))


CLASSIFIERS = [
    single(0),
    single(2),
    single(1),
    single(3),
    Classifier("logits", (1, 2, 3), (0.5, 0.25, 0.25), "logits"),
    Classifier("probabilities", (2, 3), (0.4, 0.6), "probabilities"),
    Classifier("mme", (2, 1, 3), (1 / 3, 1 / 3, 1 / 3), combination="mme"),
    Classifier("consensus", (2, 3, 1), (1 / 3, 1 / 3, 1 / 3), "probabilities", "consensus", 2),
]


def certify_spec(rule: Rule | str, **changes: Any) -> CertifySpec:
    content = {"n0": 50, "n": N, "alpha": 0.01, "seed": 5, "block_size": 1000, "batch_size": 100}
    return CertifySpec(rule=RULES[rule] if isinstance(rule, str) else rule, **{**content, **changes})


def count(
    spec: CertifySpec,
    classifiers: Sequence[Classifier] = CLASSIFIERS,
    *,
    members: Sequence[nn.Module] | None = None,
    label: int | None = None,
    x: Tensor = X,
    example: int = 7,
    **options: Any,
) -> CountTable:
    call: dict[str, Any] = {"label": label, "sigma": SIGMA, "spec": spec, "example": example, "classes": CLASSES}
    return count_image(members or networks(), classifiers, x, **call, **options)


def voting(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """The classifier as a base classifier: logits with a one at its class."""
    members = networks()

    def vote(batch: Tensor) -> Tensor:
        chosen = classify([classifier], {member: members[member](batch) for member in classifier.members})[0].classes
        return torch.nn.functional.one_hot(chosen, CLASSES).float()

    return vote


@cache
def counts_alone(classifier: Classifier, noise: Noise, stream: Stream, n: int) -> tuple[int, ...]:
    return tuple(class_counts(voting(classifier), X, noise, stream, sigma=SIGMA, n=n).tolist())


def alone(classifier: Classifier, spec: CertifySpec, stream: Stream, n: int) -> list[int]:
    """Counts of a classifier alone, by the sampler of the library's own CERTIFY."""
    return [*counts_alone(classifier, Noise(spec.seed, 7, spec.block_size, spec.batch_size), stream, n)]


COUNTED = (
    "selection",
    "pilot",
    "estimation",
    "stop",
    "marks",
    "prefix",
    "probability_sum",
    "probability_square",
    "batch_size",
)


def assert_same(first: CountTable, second: CountTable, *, apart_from: Sequence[str] = ()) -> None:
    """Bit for bit, in all that is counted."""
    for name in COUNTED:
        if name not in apart_from:
            assert np.array_equal(getattr(first, name), getattr(second, name)), name


def row(counts: CountTable, position: int) -> CountTable:
    """The counts of one classifier in a pass."""
    shared = ("sigma", "rule", "n0", "n", "alpha", "seed", "marks")
    names = [field.name for field in fields(counts) if field.name not in shared]
    return replace(counts, **{name: getattr(counts, name)[position : position + 1] for name in names})


# Fixed.


@pytest.mark.parametrize("n", [200, 1000, 1234, N])
@pytest.mark.parametrize("batch_size", [40, 1000, None])
def test_by_the_fixed_rule_every_classifier_is_counted_as_it_is_alone(n: int, batch_size: int | None) -> None:
    spec = certify_spec("fixed", n=n, batch_size=batch_size)
    counts = count(spec)
    for position, classifier in enumerate(CLASSIFIERS):
        assert counts.selection[position].tolist() == alone(classifier, spec, Stream.SELECTION, spec.n0)
        assert counts.estimation[position].tolist() == alone(classifier, spec, Stream.ESTIMATION, n)
    assert counts.estimation.sum(1).tolist() == [n] * len(CLASSIFIERS)
    assert not counts.pilot.any()
    assert set(counts.stop.tolist()) == {""}


def test_classes_that_never_occur_have_a_column() -> None:
    counts = count(certify_spec("fixed"), [single(0)])
    assert counts.estimation.tolist() == [[N, 0, 0]]


def test_the_label_does_not_matter_unless_the_rule_stops_by_it() -> None:
    assert_same(count(certify_spec("fixed"), label=1), count(certify_spec("fixed"), label=None))


# What every rule shares.


STOPPING: dict[str, Rule] = {name: replace(rule, label_stop=True) for name, rule in RULES.items()}


@pytest.mark.parametrize("rule", STOPPING)
def test_a_rule_may_stop_where_the_selection_misses_the_label(rule: str) -> None:
    spec = certify_spec(STOPPING[rule])
    stopped, free = count(spec, label=0), count(certify_spec(rule))
    wrong = free.selection.argmax(1) != 0
    assert 0 < wrong.sum() < len(CLASSIFIERS)
    assert np.array_equal(stopped.stop == "label", wrong)
    assert np.array_equal(stopped.selection, free.selection)
    for position in range(len(CLASSIFIERS)):
        if wrong[position]:
            assert not stopped.pilot[position].any()
            assert not stopped.estimation[position].any()
            assert (stopped.prefix[position] == -1).all()
            assert not stopped.probability_sum[position].any()
        else:
            assert_same(row(stopped, position), row(free, position))


@pytest.mark.parametrize("rule", STOPPING)
def test_without_a_label_nothing_stops_by_it(rule: str) -> None:
    assert_same(count(certify_spec(STOPPING[rule]), label=None), count(certify_spec(rule)))


@EVERY_RULE
def test_counts_are_noted_at_marks_as_if_there_were_no_more_samples(rule: str) -> None:
    spec = certify_spec(rule)
    counts = count(spec)
    marks = [200, 500, 1000, 2000, N]
    if spec.rule.name == "decide":
        marks = decision_looks(0.1, sigma=SIGMA, n=N, alpha=spec.alpha).t.tolist()
        assert marks[:3] == [100, 200, 300]
    else:
        assert marks == [look.n for look in looks(N, spec.alpha)]
    assert counts.marks.tolist() == marks
    drawn = counts.estimation.sum(1)
    for position, classifier in enumerate(CLASSIFIERS):
        for at, mark in enumerate(counts.marks.tolist()):
            expected = alone(classifier, spec, Stream.ESTIMATION, mark) if mark <= drawn[position] else [-1] * CLASSES
            assert counts.prefix[position, at].tolist() == expected


@EVERY_RULE
@pytest.mark.parametrize("batch_size", [100, 1000])
def test_everything_of_a_classifier_is_the_same_alone_and_among_others(rule: str, batch_size: int) -> None:
    """Bit for bit, sums of probabilities too, although the classifiers need very different numbers of samples."""
    spec = certify_spec(STOPPING[rule], batch_size=batch_size)
    for label in (0, None):
        together, backwards = count(spec, label=label), count(spec, CLASSIFIERS[::-1], label=label)
        if rule != "fixed":
            assert len(set(together.estimation.sum(1).tolist())) >= 3
        for position, classifier in enumerate(CLASSIFIERS):
            by_itself = count(spec, [classifier], label=label)
            # A pass without an estimate has no batch.
            free = ["batch_size"] if not by_itself.estimation.any() else []
            assert_same(by_itself, row(together, position), apart_from=free)
            assert_same(row(backwards, len(CLASSIFIERS) - 1 - position), row(together, position))


@EVERY_RULE
@pytest.mark.parametrize("label", [0, None])
def test_counts_do_not_depend_on_how_many_samples_run_at_once(rule: str, label: int | None) -> None:
    few, some, whole = (count(certify_spec(STOPPING[rule], batch_size=size), label=label) for size in (50, 100, 1000))
    assert [set(one.batch_size.tolist()) for one in (few, some, whole)] == [{50}, {100}, {1000}]
    rounded = ("batch_size", "probability_sum", "probability_square")
    for other in (few, some):
        assert_same(other, whole, apart_from=rounded)
        for name in rounded[1:]:
            # Sums of up to n numbers up to 1, in another order.
            np.testing.assert_allclose(getattr(other, name), getattr(whole, name), rtol=0, atol=N**2 * 2**-53)


@EVERY_RULE
@pytest.mark.parametrize("batch_size", [50, 1000])
def test_nothing_depends_on_how_many_batches_are_scored_in_one_piece(
    rule: str, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, tables, pieces = certify_spec(rule, batch_size=batch_size), [], []

    def noted(classifiers: Sequence[Classifier], logits: Mapping[int, Tensor]) -> list[Scores]:
        pieces[-1].append(len(next(iter(logits.values()))))
        return classify(classifiers, logits)

    monkeypatch.setattr(counting, "classify", noted)
    for scores in (0, 10_000, 10**9):
        monkeypatch.setattr(counting, "_SCORES", scores)
        pieces.append([])
        tables.append(count(spec))
    assert max(pieces[0]) == batch_size
    # Of 2,500 samples two whole batches of 1,000 are one piece where every classifier goes that far.
    assert (len(pieces[2]) < len(pieces[0])) == (batch_size == 50 or rule == "fixed")
    for other in tables[1:]:
        assert_same(other, tables[0])


@EVERY_RULE
def test_a_classifier_listed_twice_is_counted_twice(rule: str) -> None:
    counts = count(certify_spec(rule), [single(1), single(1)])
    assert_same(row(counts, 0), row(counts, 1))


@EVERY_RULE
def test_sums_are_of_the_probabilities_of_a_classifiers_own_samples(rule: str) -> None:
    spec = certify_spec(rule)
    counts, members = count(spec), networks()
    batches = noisy_batches(X, Noise(spec.seed, 7), Stream.ESTIMATION, sigma=SIGMA, n=N)
    noisy = torch.cat([batch[:use] for batch, use in batches])
    scores = classify(CLASSIFIERS, {position: member(noisy) for position, member in enumerate(members)})
    for position, drawn in enumerate(counts.estimation.sum(1).tolist()):
        used = scores[position].probabilities[:drawn].double().numpy()
        # Sums of up to n numbers up to 1, in another order.
        np.testing.assert_allclose(counts.probability_sum[position], used.sum(0), rtol=0, atol=N**2 * 2**-53)
        np.testing.assert_allclose(counts.probability_square[position], (used**2).sum(0), rtol=0, atol=N**2 * 2**-53)


@pytest.mark.parametrize("classes", [10, 33])
def test_sums_of_many_classes_on_many_threads_are_the_same_alone_and_among_others(classes: int) -> None:
    """Of so many numbers that torch shares the work out."""
    rng = np.random.default_rng(0)
    members = [Affine(*map(tuple, rng.normal(size=(classes, 3)).tolist())) for _ in range(7)]
    call: dict[str, Any] = {"label": None, "sigma": SIGMA, "spec": certify_spec("fixed", batch_size=1000)}
    call |= {"example": 7, "classes": classes}
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = count_image(members, [single(member) for member in range(7)], X, **call)
        for member in range(7):
            assert_same(count_image(members, [single(member)], X, **call), row(together, member))
    finally:
        torch.set_num_threads(before)


# Planned.


def test_a_plan_follows_from_the_pilot_and_its_counts_are_the_first_of_the_fixed_rules() -> None:
    spec = certify_spec("planned")
    rule = spec.rule
    assert rule.name == "planned"
    counts = count(spec)
    sizes = planned_sizes(n=N, alpha=spec.alpha, pilot=rule.pilot, eps=rule.eps, grid=size_grid(N, block=1000))
    planned = []
    for position, classifier in enumerate(CLASSIFIERS):
        selection = alone(classifier, spec, Stream.SELECTION, spec.n0)
        pilot = alone(classifier, spec, Stream.PILOT, rule.pilot - spec.n0)
        assert counts.selection[position].tolist() == selection
        assert counts.pilot[position].tolist() == pilot
        chosen = selection.index(max(selection))
        successes = selection[chosen] + pilot[chosen]
        # The upper bound on the class's probability; a class that cannot reach 1/2 is given up.
        upper = beta.isf(rule.futility, successes + 1, rule.pilot - successes) if successes < rule.pilot else 1.0
        n = 0 if upper < 0.5 else int(sizes[successes])
        planned.append(n)
        assert counts.estimation[position].tolist() == (alone(classifier, spec, Stream.ESTIMATION, n) if n else [0] * 3)
        assert counts.stop[position] == ("futility" if n == 0 else "planned" if n < N else "")
    assert set(counts.stop.tolist()) == {"futility", "planned", ""}
    assert len(set(planned)) >= 4


def test_a_plan_that_may_lose_nothing_is_the_fixed_rule_but_for_futility() -> None:
    planned = count(certify_spec(PlannedRule(name="planned", pilot=150, eps=0, label_stop=False)))
    fixed = count(certify_spec("fixed"))
    for position, why in enumerate(planned.stop.tolist()):
        if why != "futility":
            assert_same(row(planned, position), row(fixed, position), apart_from=["pilot"])
    assert set(planned.stop.tolist()) == {"", "futility"}


# Radius grid.


def replay(classifier: Classifier, spec: CertifySpec) -> tuple[int, float]:
    """Samples and certified radius (-1: abstained) by hand: looks at cumulative counts, in scalar arithmetic."""
    rule, schedule = spec.rule, looks(spec.n, spec.alpha)
    assert rule.name == "radius_grid"
    selection = alone(classifier, spec, Stream.SELECTION, spec.n0)
    chosen = selection.index(max(selection))

    def lower(k: int, n: int, alpha: float) -> float:
        return float(beta.ppf(alpha, k, n - k + 1)) if k else 0.0

    def answers(bound: float) -> list[bool]:
        """Of certified accuracies at 0 and at the radii of the grid."""
        return [bound >= 0.5, *(bound >= 0.5 and SIGMA * PHI.inv_cdf(bound) >= radius for radius in rule.grid)]

    best = 0.0
    for look in schedule:
        k = alone(classifier, spec, Stream.ESTIMATION, look.n)[chosen]
        best = max(best, lower(k, look.n, look.alpha))
        likely = float(beta.isf(rule.futility, k + 1, look.n - k)) if k < look.n else 1.0
        at_best = lower(min(math.ceil(spec.n * likely), k + spec.n - look.n), spec.n, schedule[-1].alpha)
        if look.n == spec.n or sum(answers(best)) >= sum(answers(at_best)):
            break
    proven = [radius for radius, yes in zip((0.0, *rule.grid), answers(best), strict=True) if yes]
    return look.n, max(proven, default=-1.0)


@pytest.mark.parametrize("alpha", [0.001, 0.01])
def test_by_the_radius_grid_looks_go_on_until_the_answer_is_clear(alpha: float) -> None:
    spec = certify_spec("radius_grid", alpha=alpha)
    counts = count(spec)
    ends = []
    for position, classifier in enumerate(CLASSIFIERS):
        n, radius = replay(classifier, spec)
        ends.append(n)
        assert counts.estimation[position].tolist() == alone(classifier, spec, Stream.ESTIMATION, n)
        assert counts.stop[position] == ("settled" if n < N else "")
        certificate = derive(classifier_counts([counts], position))
        assert (certificate.prediction[0] >= 0, certificate.radius[0]) == (radius >= 0, max(radius, 0.0))
    assert len(set(ends)) >= 3


def test_looks_may_fall_within_a_batch() -> None:
    coarse = count(certify_spec("radius_grid", batch_size=1000))
    assert {200, 500} & set(coarse.estimation.sum(1).tolist())


# What runs.


def ran(members: Sequence[Affine]) -> list[int]:
    """Samples that each network has run on."""
    return [sum(map(len, member.seen)) for member in members]


@EVERY_RULE
def test_all_networks_see_one_draw_of_noise_and_run_once_per_batch(rule: str) -> None:
    members, spec = networks(), certify_spec(rule)
    count(spec, members=members)
    longest = max(members, key=lambda member: len(member.seen))
    keys = [[batch.numpy().tobytes() for batch in member.seen] for member in members]
    for seen in keys:
        assert len(set(seen)) == len(seen)
        assert set(seen) <= {batch.numpy().tobytes() for batch in longest.seen}


@EVERY_RULE
def test_streams_share_no_sample(rule: str) -> None:
    members, spec = networks(), certify_spec(rule)
    count(spec, members=members)
    rows = torch.cat(max((member.seen for member in members), key=len))
    assert len({sample.numpy().tobytes() for sample in rows}) == len(rows)


@EVERY_RULE
def test_a_member_runs_while_one_of_its_classifiers_still_draws(rule: str) -> None:
    members, spec = networks(), certify_spec(STOPPING[rule])
    counts = count(spec, members=members, label=0)
    size = spec.batch_size or 0
    # The selection's only batch has n0 samples.
    pilot = size if rule == "planned" else 0
    for member, samples in enumerate(ran(members)):
        own = [at for at, classifier in enumerate(CLASSIFIERS) if member in classifier.members]
        going = any(counts.stop[at] != "label" for at in own)
        batches = -(-max(counts.estimation[at].sum() for at in own) // size)
        assert samples == spec.n0 + going * pilot + batches * size


def test_a_member_whose_classifiers_have_stopped_runs_no_more() -> None:
    members = networks()
    counts = count(certify_spec(STOPPING["fixed"]), [single(0), single(3)], members=members, label=0)
    assert counts.stop.tolist() == ["", "label"]
    assert ran(members) == [50 + N, 0, 0, 50]


def test_nothing_is_drawn_after_the_last_classifier_has_stopped() -> None:
    members = networks()
    counts = count(certify_spec(STOPPING["planned"]), [single(0), single(3)], members=members, label=2)
    assert counts.stop.tolist() == ["label", "label"]
    assert ran(members) == [50, 0, 0, 50]
    assert not counts.batch_size.any()


class Tight(Affine):
    """Runs out of memory beyond 30 samples."""

    def forward(self, batch: Tensor) -> Tensor:
        if len(batch) > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch)


@EVERY_RULE
def test_networks_that_run_out_of_memory_have_the_same_counts(rule: str) -> None:
    spec, limit = certify_spec(rule), BatchLimit()
    tight = [Tight(*member.rows) for member in networks()]
    counts = count(spec, members=tight, limit=limit)
    # Batches of 100 after a selection of 50.
    assert set(counts.batch_size.tolist()) == {limit.size} == {25}
    assert_same(counts, count(spec), apart_from=["batch_size"])


def test_networks_run_in_eval_mode_and_get_their_modes_back() -> None:
    members = [member.train() for member in networks()]
    count(certify_spec("fixed", n=200), members=members)
    assert all(member.training for member in members)


# Errors.


class Broken(nn.Module):
    def __init__(self, *, after: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.after, self.classes = after, classes
        self.calls = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        logits = torch.zeros(len(batch), self.classes)
        logits[-1, -1] = float("nan") if self.calls > self.after else 0.0
        return logits


@EVERY_RULE
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_network_that_returns_nan_is_named(rule: str, after: int) -> None:
    members = [*networks()[:2], Broken(after=after)]
    # It answers class 0 until then, like a member that is sure.
    with pytest.raises(ModelError, match=r"member 2 returned NaN or \+inf as a logit"):
        count(certify_spec(rule), [single(0), Classifier("e", (0, 2), (0.9, 0.1))], members=members)


@EVERY_RULE
@pytest.mark.parametrize("classes", [2, 4])
def test_a_network_that_knows_other_classes_than_the_data_is_named(rule: str, classes: int) -> None:
    members = [Broken(after=9, classes=classes)]
    with pytest.raises(ModelError, match=rf"member 0 knows {classes} classes but the data have 3; give it the data's"):
        count(certify_spec(rule), [single(0)], members=members)


# Coverage.


def classifier_counts(images: Sequence[CountTable], position: int, **changes: Any) -> CountTable:
    """Counts of a classifier on several images, all of class 0, as the store returns them."""

    def stacked(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(row(one, position), name) for one in images])

    content = {name: stacked(name) for name in COUNTED if name != "marks"}
    content |= {"example": np.arange(len(images)), "label": np.zeros(len(images), int)}
    content |= {name: stacked(name) for name in ("classifier", "kind", "seconds")}
    return replace(images[0], **{**content, **changes})


DISTANCES = np.linspace(0.0, 1.0, 300)
"""Of the images from the linear classifier's decision boundary, in pixel units: the true robust radii."""


@cache
def of_linear(rule: str) -> CountTable:
    """Counts of a linear classifier on 300 images, at an alpha so large that it is seen to be kept or not."""
    spec = certify_spec(rule, n=1000, n0=30, alpha=0.1, batch_size=None)
    weight = (0.6, -0.8)
    images = []
    for example, distance in enumerate(DISTANCES.tolist()):
        network = Affine((*weight, distance), (-weight[0], -weight[1], -distance), (0.0, 0.0, -99.0))
        images.append(count(spec, [single(0)], members=[network], x=torch.zeros(2), example=example))
    return classifier_counts(images, 0)


def false_claims(counts: CountTable, *, kind: CertificateKind = "certify") -> int:
    """How many certificates of class 0 exceed the true radius, or claim any radius for another class."""
    certificates = derive(counts, kind=kind)
    truth = np.where(certificates.prediction == 0, DISTANCES, 0.0)
    return int(((certificates.prediction >= 0) & (certificates.radius > truth)).sum())


# Of decisions there is one in test_decisions.py.
@pytest.mark.parametrize(
    ("rule", "kind"), [*((rule, "certify") for rule in RULES if rule != "decide"), ("fixed", "two_sided")]
)
def test_radii_exceed_the_true_ones_at_most_as_often_as_alpha_says(rule: str, kind: CertificateKind) -> None:
    """Each is false with probability at most alpha, independently: together no more often than a binomial number."""
    counts = of_linear(rule)
    assert false_claims(counts, kind=kind) <= binom.isf(FALSE_ALARM, len(DISTANCES), counts.alpha)


@pytest.mark.parametrize("rule", ["fixed", "planned"])
def test_all_of_alpha_is_spent(rule: str) -> None:
    """Counts are whole numbers, so the exact level lies a little below alpha: with .07 no false claim in 300 has
    probability 4e-10.
    """
    assert false_claims(of_linear(rule)) > 0


def test_radii_of_the_grid_are_certified_where_the_truth_lies_clearly_above_them() -> None:
    counts = of_linear("radius_grid")
    assert counts.rule.name == "radius_grid"
    # A share of 1000 samples may fall short by 6 standard errors, and its bound at 6 % of that by less than 2.
    p = np.array([PHI.cdf(distance / SIGMA) for distance in DISTANCES])
    surely = certified_radius(p - 8 * np.sqrt(p * (1 - p) / 1000), sigma=SIGMA)
    steps = np.array([0.0, *counts.rule.grid])
    reached = steps[np.searchsorted(steps, surely, side="right") - 1]
    assert {*reached} == {0.0, 0.1, 0.25, 0.5, 0.75}
    assert (derive(counts).radius >= reached).all()


def test_samples_of_the_linear_classifier_fall_on_its_class_as_often_as_in_closed_form() -> None:
    p = np.array([PHI.cdf(distance / SIGMA) for distance in DISTANCES])
    counts = of_linear("fixed")
    assert abs(counts.estimation[:, 0].sum() - 1000 * p.sum()) < 6 * np.sqrt(1000 * (p * (1 - p)).sum())


def test_planned_and_grid_samples_are_fewer_than_n_on_average() -> None:
    means = {rule: of_linear(rule).samples.mean() for rule in ("fixed", "planned", "radius_grid")}
    assert means["fixed"] == 1030
    assert max(means["planned"], means["radius_grid"]) < 1000


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_imagenet_shapes_with_a_thousand_classes_need_no_special_case(precision: Precision) -> None:
    network = deploy(build_network("resnet18", classes=1000, seed=0), precision=precision)
    # One sample, and one batch and a half: here a forward pass costs a second.
    spec = CertifySpec(n0=1, n=3, alpha=0.2, batch_size=2, precision=precision)
    image = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    counts = count_image([network], [single(0)], image, label=None, sigma=SIGMA, spec=spec, example=0, classes=1000)
    assert counts.batch_size.tolist() == [2]
    assert (counts.selection.sum(), counts.estimation.sum()) == (1, 3)
    assert counts.probability_sum.sum() == pytest.approx(3, rel=1e-5)
