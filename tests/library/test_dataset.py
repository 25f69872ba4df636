"""A data set certified in one call gives what a study gives, and what people do with it works."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import rspipe
from rspipe.audit.log import parse_log
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.ensembles.spec import WeighSpec
from rspipe.errors import ModelError
from rspipe.networks.architectures import build_network
from rspipe.networks.deployment import deploy
from rspipe.smoothing.classifiers import BatchLimit, Classifier
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages.passes import CountPass, MomentPass

DATA = load_dataset(DigitsData())
SOME = DATA.test.evenly_spaced(5)
PAIRS = TensorDataset(SOME.images, SOME.labels)
TERMS: dict[str, Any] = {"n0": 20, "n": 300, "alpha": 0.01, "seed": 3}
SIGMA = 0.25


@pytest.fixture(scope="module")
def networks() -> list[nn.Module]:
    return [build_network("digits_cnn", classes=10, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def result(networks: list[nn.Module]) -> rspipe.CertifiedDataset:
    return rspipe.certify_dataset(networks, SOME.images, SOME.labels, sigma=SIGMA, weights=[0.5, 0.3, 0.2], **TERMS)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize(
    "rule", ["fixed", {"name": "planned", "pilot": 100}, {"name": "radius_grid", "grid": [0.1, 0.2]}]
)
def test_the_counts_are_those_of_a_study_bit_for_bit(networks: list[nn.Module], rule: Any, average: Any) -> None:
    weights = (0.5, 0.3, 0.2)
    spec = CertifySpec(rule=rule, **TERMS)
    classifiers = (
        Classifier("ensemble", (0, 1, 2), weights, average),
        *(Classifier(f"member {k}", (k,), (1.0,)) for k in range(3)),
    )
    deployed = [deploy(network) for network in networks]
    # What an actor of a study runs for each image.
    count = CountPass(SIGMA, ("a", "b", "c"), classifiers, ("k",) * 4, spec, 10)
    result = rspipe.certify_dataset(
        networks,
        SOME.images,
        SOME.labels.tolist(),
        sigma=SIGMA,
        weights=weights,
        average=average,
        rule=rule,
        examples=SOME.index.tolist(),
        **TERMS,
    )
    for at, (image, label, example) in enumerate(
        zip(SOME.images, SOME.labels.tolist(), SOME.index.tolist(), strict=True)
    ):
        table = count.run(deployed, image, label, example, limit=BatchLimit())
        for row, one in enumerate((result, *result.members)):
            stored = table.slice(row, 1).to_pylist()[0]
            for name in ("selection", "pilot", "estimation", "probability_sum"):
                assert getattr(one.counts, name)[at].tolist() == stored[name], (one.name, name)
            assert (one.prediction[at], one.radius[at]) == (stored["prediction"], stored["radius"])
            assert one.counts.example[at] == stored["example"]


def test_the_moments_are_those_of_a_study_bit_for_bit(networks: list[nn.Module]) -> None:
    some = DATA.calibration.evenly_spaced(3)
    moments = rspipe.margin_moments(
        networks, some.images, some.labels, sigma=SIGMA, draws=30, seed=2, examples=some.index.tolist()
    )
    estimate = MomentPass(SIGMA, ("a", "b", "c"), ("probabilities",), WeighSpec(draws=30, seed=2), "float32")
    deployed = [deploy(network) for network in networks]
    for at, (image, label, example) in enumerate(
        zip(some.images, some.labels.tolist(), some.index.tolist(), strict=True)
    ):
        stored = estimate.run(deployed, image, label, example, limit=BatchLimit()).to_pylist()[0]
        assert moments.mean[at].ravel().tolist() == stored["mean"]
        assert moments.covariance[at].ravel().tolist() == stored["covariance"]
    uniform = rspipe.solve_weights(moments.mean[:, 0], moments.covariance[:, 0], method="uniform")
    assert uniform.weights.tolist() == [1 / 3] * 3
    with pytest.raises(ValueError, match="of one length above 0, got 3 and 2"):
        rspipe.margin_moments(networks, some.images, some.labels[:2], sigma=SIGMA)


def test_an_ensemble_is_one_network_and_certified_alike(
    networks: list[nn.Module], result: rspipe.CertifiedDataset
) -> None:
    ensemble = rspipe.Ensemble(networks, weights=[0.5, 0.3, 0.2]).eval()
    alone = rspipe.certify_dataset(ensemble, SOME.images, SOME.labels, sigma=SIGMA, **TERMS)
    assert same(alone, result)
    assert alone.members == ()
    deployed = rspipe.Ensemble([deploy(one) for one in networks], weights=[0.5, 0.3, 0.2])
    for position, image in enumerate(SOME.images):
        certificate = rspipe.certify(deployed, image, sigma=SIGMA, example=position, **TERMS)
        assert certificate.estimation.tolist() == result.counts.estimation[position].tolist()
    probabilities = ensemble.probabilities(SOME.images)
    mean = sum(w * one.eval()(SOME.images).softmax(1) for w, one in zip([0.5, 0.3, 0.2], networks, strict=True))
    torch.testing.assert_close(probabilities, mean)
    assert torch.equal(ensemble(SOME.images).argmax(1), probabilities.argmax(1))


def same(a: rspipe.CertifiedDataset, b: rspipe.CertifiedDataset) -> bool:
    names = {field.name for field in fields(a.counts)} - {"seconds", "classifier", "kind"}
    return all(np.array_equal(getattr(a.counts, name), getattr(b.counts, name)) for name in names)


def test_images_come_as_arrays_pairs_or_batches_alike(networks: list[nn.Module]) -> None:
    def certified(images: Any, labels: Any = None) -> rspipe.CertifiedDataset:
        return rspipe.certify_dataset(networks[0], images, labels, sigma=SIGMA, **TERMS)

    expected = certified(SOME.images, SOME.labels)
    for images, labels in (
        (SOME.images.numpy(), SOME.labels.numpy()),
        (SOME.images.double(), SOME.labels.tolist()),
        (PAIRS, None),
        (DataLoader(PAIRS, batch_size=2), None),
    ):
        assert same(certified(images, labels), expected)


def test_the_numbers_are_those_of_the_metrics(result: rspipe.CertifiedDataset) -> None:
    assert result.acr == rspipe.average_certified_radius(result.radius, result.correct)
    assert result.acr_interval.low <= result.acr <= result.acr_interval.high
    radii = [0.0, 0.1, 0.2]
    assert result.curve(radii).tolist() == rspipe.certified_accuracy(result.radius, result.correct, radii).tolist()
    frame = result.to_pandas()
    assert frame.radius.tolist() == result.radius.tolist()
    assert (frame.prediction == frame.label).tolist() == frame.correct.tolist()


def test_each_image_says_how_its_noise_was_drawn(networks: list[nn.Module], result: rspipe.CertifiedDataset) -> None:
    """The digits are whole sixteenths; others have no grid, and a study or a call can ask for one kind alone."""

    def certified(images: Tensor, noise: Any) -> rspipe.CertifiedDataset:
        return rspipe.certify_dataset(networks[0], images, SOME.labels, sigma=SIGMA, noise=noise, **TERMS)

    assert {*result.counts.noise} == {"grid 1/256"}
    mixed = torch.cat([SOME.images[:3], SOME.images[3:] / 3])
    auto, floats = certified(mixed, "auto"), certified(mixed, "float")
    assert auto.to_pandas().noise.tolist() == ["grid 1/256"] * 3 + ["float"] * 2
    assert {*floats.counts.noise} == {"float"}
    first, last = slice(None, 3), slice(3, None)
    assert np.array_equal(auto.counts.estimation[first], certified(SOME.images, "grid").counts.estimation[first])
    assert np.array_equal(auto.counts.estimation[last], floats.counts.estimation[last])
    assert not np.array_equal(auto.counts.estimation[first], floats.counts.estimation[first])


def test_its_log_is_one_that_others_read(result: rspipe.CertifiedDataset, tmp_path: Path) -> None:
    text = result.to_tsv(tmp_path / "log.tsv")
    assert (tmp_path / "log.tsv").read_text() == text
    log = parse_log(text.encode(), name="log")
    assert log.radius == pytest.approx(result.radius, abs=1e-6)


def test_it_is_shown_on_a_screen(result: rspipe.CertifiedDataset, networks: list[nn.Module]) -> None:
    lines = repr(result).splitlines()
    assert lines[0] == "CertifiedDataset: sigma = 0.25, rule fixed, n0 = 20, n = 300, alpha = 0.01, noise grid 1/256"
    assert [line.split()[0] for line in lines[1:]] == ["classifier", "ensemble", "member", "member", "member"]
    assert max(map(len, lines)) <= 120
    certificate = rspipe.certify(networks[0].eval(), SOME.images[0], sigma=SIGMA, **TERMS)
    assert len(repr(certificate)) < 250
    figure = result.plot()
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["ensemble", "member 0", "member 1", "member 2"]
    latex = result.to_latex([0.0, 0.1])
    assert latex.count(r"\\") == 5
    assert r"\begin{tabular}{lrrrrr}" in latex


def test_progress_is_written_to_stderr_when_asked_for(
    networks: list[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    rspipe.certify_dataset(networks[0], SOME.images, SOME.labels, sigma=SIGMA, progress=True, **TERMS)
    assert "5 of 5 images" in capsys.readouterr().err
    rspipe.certify(networks[0], SOME.images[0], sigma=SIGMA, progress=True, **TERMS)
    assert "300 of 300 samples" in capsys.readouterr().err
    rspipe.certify_dataset(networks[0], SOME.images, SOME.labels, sigma=SIGMA, **TERMS)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "labels are missing"),
        ({"labels": [1, 2]}, "images and labels must be equally many, got 5 and 2"),
        ({"labels": [0.5] * 5}, "labels must be whole numbers, got float64"),
        ({"labels": [1, 2, 3, 4, 10]}, "label 10 of image 4 is none of the classifier's 10 classes"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"n": 5}, "n = 5 can never certify at alpha = 0.01; use n >= 7"),
        ({"rule": "plannd"}, "unknown rule 'plannd'; did you mean 'planned'"),
        ({"rule": {"name": "planned", "epss": 1}}, "unknown key 'epss'; did you mean 'eps'"),
        ({"weights": [1.0]}, "weights is for an ensemble; give several models"),
        ({"average": "logits"}, "average is for an ensemble; give several models"),
        ({"n": 1e3}, "n = 1000.0 must be a whole number"),
        ({"seed": 1.9}, "seed = 1.9 must be a whole number"),
        ({"rule": {"name": "fixed", "label_stop": "false"}}, "label_stop = 'false' must be true or false"),
        ({"rule": {"name": "planned", "pilot": 200.0}}, "pilot = 200.0 must be a whole number"),
        ({"images": (SOME.images * 255).round()}, "bytes"),
        ({"images": [*SOME.images[:4], torch.full((1, 8, 8), torch.nan)]}, "64 of 64 are NaN or infinite"),
        ({"examples": [1, 2]}, "examples and images must be equally many, got 2 and 5"),
        ({"examples": range(6)}, "examples and images must be equally many, got 6 and 5"),
        ({"noise": "grod"}, "unknown noise 'grod'; did you mean 'grid'"),
        (
            {"noise": "grid", "images": SOME.images / 3},
            r"multiples of 1/255 or 1/256, .* largest is 0.333333343\)",
        ),
        ({"images": []}, "images and labels must be equally many, got 0 and 5"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    networks: list[nn.Module], changes: dict[str, Any], message: str
) -> None:
    call = {"images": SOME.images, "labels": SOME.labels, "sigma": SIGMA, **TERMS, **changes}
    with pytest.raises(ValueError, match=message) as refusal:
        rspipe.certify_dataset(networks[0], call.pop("images"), call.pop("labels"), **call)
    assert "\n" not in str(refusal.value)


def test_members_must_know_the_same_classes(networks: list[nn.Module]) -> None:
    other = build_network("digits_cnn", classes=7, seed=0)
    with pytest.raises(ModelError, match="member 1 knows 7 classes but the data have 10"):
        rspipe.certify_dataset([networks[0], other], SOME.images, SOME.labels, sigma=SIGMA, **TERMS)


def test_functions_are_certified_too() -> None:
    def by_brightness(batch: Tensor) -> Any:
        mean = batch.flatten(1).mean(1)
        return np.stack([0.5 - mean, mean - 0.5], axis=1)

    images, labels = torch.stack([torch.full((1, 8, 8), 0.9), torch.full((1, 8, 8), 0.1)]), [1, 0]
    result = rspipe.certify_dataset(by_brightness, images, labels, sigma=0.1, **TERMS)
    # The distance to the hyperplane is .4 * 8; so few samples prove less.
    assert result.prediction.tolist() == labels
    assert 0 < result.radius.min() <= 3.2


class Numbered:
    """Pairs by number, as a Dataset of torch's has them, which need not raise IndexError behind its end."""

    def __len__(self) -> int:
        return len(PAIRS)

    def __getitem__(self, number: int) -> Any:
        return dict(enumerate(PAIRS))[number]


