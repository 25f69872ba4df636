"""Training: exact resumption, exact accounting, and what is said of training that went wrong."""

import copy
import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.data.splits import Dataset, Split
from rspipe.errors import ModelError
from rspipe.networks.architectures import ARCHITECTURES, build_network
from rspipe.training import step_loss, validation
from rspipe.training.fitting import Fit, State, fit
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.consistency import Consistency
from rspipe.training.methods.gaussian import Gaussian
from rspipe.training.methods.macer import MACER
from rspipe.training.methods.smoothadv import SmoothAdv
from rspipe.training.methods.smoothadv_consistency import SmoothAdvConsistency
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.methods.stability import Stability
from rspipe.training.spec import ModelSpec, TrainingSpec
from rspipe.training.validation import collapsed_since, evaluate, validation_metrics

METHODS: tuple[Any, ...] = (
    Gaussian(name="gaussian"),
    SmoothAdv(name="smoothadv", T=2, m=2, eps=0.25, warmup=2),
    MACER(name="macer", lbd=1.0, gamma=4.0, beta=1.0, m=3, defer=1),
    AdvMacer(name="advmacer", lbd=1.0, gamma=4.0, beta=1.0, T=1, m=3, eps=0.25, warmup=2, defer=1),
    Stability(name="stability"),
    Consistency(name="consistency", m=2),
    SmoothAdvConsistency(name="smoothadv_consistency", T=1, m=2, eps=0.25, warmup=2),
    SmoothMix(name="smoothmix", T=2, m=2, alpha=0.1, warmup=2),
)
TERMS = {
    "macer": ("robustness",),
    "advmacer": ("robustness",),
    "stability": ("stability",),
    "consistency": ("consistency", "entropy"),
    "smoothadv_consistency": ("consistency", "entropy"),
    "smoothmix": ("mixup",),
}
"""Of the loss, beside the cross-entropy."""
VALIDATION = ("validation_accuracy", "validation_noisy_accuracy", "validation_acr", "validation_classes")
EPOCHS = 4


def each_method(test: Callable[..., None]) -> Callable[..., None]:
    decorated: Callable[..., None] = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)(test)
    return decorated


def digits(images: int = 97, *, augment: Any = "none") -> Dataset:
    """The digits with few images to train on and, at each epoch in 17 passes, to validate on."""
    whole = load_dataset(DigitsData())
    few = Split(whole.train.images[:images], whole.train.labels[:images], whole.train.index[:images])
    return Dataset("digits", 10, augment, few, whole.validation.evenly_spaced(20), whole.calibration, whole.test)


def spec(method: Any = METHODS[0], *, architecture: str = "digits_cnn", seed: int = 0, **training: Any) -> ModelSpec:
    schedule = {"epochs": EPOCHS, "batch_size": 32, "lr": 0.05, "lr_step": 3, **training}
    return ModelSpec(
        label="model",
        data=DigitsData(),
        architecture=architecture,
        method=method,
        training=TrainingSpec(**schedule),
        train_sigma=0.25,
        seed=seed,
    )


