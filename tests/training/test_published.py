"""Checkpoints as models of a study: identified by their content, loaded as published, refused in one line."""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rspipe.data.sources import load_dataset
from rspipe.data.spec import DigitsData
from rspipe.errors import ModelError, StudyError
from rspipe.networks.architectures import CODE_FOLDERS, build_network
from rspipe.networks.checkpoints import file_digest
from rspipe.networks.modes import evaluating
from rspipe.networks.normalization import Normalization, Normalize, normalization, set_normalization
from rspipe.stages.train import train_one
from rspipe.storage.classifiers import trained_network
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from rspipe.training.published import load_published_model
from rspipe.training.spec import LoadedModelSpec

DATA = load_dataset(DigitsData())
STUDY = """
name = "published"
architecture = "digits_cnn"

[training]
epochs = 1

[[models]]
method = { name = "gaussian" }
sigma = 0.25
seeds = [0]

[[models]]
label = "cohen"
checkpoint = { file = "zero.pth.tar", normalization = "architecture" }
sigma = 0.25
seeds = [0]

[[models]]
label = "cohen"
checkpoint = { file = "one.pth.tar", normalization = "none", clean_accuracy = 0.1, tolerance = 1.0 }
sigma = 0.25
seeds = [1]

[[ensembles]]
members = "cohen x2"

[[ensembles]]
members = "gaussian x1 + cohen x1"
"""


def network(seed: int, *, to: Normalization = "architecture") -> nn.Module:
    """A network that knows the means of the classes, with a normalization."""
    made = build_network("digits_cnn", classes=10, seed=seed)
    set_normalization(made, to)
    return made.eval()


