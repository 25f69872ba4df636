"""Facts about methods that look at their training images between epochs: CAT-RS, and the foil of ACR."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import beta, norm
from torch import Tensor, nn

from rspipe.data.files import FileSplit, ImageFiles
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.data.splits import Dataset, Split
from rspipe.errors import ModelError
from rspipe.smoothing.noise import noisy_logits
from rspipe.smoothing.noise_attacks import divergence_attack, divergences, misleading_noise
from rspipe.training.fitting import fit
from rspipe.training.methods.acr_weakness import ACRWeakness, radius_weights
from rspipe.training.methods.catrs import CATRS, bottom_k_loss
from rspipe.training.methods.method import Surroundings, noisy_batch
from rspipe.training.randomness import Draws
from rspipe.training.spec import ModelSpec, TrainingSpec

IMAGES, M, CLASSES, SIGMA = 6, 4, 3, 0.5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def linear(seed: int = 1) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(drawn(*parameter.shape, seed=seed))
    return network


X = torch.rand((IMAGES, 1, 2, 2), generator=generator(), dtype=torch.float64)
Y = torch.arange(IMAGES) % CLASSES
NOISE = SIGMA * drawn(IMAGES, M, 1, 2, 2, seed=2)
TARGET = torch.softmax(drawn(IMAGES, CLASSES, seed=3), -1)


def lengths(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors.flatten(2), dim=2)


def test_divergences_are_their_formula_also_where_a_class_never_comes() -> None:
    logits, target = drawn(2, M, CLASSES, seed=4), torch.tensor([[0.0, 0.25, 0.75], [0.0, 0.0, 1.0]]).double()
    p = softmax(logits.numpy(), axis=-1)
    for i, j in np.ndindex(2, M):
        expected = sum(t * math.log(t / p[i, j, c]) for c, t in enumerate(target[i].tolist()) if t > 0)
        assert float(divergences(logits, target)[i, j]) == pytest.approx(expected, rel=1e-12)


def test_the_smallest_cross_entropies_of_an_image_are_summed() -> None:
    logits, kept = drawn(IMAGES, M, CLASSES, seed=5), torch.tensor([1, 2, 3, 4, 4, 1])
    expected = 0.0
    for u, y, k in zip(logits.numpy(), Y.tolist(), kept.tolist(), strict=True):
        expected += np.sort(-np.log(softmax(u, axis=-1)[:, y]))[:k].sum() / M / IMAGES
    assert float(bottom_k_loss(logits, Y, kept)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 4])
def test_attacked_noise_is_worse_and_keeps_its_mean(steps: int) -> None:
    network, eps = linear(), 0.25
    attacked = divergence_attack(network, X, NOISE, TARGET, eps=eps, steps=steps)
    before, after = (divergences(noisy_logits(network, X, at), TARGET) for at in (NOISE, attacked))
    # In four dimensions the mean and size that a vector gets back can take a little of what it won.
    assert (after.mean(1) > before.mean(1)).all()
    torch.testing.assert_close(attacked.flatten(2).mean(2), NOISE.flatten(2).mean(2))


def test_a_step_of_the_attack_is_its_formula() -> None:
    network, eps = linear(), 0.25
    at = NOISE.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(divergences(noisy_logits(network, X, at), TARGET).sum(), at)
    attacked = divergence_attack(network, X, NOISE, TARGET, eps=eps, steps=1).numpy()
    for i, j in np.ndindex(IMAGES, M):
        start, slope = NOISE[i, j].numpy().ravel(), gradient[i, j].numpy().ravel()
        # A step of 2 eps, shortened to the ball of eps.
        moved = start + eps * slope / np.linalg.norm(slope)
        rms = [np.sqrt(np.mean(vector**2)) for vector in (start, moved)]
        expected = start.mean() + (moved - moved.mean()) / rms[1] * rms[0]
        np.testing.assert_allclose(attacked[i, j].ravel(), expected, rtol=1e-6)


def test_misleading_noise_keeps_its_length_and_stays_where_it_misled_first() -> None:
    network = linear()
    found = misleading_noise(network, X, Y, NOISE, step=0.1, steps=5)
    torch.testing.assert_close(lengths(found), lengths(NOISE), rtol=1e-6, atol=0)
    wrong = noisy_logits(network, X, NOISE).argmax(-1) != Y.unsqueeze(1)
    assert wrong.any()
    assert not wrong.all()
    assert torch.equal(found[wrong], NOISE[wrong])
    losses = [-noisy_logits(network, X, at).log_softmax(-1)[torch.arange(IMAGES), :, Y] for at in (NOISE, found)]
    assert (losses[1] > losses[0])[~wrong].all()


def surroundings(network: nn.Module, before: Tensor | None = None) -> Surroundings:
    return Surroundings(network, X, Y, CLASSES, SIGMA, generator(7), before)


def test_shares_of_a_linear_classifier_are_those_of_the_closed_form() -> None:
    weight = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]).double()
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2).double())
    with torch.no_grad():
        network[1].weight.copy_(weight)
        network[1].bias.copy_(torch.tensor([-0.5, 0.0]))
    around = Surroundings(network, X, torch.zeros(IMAGES, dtype=torch.int64), 2, SIGMA, generator(7), None)
    expected, draws = norm.cdf((X[:, 0, 0, 0].numpy() - 0.5) / SIGMA), 20_000
    shares = around.right_shares(draws=draws).numpy()
    assert np.abs(shares - expected).max() < 5 * math.sqrt(0.25 / draws)
    np.testing.assert_allclose(around.class_shares(sigma=SIGMA, draws=10).sum(1), 1, rtol=1e-6)


class Fixed(nn.Module):
    """A network that is right on the first `right` of the images in every noisy copy, and wrong on the others."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right = right

    def forward(self, batch: Tensor) -> Tensor:
        number = torch.arange(len(batch)) % IMAGES
        answers = torch.where(number < self.right, Y[number], (Y[number] + 1) % CLASSES)
        return torch.nn.functional.one_hot(answers, CLASSES).double()


