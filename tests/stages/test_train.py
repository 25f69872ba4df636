"""Training with a store: what is finished stays, what was cut off goes on."""

from pathlib import Path

import pytest
import torch

from rspipe.datasets import Dataset, load_dataset
from rspipe.stages import train
from rspipe.stages.search import run_trial
from rspipe.stages.store import Store
from rspipe.stages.train import train_one
from rspipe.study import ModelSpec, StudyConfig, load_study

TINY = Path(__file__).parent / "tiny.toml"


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return load_study(TINY)


@pytest.fixture(scope="module")
def data(study: StudyConfig) -> Dataset:
    return load_dataset(study.data)


class CutOffError(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("position", [0, 2, 3], ids=["gaussian", "macer", "smoothadv"])
def test_training_goes_on_from_the_checkpoint_on_disk_with_the_same_bits(
    position: int, study: StudyConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_CHECKPOINT_SECONDS", 0.0)
    spec = study.model_specs[position]
    whole = Store(tmp_path / "whole")
    reference = train_one(whole, spec, data)
    cut = Store(tmp_path / "cut")

    def end_after_two(epoch: int) -> None:
        # The checkpoint of the second epoch is written after this returns; that of the third never is.
        if epoch == 3:
            raise CutOffError

    with pytest.raises(CutOffError):
        train_one(cut, spec, data, on_epoch=end_after_two)
    assert cut.trained_model(spec.id) is None
    assert cut.checkpoint(spec.id)["epoch"] == 2
    seen: list[int] = []
    resumed = train_one(cut, spec, data, on_epoch=seen.append)
    assert seen == [3, 4]
    ours, theirs = cut.parameters(spec.id), whole.parameters(spec.id)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.checksum == reference.checksum
    assert resumed.passes == reference.passes
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in reference.history]
    assert not (cut.model_dir(spec.id) / "checkpoint.pt").exists()


def test_a_finished_model_is_not_trained_again(study: StudyConfig, data: Dataset, tmp_path: Path) -> None:
    store, spec = Store(tmp_path), study.model_specs[0]
    record = train_one(store, spec, data)

    def never(epoch: int) -> None:
        raise AssertionError(f"epoch {epoch} of a finished model")

    assert train_one(store, spec, data, on_epoch=never) == record


def test_a_model_that_diverges_is_recorded_as_such(study: StudyConfig, data: Dataset, tmp_path: Path) -> None:
    spec = study.model_specs[0]
    wild = ModelSpec.model_validate({**spec.model_dump(), "training": {**spec.training.model_dump(), "lr": 1e30}})
    record = train_one(Store(tmp_path), wild, data)
    assert record.status == "diverged"
    assert "lower lr" in record.message
    assert Store(tmp_path).trained_model(wild.id) is not None


def test_a_trial_is_reproducible_and_a_finished_one_is_kept(study: StudyConfig, tmp_path: Path) -> None:
    (search,) = study.search_specs
    first = run_trial(Store(tmp_path / "a"), search, 2, gpus=0.0)
    again = run_trial(Store(tmp_path / "b"), search, 2, gpus=0.0)
    assert (first.parameters, first.objective, first.noisy_accuracy) == (
        again.parameters,
        again.objective,
        again.noisy_accuracy,
    )
    assert run_trial(Store(tmp_path / "a"), search, 2, gpus=0.0) == first