def on_disk(state: State) -> State:
    """The state as it comes back from a file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: State = torch.load(buffer, weights_only=True)
    return loaded


def states(of: ModelSpec, data: Dataset) -> tuple[Fit, list[State]]:
    """Train without interruption; return the result and the states after each epoch."""
    seen: list[State] = []
    return fit(of, data, on_epoch=lambda state: seen.append(on_disk(state))), seen


def same_parameters(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@cache
def trained(method: str) -> Fit:
    """The result of a method on the digits; nobody may change it."""
    return fit(spec(next(one for one in METHODS if one.name == method)), digits())


def without_seconds(history: tuple[dict[str, float], ...]) -> list[dict[str, float]]:
    return [{key: value for key, value in entry.items() if "second" not in key} for entry in history]


@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@each_method
def test_training_that_goes_on_after_any_epoch_ends_with_the_same_parameters(method: Any, augment: str) -> None:
    data = digits(65, augment=augment)
    whole, after = states(spec(method), data)
    assert len(after) == EPOCHS
    for state in after:
        torch.manual_seed(99)
        resumed = fit(spec(method), data, state=state)
        assert same_parameters(resumed.network, whole.network)
        assert without_seconds(resumed.history) == without_seconds(whole.history)
        assert (resumed.status, resumed.passes) == (whole.status, whole.passes)


def test_training_interrupted_after_every_epoch_ends_with_the_same_parameters() -> None:
    data, of = digits(65), spec(METHODS[3])
    whole, state = fit(of, data), None

    class InterruptionError(Exception):
        pass

    def interrupt(current: State) -> None:
        nonlocal state
        state = on_disk(current)
        raise InterruptionError

    for _ in range(EPOCHS):
        with pytest.raises(InterruptionError):
            fit(of, data, state=state, on_epoch=interrupt)
    resumed = fit(of, data, state=state)
    assert same_parameters(resumed.network, whole.network)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


def test_going_on_leaves_the_state_as_it_was() -> None:
    data = digits()
    _, after = states(spec(), data)
    before = copy.deepcopy(after[0])
    fit(spec(), data, state=after[0])
    for name, tensor in before["network"].items():
        assert torch.equal(after[0]["network"][name], tensor)
    for ours, theirs in zip(after[0]["momenta"], before["momenta"], strict=True):
        assert torch.equal(ours, theirs)
    assert after[0]["history"] == before["history"]


def test_seconds_add_up_over_interruptions() -> None:
    data = digits()
    _, after = states(spec(), data)
    after[1]["seconds"] = 1000.0
    resumed = fit(spec(), data, state=after[1])
    assert 1000 < resumed.seconds < 1100


@each_method
def test_training_depends_on_the_spec_and_the_data_alone(method: Any) -> None:
    torch.manual_seed(0)
    first = trained(method.name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert same_parameters(fit(spec(method), digits()).network, first.network)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_another_model() -> None:
    one, other = (fit(spec(seed=seed), digits()).network for seed in (0, 1))
    assert not same_parameters(one, other)


def labelled(label: str, *, architecture: str = "digits_cnn", sigma: float = 0.25, **training: Any) -> ModelSpec:
    return spec(architecture=architecture, **training).model_copy(update={"label": label, "train_sigma": sigma})


def test_two_labels_with_equal_recipe_and_seed_start_from_different_parameters() -> None:
    """A step that moves nothing leaves what the training started from."""
    unmoved = {"lr": 1e-30, "weight_decay": 0.0, "epochs": 1}
    one, again, other = (fit(labelled(name, **unmoved), digits()).network for name in ("one", "one", "other"))
    assert same_parameters(one, again)
    parameters = zip(one.parameters(), other.parameters(), strict=True)
    assert not any(torch.equal(a, b) for a, b in parameters)


def test_common_seeds_give_two_labels_the_same_draws_and_so_the_same_model() -> None:
    one, other = (fit(labelled(name, common_seeds=True), digits()).network for name in ("one", "other"))
    assert same_parameters(one, other)
    alone = fit(labelled("one", common_seeds=False), digits()).network
    assert not same_parameters(one, alone)


def test_two_labels_with_equal_recipe_and_seed_see_the_images_in_different_orders(counted: str) -> None:
    def order(label: str) -> list[int]:
        done = fit(labelled(label, architecture=counted, sigma=1e-9, epochs=1), pixels(64))
        assert isinstance(done.network, Counted)
        return torch.cat(done.network.seen).mul(64).round().long().flatten().tolist()

    assert order("one") == order("one")
    # Of two independent orders of 64 images, one place in 64 is the same on average (Poisson: 8 or more, 1e-5).
    assert sum(a == b for a, b in zip(order("one"), order("other"), strict=True)) < 8


def test_two_epochs_see_different_noise() -> None:
    frozen = fit(spec(lr=1e-30, weight_decay=0.0), digits()).history
    assert len({entry["loss"] for entry in frozen}) == EPOCHS


class Counted(nn.Module):
    """A linear classifier of one-pixel images that counts forward and backward passes and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 10)
        self.forwards = self.backwards = 0
        self.seen: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.linear(batch.flatten(1))
        if not torch.is_grad_enabled():
            # It is looked at, not trained.
            return logits
        self.forwards += len(batch)
        self.seen.append(batch.detach().flatten())
        logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an architecture that counts."""
    monkeypatch.setitem(ARCHITECTURES, "counted", lambda _: Counted())
    return "counted"


def pixels(count: int) -> Dataset:
    """Images of one pixel, all different."""
    split = Split(torch.arange(count).view(-1, 1, 1, 1) / count, torch.arange(count) % 10, torch.arange(count))
    return Dataset("pixels", 10, "none", split, split, split, split)


@pytest.mark.parametrize("images", [97, 5])
@each_method
def test_passes_are_the_noisy_images_that_went_forward_and_backward(method: Any, images: int, counted: str) -> None:
    done = fit(spec(method, architecture=counted), pixels(images))
    assert isinstance(done.network, Counted)
    assert done.passes == done.network.forwards == done.network.backwards


@pytest.mark.parametrize(
    ("method", "per_image", "seen"),
    list(zip(METHODS, (1, 6, 3, 6, 2, 2, 4, 8), (96, 96, 96, 90, 96, 96, 96, 96), strict=True)),
)
def test_passes_are_those_of_the_paper(method: Any, per_image: int, seen: int) -> None:
    # 97 images: 3 steps of 32 images, 6 of 16 = 32 // 2, 3 of 32, 9 of 10 = 32 // 3; the remainder is dropped.
    assert trained(method.name).passes == EPOCHS * seen * per_image


def test_an_epoch_sees_every_image_once_in_an_order_of_its_own(counted: str) -> None:
    done = fit(spec(architecture=counted).model_copy(update={"train_sigma": 1e-9}), pixels(64))
    assert isinstance(done.network, Counted)
    orders = torch.cat(done.network.seen).mul(64).round().long().view(EPOCHS, 64).tolist()
    assert all(sorted(order) == list(range(64)) for order in orders)
    assert len({tuple(order) for order in orders}) == EPOCHS


def test_the_remainder_that_is_dropped_differs_between_epochs(counted: str) -> None:
    done = fit(spec(architecture=counted).model_copy(update={"train_sigma": 1e-9}), pixels(65))
    assert isinstance(done.network, Counted)
    orders = torch.cat(done.network.seen).mul(65).round().long().view(EPOCHS, 64).tolist()
    assert len({tuple(set(range(65)) - set(order)) for order in orders}) > 1


def by_hand(of: ModelSpec, data: Dataset, *, steps: int) -> list[Tensor]:
    """Full-batch gradient descent with momentum and weight decay as in its definition, with almost no noise."""
    network = build_network(of.architecture, classes=10, seed=of.training_seed)
    parameters = list(network.parameters())
    momentum = [torch.zeros_like(p) for p in parameters]
    for _ in range(steps):
        loss = cross_entropy(network(data.train.images), data.train.labels)
        with torch.no_grad():
            for p, v, g in zip(parameters, momentum, torch.autograd.grad(loss, parameters), strict=True):
                v.mul_(of.training.momentum).add_(g + of.training.weight_decay * p)
                p.sub_(of.training.lr * v)
    return [p.detach() for p in parameters]


def test_an_epoch_of_one_batch_is_a_step_of_gradient_descent_with_momentum_and_weight_decay() -> None:
    data = digits(40)
    of = spec(epochs=3, batch_size=40, lr=0.1, lr_step=10, weight_decay=0.01).model_copy(update={"train_sigma": 1e-9})
    trained = list(fit(of, data).network.parameters())
    for measured, expected in zip(trained, by_hand(of, data, steps=3), strict=True):
        torch.testing.assert_close(measured.detach(), expected, rtol=1e-4, atol=1e-6)


def test_a_clipped_gradient_has_the_length_asked_for() -> None:
    of = spec(epochs=1, batch_size=97, lr=0.5, momentum=0.0, weight_decay=0.0, grad_clip=1e-3)
    before, after = build_network("digits_cnn", classes=10, seed=of.training_seed), fit(of, digits()).network
    moved = [a - b for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    length = torch.cat([m.detach().flatten() for m in moved]).norm()
    assert float(length) == pytest.approx(0.5 * 1e-3, rel=1e-3)


@each_method
def test_the_history_has_an_entry_per_epoch_with_the_terms_of_the_loss(method: Any) -> None:
    parts = {"cross_entropy", *TERMS.get(method.name, ())}
    history = trained(method.name).history
    assert [entry["epoch"] for entry in history] == [1, 2, 3, 4]
    for entry in history:
        assert set(entry) == {
            "epoch",
            "lr",
            "seconds",
            "samples_per_second",
            "loss",
            "noisy_accuracy",
            *parts,
            *VALIDATION,
        }
        assert entry["loss"] == pytest.approx(sum(entry[part] for part in parts), rel=1e-5)
        assert 0 <= entry["noisy_accuracy"] <= 1
        assert entry["seconds"] > 0


def test_the_learning_rate_falls_after_every_lr_step_epochs() -> None:
    history = fit(spec(epochs=5, lr=0.08, lr_step=2, lr_decay=0.5), digits()).history
    assert [entry["lr"] for entry in history] == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02])


def test_the_loss_in_the_history_is_the_mean_over_the_steps_of_an_epoch() -> None:
    data = digits(64)
    # Without learning the mean over steps is the mean over images.
    of = spec(epochs=1, lr=1e-30, weight_decay=0.0).model_copy(update={"train_sigma": 1e-9})
    logits = build_network("digits_cnn", classes=10, seed=of.training_seed)(data.train.images)
    (entry,) = fit(of, data).history
    assert entry["loss"] == pytest.approx(float(cross_entropy(logits, data.train.labels).detach()), rel=1e-5)
    assert entry["noisy_accuracy"] == pytest.approx(float((logits.argmax(1) == data.train.labels).float().mean()))


def test_lambda_and_the_attack_are_those_of_the_epoch() -> None:
    history = trained(METHODS[3].name).history
    assert [entry["robustness"] > 0 for entry in history] == [False, True, True, True]


def test_finished_training_says_so_and_returns_a_network_in_eval_mode() -> None:
    done = trained(METHODS[0].name)
    assert (done.status, done.message) == ("finished", "")
    assert not done.network.training


def test_training_learns_the_digits() -> None:
    whole = load_dataset(DigitsData())
    done = fit(spec(epochs=10, lr_step=8), whole)
    assert evaluate(done.network, whole.validation, sigma=0.25, seed=0).clean_accuracy > 0.9


def test_training_whose_loss_is_nan_is_diverged_and_says_what_to_do() -> None:
    epochs: list[int] = []
    done = fit(spec(lr=1e30), digits(), on_epoch=lambda state: epochs.append(state["epoch"]))
    assert done.status == "diverged"
    assert done.message == ("loss or parameters became NaN or infinite in epoch 1; lower lr or lbd, or defer lambda")
    assert [entry["epoch"] for entry in done.history] == [1]
    # There is nothing worth going on from.
    assert epochs == []


class Infinite(nn.Module):
    """A network with finite parameters and gradients whose loss is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, batch: Tensor) -> Tensor:
        far = torch.full((10,), -3e38)
        far[9] = 3e38
        return (self.bias + far).expand(len(batch), -1)