def test_hard_images_are_discarded_once_and_do_not_come_back() -> None:
    method = ACRWeakness(name="acr_weakness", discard_epoch=2, reweigh_every=3)
    assert [epoch for epoch in range(10) if method.surveys(epoch)] == [2, 5, 8]
    first = method.survey(surroundings(Fixed(right=4)))
    assert (first > 0).tolist() == [True] * 4 + [False] * 2
    # One that was kept and is wrong now has the least weight; one that was discarded stays so though it is right now.
    later = method.survey(surroundings(Fixed(right=3), first))
    assert (later > 0).tolist() == [True] * 4 + [False] * 2
    assert float(later[3]) == float(torch.from_numpy(radius_weights(np.array([12])))[0])
    assert (method.survey(surroundings(Fixed(right=IMAGES), first)) > 0).tolist() == [True] * 4 + [False] * 2


def test_weights_are_the_radii_that_sixteen_draws_suggest() -> None:
    counts = np.arange(17)
    expected = [norm.ppf(beta.ppf(0.1, max(k, 12), 16 - max(k, 12) + 1)) for k in counts]
    np.testing.assert_allclose(radius_weights(counts), expected, rtol=1e-9)


def catrs_loss(network: nn.Module, method: CATRS) -> tuple[Any, Tensor]:
    """Return the loss of a batch, and the numbers of copies that it kept."""
    draws = Draws(generator(8), generator(8))
    batch = noisy_batch(X, Y, copies=M, sigma=SIGMA, epoch=0, draws=draws, survey=TARGET)
    terms = method.loss(network, batch)
    again = Draws(generator(8), generator(8))
    noise = noisy_batch(X, Y, copies=M, sigma=SIGMA, epoch=0, draws=again).noise
    right = (noisy_logits(network, X, noise).argmax(-1) == Y.unsqueeze(1)).double().mean(1)
    kept = torch.stack([again.uniform(X) < right for _ in range(M)]).sum(0).clamp(min=1)
    assert torch.equal(noise, batch.noise)
    return terms, kept


def test_the_loss_of_catrs_is_its_formula() -> None:
    network, method = linear(), CATRS(name="catrs", m=M, T=2, eps=0.5, lbd=2.0)
    terms, kept = catrs_loss(network, method)
    assert (kept == M).any()
    assert (kept < M).any()
    noise = noisy_batch(X, Y, copies=M, sigma=SIGMA, epoch=0, draws=Draws(generator(8), generator(8))).noise
    attacked = divergence_attack(network, X, noise, TARGET, eps=0.5, steps=2)
    p, q = (softmax(noisy_logits(network, X, at).detach().numpy(), axis=-1) for at in (noise, attacked))
    expected = 0.0
    for i, y in enumerate(Y.tolist()):
        expected += np.sort(-np.log(p[i][:, y]))[: int(kept[i])].sum() / M / IMAGES
        if kept[i] == M:
            t = TARGET[i].numpy()
            expected += 2.0 * max((t * np.log(t / row)).sum() for row in q[i]) / IMAGES
    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-9)