def test_a_data_set_ends_where_its_length_says(networks: list[nn.Module]) -> None:
    expected = rspipe.certify_dataset(networks[0], SOME.images, SOME.labels, sigma=SIGMA, **TERMS)
    assert same(rspipe.certify_dataset(networks[0], Numbered(), sigma=SIGMA, **TERMS), expected)


def test_progress_is_out_of_the_images_that_are_certified(
    networks: list[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = Subset(PAIRS, [0, 1])
    for images, shown in ((pairs, "2 of 2 images"), (DataLoader(pairs), "2 of 2 images"), (iter(pairs), "2 images")):
        rspipe.certify_dataset(networks[0], images, sigma=SIGMA, progress=True, **TERMS)
        assert shown in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (PAIRS, {"examples": [1, 2]}, "examples and images must be equally many, got 2 and 5"),
        (DataLoader(PAIRS, batch_size=2), {"examples": range(6)}, "examples and images must be equally many, got 6"),
        (list(PAIRS), {"examples": [1, 2]}, "examples are 2, fewer than the images"),
        (list(PAIRS), {"examples": range(6)}, "examples are 6, more than the 5 images"),
        ([(SOME.images[0], 0.7)], {}, "labels must be whole numbers, got float64"),
        ([(SOME.images[:2], torch.tensor([0.7, 1.0]))], {}, "labels must be whole numbers, got float32"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(
    networks: list[nn.Module], images: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rspipe.certify_dataset(networks[0], images, sigma=SIGMA, **TERMS, **changes)


def test_an_item_is_a_batch_only_where_it_has_a_label_an_image(networks: list[nn.Module]) -> None:
    image = SOME.images[0]
    single = rspipe.certify_dataset(networks[0], [(image, 0)], sigma=SIGMA, **TERMS)
    again = rspipe.certify_dataset(networks[0], [(image[None], torch.tensor([0]))], sigma=SIGMA, **TERMS)
    assert again.radius.tolist() == single.radius.tolist()
    with pytest.raises(ValueError, match=r"an item \[1, 8, 8\] with a label in brackets is a batch of one, or one im"):
        rspipe.certify_dataset(networks[0], [(image, torch.tensor([0]))], sigma=SIGMA, **TERMS)
    with pytest.raises(ValueError, match=r"labels of a batch of 2 images have shape \[3\]"):
        rspipe.certify_dataset(networks[0], [(SOME.images[:2], torch.tensor([0, 1, 0]))], sigma=SIGMA, **TERMS)
    with pytest.raises(ValueError, match=r"labels have shape \[2, 1\]; give one whole number an image"):
        rspipe.certify_dataset(networks[0], SOME.images[:2], [[0], [1]], sigma=SIGMA, **TERMS)


class Squeezing(nn.Module):
    """Pools to one pixel, and squeezes whatever dimension has one: the batch, too."""

    def __init__(self, *, head: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(10, 10)) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).squeeze())
        return logits


@pytest.mark.parametrize("head", [False, True])
def test_a_network_that_squeezes_a_batch_of_one_is_certified(head: bool) -> None:
    network = Squeezing(head=head).eval()
    result = rspipe.certify_dataset(network, SOME.images, SOME.labels, sigma=SIGMA, precision="float32", **TERMS)
    alone = rspipe.certify(deploy(network, precision="float32"), SOME.images[0], sigma=SIGMA, **TERMS)
    assert result.counts.estimation[0].tolist() == alone.estimation.tolist()
    moments = rspipe.margin_moments([network, network], SOME.images, SOME.labels, sigma=SIGMA, draws=4)
    assert moments.mean.shape[0] == 5


def test_labels_are_checked_before_the_first_pass() -> None:
    inputs = []

    def network(x: Tensor) -> Tensor:
        inputs.append(len(x))
        return x.flatten(1)[:, :2]

    with pytest.raises(ValueError, match="label 2 of image 4 is none of the classifier's 2 classes"):
        rspipe.certify_dataset(network, SOME.images, [0, 1, 0, 1, 2], sigma=SIGMA, **TERMS)
    assert inputs == [2]


@pytest.mark.parametrize(
    ("broken", "terms", "told"),
    [
        (float("nan"), {}, "x must hold finite numbers"),
        (0.123456, {"noise": "grid"}, "noise = 'grid' needs numbers that are multiples of"),
        (0.0, {"examples": [0, 1, 2, 3, -1]}, "examples must be 0 or more, got -1"),
    ],
)
def test_what_is_wrong_with_the_last_image_is_found_before_the_first_pass(
    broken: float, terms: dict[str, Any], told: str
) -> None:
    images = SOME.images[:5].clone()
    images[4, 0, 0, 0] = broken

    def never(x: Tensor) -> Tensor:
        raise AssertionError("an image was seen")

    with pytest.raises(ValueError, match=told):
        rspipe.certify_dataset(never, images, [0, 1, 0, 1, 0], sigma=SIGMA, **{**TERMS, **terms})


def test_an_ensemble_combines_as_it_was_told_alone(networks: list[nn.Module]) -> None:
    with pytest.raises(ValueError, match="the ensemble has average of its own; drop 'average'"):
        rspipe.certify_dataset(
            rspipe.Ensemble(networks), SOME.images, SOME.labels, sigma=SIGMA, average="logits", **TERMS
        )
    with pytest.raises(ValueError, match="combination 'mme' uses no weights"):
        rspipe.Ensemble(networks[:2], weights=[0.9, 0.1], combination="mme")
    with pytest.raises(ValueError, match="consensus_size = 2 is for combination = 'consensus' alone"):
        rspipe.Ensemble(networks, consensus_size=2)


def test_an_ensemble_among_other_models_is_refused(networks: list[nn.Module]) -> None:
    models = [networks[0], rspipe.Ensemble(networks[1:])]
    with pytest.raises(ValueError, match=r"model 1 is an Ensemble, .*; list its members instead"):
        rspipe.certify_dataset(models, SOME.images, SOME.labels, sigma=SIGMA, **TERMS)