def test_training_whose_loss_is_infinite_is_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "infinite", lambda _: Infinite())
    assert fit(spec(architecture="infinite"), digits()).status == "diverged"


class Stubborn(nn.Module):
    """Knows class 3 alone, whatever it learns at a learning rate of almost nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias[3:4], 1.0)

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.linear(batch.flatten(1))
        return logits


@pytest.mark.parametrize(
    ("epochs", "ended", "status"), [(8, 8, "finished"), (20, 11, "collapsed"), (100, 24, "collapsed")]
)
def test_training_that_knows_one_class_for_long_ends_and_says_so(
    epochs: int, ended: int, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "stubborn", lambda _: Stubborn())
    seen: list[int] = []
    of = spec(architecture="stubborn", epochs=epochs, lr=1e-30)
    done = fit(of, digits(33), on_epoch=lambda state: seen.append(state["epoch"]))
    assert (done.status, len(done.history)) == (status, ended)
    if status == "collapsed":
        first = 1 if epochs < 60 else 3
        assert f"a single class on noisy validation images since epoch {first}; lower" in done.message
        assert seen == list(range(1, ended))


def test_a_collapse_that_is_overcome_ends_nothing() -> None:
    def look(epoch: int, classes: float) -> dict[str, float]:
        return {"epoch": epoch, "validation_classes": classes}

    alone = [look(epoch, 1.0) for epoch in range(1, 11)]
    assert collapsed_since([*alone, look(11, 2.0)], epochs=20) is None
    assert collapsed_since([*alone, {"epoch": 11}], epochs=20) is None
    assert collapsed_since([*alone, look(11, 1.0)], epochs=20) == 1
    assert collapsed_since([look(1, 4.0), *alone[1:], look(11, 1.0)], epochs=20) is None
    assert collapsed_since([{"epoch": epoch} for epoch in range(1, 15)], epochs=20) is None


def test_images_of_one_class_do_not_tell_whether_a_network_has_collapsed() -> None:
    measured = validation_metrics(Threshold(constant=1), greys(0.1, 0.9, labels=(1, 1)), sigma=0.1, seed=0)
    assert "validation_classes" not in measured
    assert measured["validation_noisy_accuracy"] == 1


def test_validation_metrics_are_measured_under_the_noise_of_every_epoch() -> None:
    split = greys(*[0.6] * 300, *[0.1] * 100, labels=(1,) * 300 + (2,) * 100)
    measured = validation_metrics(Threshold(), split, sigma=0.4, seed=0)
    torch.manual_seed(7)
    assert validation_metrics(Threshold(), split, sigma=0.4, seed=0) == measured
    assert validation_metrics(Threshold(), split, sigma=0.4, seed=1) != measured
    assert measured["validation_accuracy"] == 0.75
    assert measured["validation_classes"] == 2
    # The mean of 16 pixels has standard deviation .1: P(mean > .5) = Phi(1), in 16 draws of 300 images.
    p = norm.cdf(1)
    assert abs(measured["validation_noisy_accuracy"] - 0.75 * p) < 0.75 * 5 * (p * (1 - p) / 4800) ** 0.5
    k = np.arange(17)
    radius = 0.4 * norm.ppf(np.maximum((k + 0.5) / 17, 0.5)) * (k > 8)
    mean = float(binom.pmf(k, 16, p) @ radius)
    spread = float(binom.pmf(k, 16, p) @ radius**2) - mean**2
    assert abs(measured["validation_acr"] - 0.75 * mean) < 0.75 * 5 * (spread / 300) ** 0.5


def test_the_estimate_of_the_radius_is_capped_by_the_number_of_draws() -> None:
    measured = validation_metrics(Threshold(), greys(0.1, 0.9, labels=(0, 1)), sigma=0.01, seed=0)
    assert measured["validation_acr"] == pytest.approx(0.01 * norm.ppf(16.5 / 17))


class Dropping(nn.Module):
    """A network with dropout, which draws from torch's global stream."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    def forward(self, batch: Tensor) -> Tensor:
        logits: Tensor = self.net(batch)
        return logits