def test_how_many_copies_are_kept_is_binomial() -> None:
    draws, p = Draws(generator(9), generator(9)), torch.tensor([0.3, 0.8])
    images = torch.zeros(2, 1, 1, 1)
    kept = torch.stack([torch.stack([draws.uniform(images) < p for _ in range(M)]).sum(0) for _ in range(4000)])
    for share, counts in zip(p.tolist(), kept.T, strict=True):
        expected = np.array([math.comb(M, k) * share**k * (1 - share) ** (M - k) for k in range(M + 1)]) * 4000
        seen = torch.bincount(counts, minlength=M + 1).numpy()
        # Chi-square with four degrees of freedom is above 18.5 once in a thousand.
        assert ((seen - expected) ** 2 / expected).sum() < 18.5


def digits(images: int = 60) -> Dataset:
    whole = load_dataset(DigitsData())
    few = Split(whole.train.images[:images], whole.train.labels[:images], whole.train.index[:images])
    return Dataset("digits", 10, "none", few, whole.validation.evenly_spaced(20), whole.calibration, whole.test)


def spec(method: Any, **training: Any) -> ModelSpec:
    schedule = {"epochs": 4, "batch_size": 32, "lr": 0.05, **training}
    return ModelSpec(
        label="model",
        data=DigitsData(),
        architecture="digits_cnn",
        method=method,
        training=TrainingSpec(**schedule),
        train_sigma=0.25,
        seed=0,
    )


FOIL = ACRWeakness(name="acr_weakness", T=1, m=2, discard_epoch=1, discard_below=0.05, reweigh_every=2)
TAUGHT = CATRS(name="catrs", T=1, m=2, teacher_draws=5)


# An epoch of the teacher (t), a survey (s), an epoch of the training (e).
@pytest.mark.parametrize(("method", "steps"), [(FOIL, "eseese"), (TAUGHT, "ttttseeee")], ids=["acr_weakness", "catrs"])
def test_training_goes_on_bit_for_bit_where_it_was_and_teaches_and_surveys_nothing_again(
    method: Any, steps: str
) -> None:
    states: list[Any] = []
    data = digits()

    def keep(state: Any) -> None:
        states.append(copy.deepcopy(state))

    whole = fit(spec(method), data, on_epoch=keep, on_survey=keep)
    assert len(states) == len(steps)
    for at, state in enumerate(states):
        assert state["epoch"] == steps[: at + 1].count("e")
        made: list[str] = []
        rest = fit(
            spec(method),
            data,
            state=state,
            on_epoch=lambda _, made=made: made.append("e"),
            on_survey=lambda now, made=made: made.append("s" if now["teacher"] is None else "t"),
        )
        assert "".join(made) == steps[at + 1 :]
        assert [entry["loss"] for entry in rest.history] == [entry["loss"] for entry in whole.history]
        for one, other in zip(whole.network.parameters(), rest.network.parameters(), strict=True):
            assert torch.equal(one, other)
        # An image is seen once an epoch, and a teacher's passes are counted.
        assert whole.passes == rest.passes <= 60 * spec(method).passes_per_image


def test_passes_of_an_epoch_are_those_that_it_makes() -> None:
    assert [FOIL.passes_in(epoch) for epoch in range(3)] == [2, 4, 4]
    assert spec(FOIL).passes_per_image == 2 + 3 * 4
    assert spec(TAUGHT).passes_per_image == 4 * (1 + 2) * 2 + 4


def test_a_training_that_discards_all_images_ends_with_the_reason() -> None:
    fitted = fit(spec(FOIL.model_copy(update={"discard_below": 1.0}), lr=1e-6), digits())
    assert (fitted.status, len(fitted.history)) == ("collapsed", 1)
    assert fitted.message == "has no training image left in epoch 2; discard fewer of them, or later"


@pytest.mark.parametrize("method", [FOIL, TAUGHT], ids=lambda method: method.name)
def test_images_that_are_files_are_refused_before_anything_is_trained(method: Any) -> None:
    labels = torch.arange(4)
    train = FileSplit(ImageFiles(("nowhere.png",) * 4, (1, 8, 8), None), labels, labels)
    data, begun = replace(digits(), train=train), list[Any]()
    with pytest.raises(ModelError, match="looks at all training images between epochs; it needs them in memory"):
        fit(spec(method), data, on_epoch=begun.append)
    assert not begun
