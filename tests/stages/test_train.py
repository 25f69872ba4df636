"""Training with a store: what is finished stays, what was cut off goes on."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import ray.tune
import torch
from PIL import Image
from torch import nn

from rspipe.data.files import FileSplit, Step
from rspipe.data.sources import load_dataset
from rspipe.data.spec import ImageFolderData
from rspipe.data.splits import Dataset
from rspipe.errors import ClusterError, DataError, ModelError
from rspipe.execution.board import Progress
from rspipe.execution.resources import Cluster, Node, Resources
from rspipe.networks.architectures import ARCHITECTURES, Builder
from rspipe.networks.normalization import normalization
from rspipe.networks.small_images import digits_cnn
from rspipe.records import Trial
from rspipe.search.space import Parameters
from rspipe.search.spec import SearchSpec
from rspipe.search.trials import judged_trial, trial_parameters
from rspipe.stages import checkpoints, trials
from rspipe.stages.decoding import streamed
from rspipe.stages.train import train_models, train_one
from rspipe.stages.trials import run_trial
from rspipe.storage.classifiers import trained_network
from rspipe.storage.files import read_content, write_record
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.training.fitting import State, fit
from rspipe.training.methods.catrs import CATRS
from rspipe.training.spec import ModelSpec

TINY = Path(__file__).parents[1] / "tiny.toml"
CPU = torch.device("cpu")
# Leaves 177 images to train on, two steps an epoch or more, and few to validate on.
FEW_IMAGES = "data={name='digits', validation=20, calibration=200, test=1400}"


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return load_study(TINY, overrides=[FEW_IMAGES])


@pytest.fixture(scope="module")
def data(study: StudyConfig) -> Dataset:
    return load_dataset(study.data)


class CutOffError(Exception):
    """Stands for the end of a process."""


def end_after_two(state: State) -> None:
    """End before the third epoch's checkpoint is written."""
    if state["epoch"] == 3:
        raise CutOffError