def publish(path: Path, made: nn.Module, **more: Any) -> None:
    """Write a checkpoint as Cohen et al. do."""
    torch.save({"epoch": 90, "arch": "digits_cnn", "state_dict": made.state_dict(), "optimizer": {}, **more}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a study file and two checkpoints."""
    publish(tmp_path / "zero.pth.tar", network(0))
    publish(tmp_path / "one.pth.tar", network(1))
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


def study(folder: Path, *overrides: str) -> StudyConfig:
    return load_study(folder / "study.toml", overrides=overrides)


def one(folder: Path, *overrides: str) -> LoadedModelSpec:
    """Return the checkpoint that is loaded without normalization."""
    return study(folder, *(f"models.2.checkpoint.{override}" for override in overrides)).model_specs[2]


def logits(of: nn.Module) -> Tensor:
    with evaluating(of):
        values: Tensor = of(DATA.test.images[:50])
    return values


def test_a_checkpoint_is_a_model_of_the_study_and_a_member_of_its_ensembles(folder: Path) -> None:
    config = study(folder)
    assert [(m.label, m.train_sigma, m.seed) for m in config.model_specs] == [
        ("gaussian", 0.25, 0),
        ("cohen", 0.25, 0),
        ("cohen", 0.25, 1),
    ]
    members = {spec.label: spec.members for spec in config.ensemble_specs(config.model_specs)}
    ids = [model.id for model in config.model_specs]
    assert members == {"cohen x2": (ids[1], ids[2]), "gaussian x1 + cohen x1": (ids[0], ids[1])}


def test_its_identity_is_the_content_of_the_file_and_how_it_is_normalized_and_nothing_else(folder: Path) -> None:
    before, spec = study(folder).id, one(folder)
    (folder / "elsewhere").mkdir()
    (folder / "one.pth.tar").rename(folder / "elsewhere" / "copy.pt")
    moved = "file='elsewhere/copy.pt'"
    # Neither how others are trained nor how it is checked is a property of it.
    assert one(folder, moved, "tolerance=0.5").id == spec.id
    path, other = folder / "study.toml", STUDY.replace("epochs = 1", "epochs = 2")
    path.write_text(other)
    assert one(folder, moved).id == spec.id
    path.write_text(STUDY)
    assert study(folder, f"models.2.checkpoint.{moved}").id == before
    assert one(folder, moved, "normalization='centre'").id != spec.id
    publish(folder / "one.pth.tar", network(2))
    assert one(folder).id != spec.id
    assert study(folder).id != before


def test_a_study_that_is_read_back_from_its_content_is_the_same(folder: Path) -> None:
    config = study(folder)
    content = config.model_dump(mode="json")
    assert str(folder) not in str(content)
    assert StudyConfig.model_validate(content).id == config.id


@pytest.mark.parametrize("to", ["architecture", "none", [[0.25], [2.0]]])
def test_what_is_loaded_gives_the_logits_of_what_was_published_also_from_the_store(
    folder: Path, to: Any, tmp_path: Path
) -> None:
    mean_std = to if isinstance(to, str) else (tuple(to[0]), tuple(to[1]))
    spec = one(folder, f"normalization={to}")
    expected = logits(network(1, to=mean_std))
    assert torch.equal(logits(load_published_model(spec, DATA).network), expected)
    store = Store(tmp_path / "run")
    record = train_one(store, spec, DATA)
    assert (record.status, record.passes, record.history, record.source) == ("finished", 0, (), "checkpoint")
    assert record.normalization == normalization(network(1, to=mean_std))
    assert torch.equal(logits(trained_network(store, spec.id, classes=10, device=torch.device("cpu"))), expected)
    # Finished is finished, also where the file is gone.
    (folder / "one.pth.tar").unlink()
    assert train_one(store, spec, DATA) == record


@pytest.mark.parametrize("kind", ["wrapped", "torchscript", "denoised"])
def test_a_network_of_any_kind_comes_back_from_the_store_as_it_was_loaded(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CODE_FOLDERS, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "kinds_of_nets.py").write_text(
        "from torch import nn\n"
        "def build(classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
        "def smooth(): return nn.Conv2d(1, 1, 3, padding=1)\n"
    )
    torch.manual_seed(0)
    plain, denoiser = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), nn.Conv2d(1, 1, 3, padding=1)
    expected = nn.Sequential(Normalize((0.3,), (0.4,)), plain).eval()
    architecture, file, more = "kinds_of_nets:build", "c.pt", ""
    if kind == "torchscript":
        architecture, file = "torchscript", "c.ts"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(plain).save(folder / file)
    else:
        torch.save({"state_dict": plain.state_dict()}, folder / file)
    if kind == "denoised":
        architecture, more = "kinds_of_nets:smooth + kinds_of_nets:build", ', denoiser = "d.pt"'
        torch.save(denoiser.state_dict(), folder / "d.pt")
        expected = nn.Sequential(denoiser, expected).eval()
    (folder / "study.toml").write_text(f"""
name = "kinds"
[[models]]
label = "a"
architecture = "{architecture}"
checkpoint = {{ file = "{file}", normalization = [[0.3], [0.4]]{more} }}
sigma = 0.25
seeds = [0]
""")
    with pytest.raises(StudyError, match=r"this runs code of .*; pass --allow-code"):
        load_study(folder / "study.toml")
    # The module lies beside the study file, and nowhere else that Python looks.
    (spec,) = load_study(folder / "study.toml", allow_code=True).model_specs
    assert isinstance(spec, LoadedModelSpec)
    store = Store(tmp_path / "run")
    train_one(store, spec, DATA)
    for loaded in (load_published_model(spec, DATA).network, stored(store, spec)):
        assert torch.equal(logits(loaded), logits(expected))
    for path in folder.glob("d.pt"):
        torch.save(nn.Conv2d(1, 1, 3, padding=1).state_dict(), path)
        assert load_study(folder / "study.toml", allow_code=True).model_specs[0].id != spec.id


def stored(store: Store, spec: LoadedModelSpec) -> nn.Module:
    return trained_network(store, spec.id, classes=10, device=torch.device("cpu"))


def test_the_file_is_the_one_that_the_study_was_made_with(folder: Path) -> None:
    spec = one(folder)
    publish(folder / "one.pth.tar", network(2))
    with pytest.raises(
        ModelError, match=rf"one.pth.tar: has changed .*; put back the file with {spec.checkpoint.sha256}"
    ):
        load_published_model(spec, DATA)
    (folder / "one.pth.tar").unlink()
    with pytest.raises(ModelError, match=r"one.pth.tar: cannot be read on .*No such file.*; put it where all nodes"):
        load_published_model(spec, DATA)


def test_a_study_file_may_say_which_content_it_expects(folder: Path) -> None:
    digest = file_digest(folder / "one.pth.tar")
    assert one(folder, f"sha256={digest}").id == one(folder).id
    before = one(folder).id
    (folder / "one.pth.tar").rename(folder / "gone")
    assert one(folder, f"sha256={digest}").id == before
    (folder / "gone").rename(folder / "one.pth.tar")
    with pytest.raises(
        StudyError, match=rf"models\[2\].checkpoint.sha256 = '0{{64}}', but .* has {digest}; it is another"
    ):
        one(folder, f"sha256={'0' * 64}")


class Code:
    """Executes something when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self._ran = ran

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._ran),)


def test_nothing_in_the_file_is_executed(folder: Path) -> None:
    publish(folder / "one.pth.tar", network(1), lr_scheduler=Code(folder / "ran"))
    spec = one(folder)
    with pytest.raises(ModelError, match="refused, for it holds more than tensors"):
        load_published_model(spec, DATA)
    assert not (folder / "ran").exists()