def test_a_network_with_dropout_is_trained_reproducibly_and_leaves_the_global_stream_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "dropping", lambda _: Dropping())
    of = spec(architecture="dropping")
    torch.manual_seed(0)
    whole, seen = states(of, digits())
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), drawn)
    assert same_parameters(fit(of, digits(), state=seen[1]).network, whole.network)


@each_method
def test_the_loss_curve_in_bfloat16_is_that_in_float32_but_for_rounding(method: Any) -> None:
    exact, rounded = trained(method.name), fit(spec(method, precision="bfloat16"), digits())
    assert all(parameter.dtype == torch.float32 for parameter in rounded.network.parameters())
    assert not same_parameters(exact.network, rounded.network)
    curves = [[entry["loss"] for entry in done.history] for done in (exact, rounded)]
    assert curves[1] == pytest.approx(curves[0], rel=0.05)


def convolution_of(done: Fit) -> Tensor:
    """Return the weights of the last convolution."""
    *_, last = (module for module in done.network.modules() if isinstance(module, nn.Conv2d))
    return last.weight


def is_channels_last(weight: Tensor) -> bool:
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


@each_method
def test_training_in_channels_last_order_is_that_in_the_other_but_for_rounding(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of its loss in the first epoch.
    of = spec(method.model_copy(update={"defer": 0}) if hasattr(method, "defer") else method, epochs=1)
    done = fit(of, digits())
    assert is_channels_last(convolution_of(done))
    monkeypatch.setattr(step_loss, "_gains_by_channels_last", lambda *_: False)
    other = fit(of, digits())
    assert not is_channels_last(convolution_of(other))
    for one, same in zip(done.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)


class Viewing(nn.Module):
    """A network that asks for a view, which channels-last order cannot give, in one of its modes alone."""

    def __init__(self, mode: bool) -> None:
        super().__init__()
        self.conv, self.linear, self.mode = nn.Conv2d(1, 4, 3), nn.Linear(144, 10), mode

    def forward(self, batch: Tensor) -> Tensor:
        maps = self.conv(batch)
        flat = maps.view(len(maps), -1) if self.training == self.mode else maps.flatten(1)
        logits: Tensor = self.linear(flat)
        return logits


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", [False, True])
def test_a_network_that_cannot_run_in_channels_last_order_keeps_its_own(
    precision: str, mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "viewing", lambda _: Viewing(mode))
    done = fit(spec(architecture="viewing", precision=precision), digits())
    assert done.status == "finished"
    assert not is_channels_last(convolution_of(done))


# Dynamo looks at the gradients of the tensors that it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_training_runs_the_same_steps_on_the_same_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_, compiled = torch.compile, list[nn.Module]()

    def without_code_generation(network: nn.Module) -> Any:
        compiled.append(network)
        return compile_(network, backend="eager")

    monkeypatch.setattr(torch, "compile", without_code_generation)
    runs = {}
    for choice in (False, True):
        runs[choice] = fit(spec(METHODS[1], epochs=2, compiled=choice), digits())
    assert len(compiled) == 1
    assert same_parameters(runs[True].network, runs[False].network)
    assert runs[True].history[-1]["loss"] == runs[False].history[-1]["loss"]


def test_the_precision_of_training_and_whether_it_is_compiled_are_parts_of_an_identity() -> None:
    plain = spec().training
    assert TrainingSpec.model_validate(plain.model_dump()) == plain
    assert plain.model_dump()["precision"] == "float32"
    assert plain.model_dump()["compiled"] is False
    assert spec(precision="bfloat16").training.digest != plain.digest
    assert spec(compiled=True).training.digest != plain.digest


def test_images_of_the_wrong_size_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"architecture 'lenet' does not take images of 1x8x8 .*; use images of"):
        fit(spec(architecture="lenet"), digits())