@pytest.mark.parametrize("position", [0, 2, 3], ids=["gaussian", "macer", "smoothadv"])
def test_training_goes_on_from_the_checkpoint_on_disk_with_the_same_bits(
    position: int, study: StudyConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    spec = study.model_specs[position]
    whole = Store(tmp_path / "whole")
    reference = train_one(whole, spec, data)
    cut = Store(tmp_path / "cut")

    with pytest.raises(CutOffError):
        train_one(cut, spec, data, on_epoch=lambda epoch: end_after_two({"epoch": epoch}))
    assert cut.trained_model(spec.id) is None
    assert cut.checkpoint(spec.id)["epoch"] == 2
    seen: list[int] = []
    resumed = train_one(cut, spec, data, on_epoch=seen.append, on_resume=lambda epoch: seen.append(-epoch))
    assert seen == [-2, 3, 4]
    ours, theirs = cut.parameters(spec.id), whole.parameters(spec.id)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.checksum == reference.checksum
    assert resumed.passes == reference.passes
    assert [entry["loss"] for entry in resumed.history] == [entry["loss"] for entry in reference.history]
    assert not (cut.model_dir(spec.id) / "checkpoint.pt").is_file()


def test_a_teacher_that_has_learned_is_on_disk_before_it_is_asked(
    study: StudyConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    spec = study.model_specs[0].model_copy(update={"method": CATRS(name="catrs", T=1, m=2, teacher_draws=5)})
    reference, store = train_one(Store(tmp_path / "whole"), spec, data), Store(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(CATRS, "survey", MagicMock(side_effect=CutOffError))
        with pytest.raises(CutOffError):
            train_one(store, spec, data)
    state = store.checkpoint(spec.id)
    assert (state["epoch"], state["teacher"]["epoch"]) == (0, spec.training.epochs)
    assert train_one(store, spec, data).checksum == reference.checksum


def test_a_finished_model_is_not_trained_again(study: StudyConfig, data: Dataset, tmp_path: Path) -> None:
    store, spec = Store(tmp_path), study.model_specs[0]
    record = train_one(store, spec, data)

    def never(epoch: int) -> None:
        raise AssertionError(f"epoch {epoch} of a finished model")

    assert train_one(store, spec, data, on_epoch=never) == record


def test_the_normalization_is_part_of_the_record_and_comes_back_with_the_network(
    study: StudyConfig, data: Dataset, tmp_path: Path
) -> None:
    store, spec = Store(tmp_path), study.model_specs[0]
    assert train_one(store, spec, data).normalization == ((0.5,), (0.5,))
    cpu = torch.device("cpu")
    assert normalization(trained_network(store, spec.id, classes=10, device=cpu)) == ((0.5,), (0.5,))
    path = store.model_dir(spec.id) / "model.json"
    write_record(path, {**read_content(path), "normalization": [[0.5], [0.25]], "answers": None})
    assert store.existing_model(spec.id).normalization == ((0.5,), (0.25,))
    assert normalization(trained_network(store, spec.id, classes=10, device=cpu)) == ((0.5,), (0.25,))


def test_a_network_that_can_no_longer_normalize_as_it_did_is_refused(
    study: StudyConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spec = Store(tmp_path), study.model_specs[0]
    train_one(store, spec, data)
    monkeypatch.setitem(ARCHITECTURES, spec.architecture, ARCHITECTURES["lenet"])
    with pytest.raises(
        ModelError, match=r"parameters do not fit digits_cnn with 10 classes .*; it has changed since they were trained"
    ):
        trained_network(store, spec.id, classes=10, device=CPU)


def with_another_activation(classes: int) -> nn.Module:
    """Return a network of the same parameters that is another function."""
    network = digits_cnn(classes)
    network[2] = nn.LeakyReLU()
    return network


def test_code_that_has_changed_since_a_model_was_trained_is_refused(
    study: StudyConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spec = Store(tmp_path), study.model_specs[0]
    train_one(store, spec, data)
    trained_network(store, spec.id, classes=10, device=CPU)
    monkeypatch.setitem(ARCHITECTURES, spec.architecture, with_another_activation)
    with pytest.raises(ModelError, match="with its parameters digits_cnn is another function than the one that was"):
        trained_network(store, spec.id, classes=10, device=CPU)


@pytest.mark.parametrize("changed", [with_another_activation, ARCHITECTURES["digits_mlp"]])
def test_code_that_has_changed_since_a_training_was_cut_off_is_refused(
    changed: Builder, study: StudyConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    store, spec = Store(tmp_path), study.model_specs[0]
    with pytest.raises(CutOffError):
        train_one(store, spec, data, on_epoch=lambda epoch: end_after_two({"epoch": epoch}))
    monkeypatch.setitem(ARCHITECTURES, spec.architecture, changed)
    with pytest.raises(ModelError, match="was interrupted, and digits_cnn is another function than then"):
        train_one(store, spec, data)


def test_a_model_that_diverges_is_recorded_as_such(study: StudyConfig, data: Dataset, tmp_path: Path) -> None:
    spec = study.model_specs[0]
    wild = ModelSpec.model_validate({**spec.model_dump(), "training": {**spec.training.model_dump(), "lr": 1e30}})
    record = train_one(Store(tmp_path), wild, data)
    assert record.status == "diverged"
    assert "lower lr" in record.message
    assert Store(tmp_path).trained_model(wild.id) is not None


def test_a_trial_is_reproducible_and_a_finished_one_is_kept(study: StudyConfig, tmp_path: Path) -> None:
    (search,) = study.search_specs
    parameters, store = trial_parameters(search)[2], Store(tmp_path)
    first = run_trial(store, search, 2, parameters, device=CPU)
    again = run_trial(store, search, 2, parameters, device=CPU)
    assert (first.parameters, first.objective, first.noisy_accuracy) == (
        again.parameters,
        again.objective,
        again.noisy_accuracy,
    )
    assert store.trials(search.id) == ()
    store.save_trial(first)
    assert run_trial(store, search, 2, {}, device=CPU) == first


def test_a_trial_that_was_cut_off_goes_on_with_the_same_bits_and_reports_again_how_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    (search,) = load_study(TINY, overrides=[FEW_IMAGES, "search.0.trial_epochs=4"]).search_specs
    # Epochs of some methods cost more than others.
    monkeypatch.setattr(type(search.method), "passes_in", lambda method, epoch: method.passes_per_image * (1 + epoch))
    parameters, store = trial_parameters(search)[1], Store(tmp_path)
    states: list[State] = []

    def losses() -> list[object]:
        return [(one["epoch"], one["passes"], [entry["loss"] for entry in one["history"]]) for one in states]

    whole = run_trial(Store(tmp_path / "whole"), search, 1, parameters, device=CPU, on_epoch=states.append)
    undisturbed = losses()
    with pytest.raises(CutOffError):
        run_trial(store, search, 1, parameters, device=CPU, on_epoch=end_after_two)
    states.clear()
    resumed = run_trial(store, search, 1, parameters, device=CPU, on_epoch=states.append)
    assert replace(resumed, seconds=whole.seconds) == whole
    assert losses() == undisturbed
    assert ["network" in one for one in states] == [False, False, True, True]
    assert store.trial_checkpoint(search.id, parameters) is not None
    store.save_trial(resumed)
    assert [path.name for path in (tmp_path / "search" / search.id).iterdir()] == ["trial-1.json"]


InTune = Callable[[Store, SearchSpec, Parameters], tuple[MagicMock, Trial]]


@pytest.fixture
def in_tune(monkeypatch: pytest.MonkeyPatch) -> InTune:
    """Return a function that runs a trial as Tune does; the board that it wrote to, and the trial."""
    reports = list[dict[str, object]]()
    monkeypatch.setattr(trials, "set_deterministic", lambda: None)
    monkeypatch.setattr(trials, "keep_freed_memory", lambda: None)
    # This process is no actor of Ray's that could be replaced.
    monkeypatch.setattr(trials, "held_by_this_worker", MagicMock())
    monkeypatch.setattr(ray.tune, "report", reports.append)

    def run(store: Store, search: SearchSpec, parameters: Parameters) -> tuple[MagicMock, Trial]:
        board, work = MagicMock(), trials.Work(which=0, index=1, piece=0, parameters=parameters)
        given: dict[str, Any] = {"run_dir": str(store.run_dir), "resources": Resources(), "decoders": 2, "board": board}
        trials.run_in_tune({"work": work}, searches=[search], **given)
        return board, Trial.from_json(json.loads(str(reports[-1]["record"])))

    return run


def test_a_trial_that_goes_on_in_tune_tells_the_board_what_its_checkpoint_held(
    in_tune: InTune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
    (search,) = load_study(TINY, overrides=[FEW_IMAGES, "search.0.trial_epochs=4"]).search_specs
    parameters, store = trial_parameters(search)[1], Store(tmp_path)
    write_record(store.run_dir / "study.json", {})
    with pytest.raises(CutOffError):
        run_trial(store, search, 1, parameters, device=CPU, on_epoch=end_after_two)
    board, _ = in_tune(store, search, parameters)
    assert [call.args for call in board.resume.remote.call_args_list] == [(0, 0.2), (0, 0.4)]
    assert [call.args[1] for call in board.update.remote.call_args_list] == [0.6, 0.8]


def test_a_trial_whose_values_do_not_fit_together_is_invalid_in_tune(
    in_tune: InTune, study: StudyConfig, tmp_path: Path
) -> None:
    (search,) = study.search_specs
    write_record(Store(tmp_path).run_dir / "study.json", {})
    _, trial = in_tune(Store(tmp_path), search, {"m": 1000})
    assert (trial.status, trial.passes) == ("invalid", 0)
    assert "m = 1000 does not fit into batch_size = 64" in trial.message


@pytest.fixture
def pictures(tmp_path: Path, study: StudyConfig) -> ModelSpec:
    """Return a model that trains on random parts of pictures in folders."""
    generator = np.random.default_rng(0)
    for part, each in (("train", 12), ("test", 1)):
        for label in range(10):
            folder = tmp_path / "pictures" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(each):
                pixels = generator.integers(0, 256, (12, 10 + number), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02}.png")
    data = ImageFolderData(
        name="image_folder",
        title="pictures",
        folder=str(tmp_path / "pictures"),
        size=8,
        mode="L",
        augment="resized_crop_flip",
        validation=10,
        calibration=10,
    )
    spec = study.model_specs[3]
    training = spec.training.model_copy(update={"epochs": 2, "batch_size": 44})
    return spec.model_copy(update={"data": data, "training": training})


def test_images_that_the_cluster_decodes_train_the_same_bits(pictures: ModelSpec, cluster: Cluster) -> None:
    del cluster
    data = load_dataset(pictures.data)
    here = fit(pictures, data)
    streams = fit(pictures, data, pixels=partial(streamed, decoders=2))
    ours, theirs = streams.network.state_dict(), here.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [entry["loss"] for entry in streams.history] == [entry["loss"] for entry in here.history]


def searched(pictures: ModelSpec, study: StudyConfig, run_dir: Path) -> tuple[SearchSpec, Store]:
    """Return a search on pictures, and a store for it."""
    (search,) = study.search_specs
    training = search.training.model_copy(update={"epochs": 1, "batch_size": 44})
    run_dir.mkdir()
    (run_dir / "study.json").write_text("{}")
    return search.model_copy(update={"data": pictures.data, "training": training, "trials": 2}), Store(run_dir)


def test_a_trial_in_tune_trains_on_images_that_the_cluster_decodes(
    pictures: ModelSpec,
    study: StudyConfig,
    cluster: Cluster,
    in_tune: InTune,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del cluster
    search, store = searched(pictures, study, tmp_path / "run")
    (first, *_) = trial_parameters(search)
    numbers = list[int]()

    def counted(split: FileSplit, steps: Sequence[Step], *, decoders: int) -> Iterator[torch.Tensor]:
        numbers.append(decoders)
        return streamed(split, steps, decoders=decoders)

    monkeypatch.setattr(trials, "streamed", counted)
    _, trial = in_tune(store, search, first)
    assert numbers == [2]
    alone = judged_trial(search, 1, first, load_dataset(pictures.data))
    assert alone.status == "finished"
    assert replace(trial, seconds=alone.seconds) == alone


def test_an_unreadable_image_is_named_by_who_trains(pictures: ModelSpec, cluster: Cluster) -> None:
    del cluster
    data = load_dataset(pictures.data)
    assert isinstance(data.train, FileSplit)
    broken = Path(data.train.some(torch.tensor([3])).paths[0])
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=rf"{broken}: not a readable image"):
        fit(pictures, data, pixels=partial(streamed, decoders=1))


def test_two_workers_that_share_a_model_and_its_stream_have_the_losses_of_one(
    pictures: ModelSpec, cluster: Cluster, tmp_path: Path
) -> None:
    store = Store(tmp_path / "run")
    (store.run_dir / "study.json").write_text("{}")
    shared = replace(cluster, resources=replace(cluster.resources, workers_per_model=2))
    seen: list[Progress] = []
    (record,) = train_models(store, [pictures], cluster=shared, on_progress=seen.append)
    alone = fit(pictures, load_dataset(pictures.data))
    assert record.status == "finished"
    assert record.passes == alone.passes
    for ours, theirs in zip(record.history, alone.history, strict=True):
        # Rounding in float32 grows by a factor of some hundred over six steps; noise of another draw would change
        # the loss by a tenth.
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert seen[-1].done == 1
    assert (store.model_dir(pictures.id) / "checkpoint.pt").is_file() is False


def test_more_workers_for_a_model_than_images_in_a_step_are_refused_before_anything_is_trained(
    study: StudyConfig, tmp_path: Path
) -> None:
    many = Cluster("local", (Node(100, 0),), Resources(workers_per_model=40))
    with pytest.raises(ClusterError, match=r"'smoothadv': a step has 32 images for .*workers-per-model = 40; lower"):
        train_models(Store(tmp_path), study.model_specs, cluster=many, on_progress=lambda _: None)


def test_workers_come_in_whole_groups_and_decoders_take_what_they_leave() -> None:
    def of(cpus: float, **resources: int | float) -> Cluster:
        return Cluster("local", (Node(cpus, 0),), Resources(**resources))  # type: ignore[arg-type]

    assert of(7, workers_per_model=2).trainers(100) == 6
    assert of(7, workers_per_model=2).trainers(1) == 2
    assert of(7).trainers(3) == 3
    assert of(8, workers_per_model=2).decoders(4) == 2
    assert of(2).decoders(2) == 1
    assert of(2, decoders=5).decoders(2) == 5
    with pytest.raises(ClusterError, match="workers-per-model = 4 but no more than 3 workers fit"):
        of(3, workers_per_model=4).trainers(9)
