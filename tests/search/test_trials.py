"""The points of a search and its objective."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, kstest, norm
from torch import Tensor, nn

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.data.splits import Dataset, Split
from rspipe.search.domains import Choice, Range
from rspipe.search.spec import SearchSpec
from rspipe.search.trials import (
    judged_trial,
    stopped_trial,
    trial_parameters,
    trial_spec,
    validation_credit,
)
from rspipe.smoothing.noise import Stream
from rspipe.stages import trials
from rspipe.training.fitting import State, fit
from rspipe.training.methods.advmacer import AdvMacer
from rspipe.training.methods.smoothmix import SmoothMix
from rspipe.training.spec import TrainingSpec
from tests.noise_builder import noise_block

OWN = {"lbd": 2.5, "T": 2, "m": 4}


def search(space: dict[str, Range | Choice] | None = None, **changes: Any) -> SearchSpec:
    default: dict[str, Range | Choice] = {
        "lbd": Range(low=0.5, high=8.0, log=True),
        "T": Range(low=1, high=3),
        "m": Choice(choices=(2, 4, 8)),
    }
    content = {
        "label": "tuned",
        "data": DigitsData(),
        "architecture": "digits_cnn",
        "method": AdvMacer(name="advmacer", eps=0.25, **OWN),
        "training": TrainingSpec(epochs=3),
        "sigma": 0.5,
        "space": default if space is None else space,
        "trials": 8,
        "seed": 0,
        "n": 100,
        "alpha": 0.001,
    }
    return SearchSpec(**{**content, **changes})


def values(name: str, domain: Range | Choice, *, count: int = 512, seed: int = 0) -> list[float | int]:
    """The values of one hyper-parameter in all trials but the first."""
    return [drawn[name] for drawn in trial_parameters(search({name: domain}, trials=count, seed=seed))[1:]]


def test_trial_zero_has_the_settings_of_the_study_file() -> None:
    assert trial_parameters(search())[0] == OWN


@pytest.mark.parametrize("trials", [2, 3, 4, 5, 8, 9, 33])
def test_there_are_as_many_trials_as_asked_for(trials: int) -> None:
    assert len(trial_parameters(search(trials=trials))) == trials


@pytest.mark.parametrize("fewer", [2, 3, 4, 5, 8, 9, 16, 17])
def test_a_trial_does_not_depend_on_the_number_of_trials(fewer: int) -> None:
    assert trial_parameters(search(trials=fewer)) == trial_parameters(search(trials=40))[:fewer]


def test_trials_depend_on_the_seed_alone() -> None:
    np.random.default_rng(1)
    assert trial_parameters(search()) == trial_parameters(search())
    assert trial_parameters(search(seed=1))[1:] != trial_parameters(search())[1:]


def test_trials_do_not_depend_on_the_order_of_the_space() -> None:
    space = search().space
    turned = dict(reversed(space.items()))
    assert list(turned) != list(space)
    assert trial_parameters(search(turned)) == trial_parameters(search())


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1 + 1e-9, 1e6),
    log=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_values_lie_in_their_range(low: float, factor: float, log: bool, seed: int) -> None:
    domain = Range(low=low, high=low * factor, log=log)
    assert all(domain.low <= value <= domain.high for value in values("lbd", domain, count=8, seed=seed))


@given(low=st.integers(1, 20), width=st.integers(1, 50), log=st.booleans(), seed=st.integers(0, 2**32))
def test_whole_numbers_lie_in_their_range_and_stay_whole(low: int, width: int, log: bool, seed: int) -> None:
    drawn = values("T", Range(low=low, high=low + width, log=log), count=8, seed=seed)
    assert all(isinstance(value, int) and low <= value <= low + width for value in drawn)


def test_whole_numbers_are_equally_likely_ends_included() -> None:
    drawn = values("T", Range(low=1, high=4), count=513)
    # 512 points of a Sobol sequence fill every quarter equally.
    assert [drawn.count(value) for value in (1, 2, 3, 4)] == [128] * 4


def test_a_range_is_filled_uniformly() -> None:
    drawn = np.array(values("lbd", Range(low=2.0, high=6.0), count=513))
    assert kstest((drawn - 2) / 4, "uniform").statistic < 0.01


def test_a_logarithmic_range_is_filled_uniformly_in_the_logarithm() -> None:
    drawn = np.array(values("lbd", Range(low=0.01, high=100.0, log=True), count=513))
    assert kstest(np.log(drawn / 0.01) / math.log(1e4), "uniform").statistic < 0.01


def test_choices_are_equally_likely() -> None:
    drawn = values("m", Choice(choices=(2, 4, 8, 16)), count=513)
    assert [drawn.count(value) for value in (2, 4, 8, 16)] == [128] * 4


def test_two_hyper_parameters_vary_independently() -> None:
    space: dict[str, Range | Choice] = {"T": Range(low=1, high=2), "m": Choice(choices=(2, 4))}
    drawn = trial_parameters(search(space, trials=513))[1:]
    counts = [sum(d == {"T": t, "m": m} for d in drawn) for t, m in itertools.product((1, 2), (2, 4))]
    assert counts == [128] * 4


def test_a_trial_trains_the_method_with_its_values_and_all_else_as_in_the_search() -> None:
    of = search()
    spec = trial_spec(of, {"lbd": 7.0, "m": 8})
    assert spec.method == AdvMacer(name="advmacer", eps=0.25, lbd=7.0, T=2, m=8)
    assert (spec.data, spec.architecture, spec.training) == (of.data, of.architecture, of.training)
    assert (spec.train_sigma, spec.seed) == (of.sigma, of.seed)


@pytest.mark.parametrize("common", [False, True])
def test_no_model_of_the_winner_draws_what_the_trials_drew(common: bool) -> None:
    of = search(training=TrainingSpec(epochs=3, common_seeds=common))
    trial = trial_spec(of, {"lbd": 7.0, "m": 8})
    winner = trial.model_copy(update={"label": of.label, "training": of.training})
    assert trial.training_seed != winner.training_seed


@pytest.mark.parametrize("trial", range(8))
def test_every_trial_can_be_trained(trial: int) -> None:
    of = search()
    trial_spec(of, trial_parameters(of)[trial])


def split(images: Tensor, labels: list[int]) -> Split:
    return Split(images, torch.tensor(labels), torch.arange(len(labels)) + 17)


class Constant(nn.Module):
    """Always class 1 of 3."""

    def forward(self, batch: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 0.0]).expand(len(batch), -1)


def test_a_classifier_that_is_always_right_has_the_largest_radius_that_n_allows() -> None:
    of = search(n=300, alpha=0.01)
    acr = validation_credit(Constant(), split(torch.zeros(4, 1, 2, 2), [1, 1, 1, 1]), of).mean()
    assert acr == pytest.approx(0.5 * norm.ppf(0.01 ** (1 / 300)))


def test_images_with_a_wrong_prediction_count_zero() -> None:
    of = search(n=300, alpha=0.01)
    acr = validation_credit(Constant(), split(torch.zeros(4, 1, 2, 2), [1, 0, 2, 1]), of).mean()
    assert acr == pytest.approx(0.5 * norm.ppf(0.01 ** (1 / 300)) / 2)


@pytest.mark.parametrize("n", [100, 500, 1200])
def test_the_objective_is_the_acr_of_certify_on_streams_of_its_own(n: int) -> None:
    of, weight = search(n=n, seed=3), torch.tensor([1.0, -2.0, 0.5])
    network = nn.Linear(3, 2)
    with torch.no_grad():
        network.weight.copy_(torch.stack([weight, torch.zeros(3)]))
        network.bias.zero_()
    images = 0.6 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    labels = (images @ weight < 0).long()
    labels[:3] = 1 - labels[:3]

    def count(image: Tensor, example: int, stream: Stream, size: int, total: int) -> int:
        """How often the first class wins."""
        blocks = [
            noise_block((size, 3), seed=3, example=example, stream=stream, block=b) for b in range(-(-total // size))
        ]
        noisy = image + 0.5 * torch.cat(blocks)[:total]
        return int((noisy @ weight >= 0).sum())

    radii = []
    for example, (image, label) in enumerate(zip(images, labels.tolist(), strict=True), start=17):
        selected = int(count(image, example, Stream.SEARCH_SELECTION, 100, 100) < 50)
        first = count(image, example, Stream.SEARCH_ESTIMATION, 1000, n)
        k = first if selected == 0 else n - first
        bound = beta.ppf(0.001, k, n - k + 1)
        radii.append(0.5 * norm.ppf(bound) if bound >= 0.5 and selected == label else 0.0)
    assert sum(radius > 0 for radius in radii) >= 4
    acr = validation_credit(network, Split(images, labels, torch.arange(12) + 17), of).mean()
    assert acr == pytest.approx(np.mean(radii), rel=1e-9)


def test_the_objective_leaves_the_network_in_its_mode() -> None:
    network = Constant().train()
    validation_credit(network, split(torch.zeros(1, 1, 2, 2), [1]), search())
    assert network.training


class Untouchable(Split):
    """A split that nothing may look into."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"the search read {name} of a split that it must not see")


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Small splits of digits; calibration and test fail whoever looks into them."""
    whole = load_dataset(DigitsData(validation=30))
    hidden = Untouchable(whole.test.images, whole.test.labels, whole.test.index)
    with pytest.raises(AssertionError, match="the search read images"):
        _ = hidden.images
    return replace(whole, train=whole.train.evenly_spaced(256), calibration=hidden, test=hidden)


SHORT = {"training": TrainingSpec(epochs=2, batch_size=32, lr=0.05), "n": 50, "alpha": 0.01}


def test_a_trial_reads_neither_the_test_nor_the_calibration_images(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a worker gets the data, too.
    monkeypatch.setattr(trials, "load_dataset", lambda _: data)
    trials.searched_data.cache_clear()
    seen = trials.searched_data(DigitsData(validation=30), torch.device("cpu"))
    trials.searched_data.cache_clear()
    trial = judged_trial(search(**SHORT), 0, {"lbd": 1.0, "m": 2}, seen)
    assert trial.status == "finished"


def test_a_trial_is_judged_by_the_acr_on_validation_images_with_its_standard_error(data: Dataset) -> None:
    of, parameters = search(**SHORT), {"lbd": 1.0, "m": 2}
    trial = judged_trial(of, 4, parameters, data)
    result = fit(trial_spec(of, parameters), data)
    credit = validation_credit(result.network, data.validation, of)
    assert trial.objective == credit.mean() > 0
    assert trial.error == pytest.approx(credit.std(ddof=1) / math.sqrt(30), rel=1e-12)
    assert trial.accuracy == np.mean(credit > 0)
    assert (trial.index, trial.parameters, trial.epochs, trial.passes) == (4, parameters, 2, result.passes)
    assert trial.watched == {"1": result.history[0]["validation_acr"], "2": result.history[1]["validation_acr"]}


def test_a_trial_that_diverges_is_recorded_as_such_without_an_objective(data: Dataset) -> None:
    trial = judged_trial(
        search(**SHORT, space={"training.lr": Range(low=0.1, high=1e30)}), 1, {"training.lr": 1e30}, data
    )
    assert (trial.status, trial.objective, trial.error, trial.accuracy) == ("diverged", 0.0, None, 0.0)
    assert "lower lr" in trial.message


def test_a_trial_whose_values_do_not_fit_together_is_invalid_and_trains_nothing(data: Dataset) -> None:
    space: dict[str, Range | Choice] = {"T": Range(low=1, high=4), "mix_step": Range(low=0, high=3)}
    of = search(space, method=SmoothMix(name="smoothmix"), **SHORT)
    trial = judged_trial(of, 1, {"T": 2, "mix_step": 3}, data)
    assert (trial.status, trial.passes, trial.objective) == ("invalid", 0, 0.0)
    assert "mix_step = 3 must be below T = 2" in trial.message
    big = judged_trial(search(**SHORT), 1, {"m": 64}, data)
    assert (big.status, big.message) == ("invalid", "'tuned_trial': m = 64 does not fit into batch_size = 32; "
                                         "raise training.batch_size or lower m")  # fmt: skip


def test_a_stopped_trial_is_recorded_with_what_it_cost(data: Dataset) -> None:
    of, states = search(**SHORT), list[State]()
    whole = judged_trial(of, 3, {"m": 2}, data, on_epoch=states.append)
    stopped = stopped_trial(of, 3, {"m": 2}, states[0])
    assert (stopped.status, stopped.objective, stopped.epochs, stopped.error) == ("stopped", 0.0, 1, None)
    assert stopped.passes == whole.passes / 2
    assert stopped.watched == {"1": whole.watched["1"]}