def test_the_clean_accuracy_that_was_published_finds_the_wrong_normalization(folder: Path) -> None:
    from rspipe.training.fitting import fit

    training = study(folder).model_specs[0]
    training = training.model_copy(update={"training": training.training.model_copy(update={"epochs": 8, "lr": 0.05})})
    trained = fit(training, DATA).network
    publish(folder / "one.pth.tar", trained)
    accuracy = float((trained(DATA.test.images).argmax(1) == DATA.test.labels).double().mean())
    assert accuracy > 0.7
    right, wrong = one(folder, "normalization='architecture'"), one(folder, "normalization=[[4.0], [0.5]]")
    assert load_published_model(right, DATA).message == ""
    doubt = load_published_model(wrong, DATA).message
    assert re.search(r"on 200 images is 0\.\d+, and would be 0\.[6-9]\d* with normalization = .*; the one", doubt)
    published = (f"clean_accuracy={accuracy:.3f}", "tolerance=0.01")
    load_published_model(one(folder, "normalization='architecture'", *published), DATA)
    shifted = one(folder, "normalization=[[4.0], [0.5]]", *published)
    with pytest.raises(ModelError, match=r"one.pth.tar: clean accuracy .*normalization='architecture' gives"):
        load_published_model(shifted, DATA)


def test_two_missing_files_are_not_the_same_one(folder: Path) -> None:
    with pytest.raises(StudyError, match="2 mistakes") as caught:
        study(folder, "models.1.checkpoint.file='no.pt'", "models.2.checkpoint.file='none.pt'")
    assert "twice" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "models.2.checkpoint.file='two.pth.tar'",
            r"models\[2\].checkpoint.file: .*two.pth.tar cannot be read \(No such file",
        ),
        ("models.2.checkpoint.file=''", r"models\[2\].checkpoint.file is missing; name the checkpoint"),
        ("models.2.checkpoint.file=3", r"models\[2\].checkpoint.file is missing; name the checkpoint"),
        ("models.2.checkpoint={file='one.pth.tar'}", r"models\[2\].checkpoint.normalization is missing"),
        (
            "models.2.checkpoint.normalization='cohen'",
            r"models\[2\].checkpoint.normalization = 'cohen' is no valid name; did you mean 'centre'",
        ),
        (
            "models.2.checkpoint.normalization=[[0.5], [0.0]]",
            r"models\[2\].checkpoint.normalization: mean and std must have",
        ),
        (
            "models.2.checkpoint.normalisation='none'",
            r"models\[2\].checkpoint: unknown key 'normalisation'; did you mean",
        ),
        ("models.2.seeds=[1, 2]", r"seeds = \[1, 2\]: a checkpoint is one model; give each an entry"),
        ("models.2.seeds=[0]", r"two entries are labelled 'cohen' at sigma 0.25; give one another label"),
        ("models.0.label='cohen'", r"two entries are labelled 'cohen' at sigma 0.25; give one another label"),
        # Seeds of a procedure are trained or loaded, not both.
        (
            "models.0={label='cohen', method={name='gaussian'}, sigma=0.25, seeds=[5]}",
            r"two entries are labelled 'cohen' at sigma 0.25; give one another label",
        ),
        (
            "models.2.checkpoint={file='zero.pth.tar', normalization='none'}",
            r"'cohen' at sigma 0.25 names the checkpoint '\S*zero.pth.tar' twice, as if it were two seeds; remove one",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(folder: Path, override: str, message: str) -> None:
    with pytest.raises(StudyError, match=message) as caught:
        study(folder, override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "to", "message"),
    [
        ("lenet", "none", "one.pth.tar: does not fit lenet with 10 classes: .*; the checkpoint is of another"),
        ("digits_cnn", "[[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]]", "one.pth.tar: normalization must have 1 channels"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(
    folder: Path, architecture: str, to: str, message: str
) -> None:
    spec = study(
        folder, f"models.2.architecture={architecture}", f"models.2.checkpoint.normalization={to}"
    ).model_specs[2]
    with pytest.raises(ModelError, match=message) as caught:
        load_published_model(spec, DATA)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_no_method_and_no_start_of_a_search(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"models\[0\].method: unknown method 'checkpoint'; valid names: acr_weakness"):
        study(folder, "models.0.method={name='checkpoint', file='one.pth.tar'}")
    with pytest.raises(StudyError, match=r"search\[0\]: unknown key 'checkpoint'"):
        study(
            folder,
            "search=[{label='tuned', checkpoint={file='one.pth.tar'}, sigma=0.25, seeds=[0], space={lbd=[1.0, 2.0]}}]",
        )


@pytest.mark.parametrize("trained", ["method={name='gaussian'}", "training={epochs=3}", "training.epochs=3"])
def test_a_method_or_its_training_beside_a_checkpoint_is_refused(folder: Path, trained: str) -> None:
    key = trained[:6] if trained.startswith("method") else "training"
    with pytest.raises(StudyError, match=rf"models\[2\]: {key} beside checkpoint: a checkpoint is not trained; remove"):
        study(folder, f"models.2.{trained}")


def test_a_misspelt_checkpoint_is_told_from_a_missing_method(folder: Path) -> None:
    with pytest.raises(StudyError, match=r"models\[0\]: unknown key 'chekpoint'; did you mean 'checkpoint'\?"):
        study(folder, "models.0={label='x', chekpoint={file='one.pth.tar'}, sigma=0.25, seeds=[0]}")