class Threshold(nn.Module):
    """Calls an image class 1 when its mean is above a half, or always the same class."""

    def __init__(self, constant: int | None = None) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, batch: Tensor) -> Tensor:
        light = (batch.flatten(1).mean(1) > 0.5).long() if self.constant is None else None
        classes = torch.full((len(batch),), self.constant or 0) if light is None else light
        return nn.functional.one_hot(classes, 3).float()


def greys(*levels: float, labels: tuple[int, ...]) -> Split:
    images = torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Split(images, torch.tensor(labels), torch.arange(len(levels)))


def test_clean_accuracy_is_the_share_of_images_classified_correctly() -> None:
    split = greys(0.1, 0.2, 0.8, 0.9, labels=(0, 1, 1, 1))
    assert evaluate(Threshold(), split, sigma=1e-6, seed=0).clean_accuracy == 0.75


def test_noisy_accuracy_is_measured_under_the_noise() -> None:
    n = 4000
    split = greys(*[0.6] * n, labels=(1,) * n)
    measured = evaluate(Threshold(), split, sigma=0.4, seed=0)
    # The mean of 16 pixels has standard deviation .1: P(mean > .5) = Phi(1).
    p = 0.8413447460685429
    assert abs(measured.noisy_accuracy - p) < 5 * (p * (1 - p) / n) ** 0.5
    assert measured.clean_accuracy == 1


def test_an_evaluation_depends_on_its_seed_alone() -> None:
    split = greys(*[0.6] * 500, labels=(1,) * 500)
    torch.manual_seed(0)
    first = evaluate(Threshold(), split, sigma=0.4, seed=0)
    torch.manual_seed(1)
    assert evaluate(Threshold(), split, sigma=0.4, seed=0) == first
    assert evaluate(Threshold(), split, sigma=0.4, seed=1) != first


def test_a_network_that_knows_one_class_has_collapsed() -> None:
    split = greys(0.1, 0.9, labels=(0, 1))
    assert evaluate(Threshold(constant=1), split, sigma=0.1, seed=0).collapsed


def test_a_network_that_knows_two_classes_has_not_collapsed() -> None:
    split = greys(0.1, 0.9, labels=(0, 1))
    assert not evaluate(Threshold(), split, sigma=0.01, seed=0).collapsed


def test_one_class_among_images_of_one_class_is_no_collapse() -> None:
    split = greys(0.1, 0.9, labels=(1, 1))
    assert not evaluate(Threshold(constant=1), split, sigma=0.1, seed=0).collapsed


def test_memory_that_is_short_does_not_choose_the_memory_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: object) -> Tensor:
        raise MemoryError

    network = build_network("digits_cnn", classes=10, seed=0)
    monkeypatch.setattr(nn.Flatten, "forward", forward)
    with pytest.raises(MemoryError):
        step_loss.step_loss(network, spec(), None, shape=(1, 8, 8))


def test_large_images_are_evaluated_a_few_at_once_with_the_same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    split, seen = digits().validation, list[int]()

    class Noting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x.flatten(1)[:, :10]

    whole = evaluate(Noting(), split, sigma=0.4, seed=0)
    monkeypatch.setattr(validation, "_NUMBERS_AT_ONCE", 7 * split.images[0].numel())
    seen.clear()
    assert evaluate(Noting(), split, sigma=0.4, seed=0) == whole
    assert max(seen) == 7
