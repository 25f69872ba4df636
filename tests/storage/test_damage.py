"""A run directory defends itself: what is damaged is named, set aside and done again, and no number changes unseen."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rspipe.errors import DamagedError, StoreError
from rspipe.report.sections.search import cost_sentence
from rspipe.smoothing.derivation import certified_classifier
from rspipe.stages.report import read_results
from rspipe.stages.trials import open_trials
from rspipe.storage.damage import set_damaged_aside
from rspipe.storage.files import read_content, write_record
from rspipe.storage.opening import open_store
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.damages import KINDS, flip, flip_bits, mutate_directories, numbers, small_run, told
from tests.run_builder import EVERYTHING, run_alone


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a file of every kind; tests that change it undo that."""
    return small_run(tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished.parent, tmp_path / "copy")
    return tmp_path / "copy" / "run"


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_and_set_aside(finished: Path, kind: str) -> None:
    outcome = flip_bits(finished, kind, 2, random.Random(kind))
    assert outcome.total() == 2


def test_what_is_damaged_is_done_again_with_the_same_numbers(run_dir: Path) -> None:
    study, rng = load_study(run_dir.parent / "study.toml"), random.Random(0)
    whole = {path.relative_to(run_dir) for path in run_dir.rglob("*.*")}
    store = Store(run_dir)
    before = [(one.id, one.prediction.tolist(), one.radius.tolist()) for one in counted(run_dir)]
    redone = [kind for kind in KINDS if not kind.startswith(("boundary", "cascades", "published", "environment"))]
    damaged = [min(run_dir.glob(kind)) for kind in redone]
    for path in damaged:
        flip(path, rng)
    with told() as lines:
        run_alone(run_dir, study, text=EVERYTHING)
    # A model's record and its parameters go together.
    models = {path.parent for path in damaged if path.name in ("model.json", "weights.pt")}
    assert len(lines) == len(damaged) - 2 + len(models)
    for path in damaged:
        assert sum(f"{path.parent}/" in line for line in lines) >= 1
    assert [(one.id, one.prediction.tolist(), one.radius.tolist()) for one in counted(run_dir)] == before
    kept = {path.relative_to(run_dir) for path in run_dir.rglob("*.damaged")}
    assert {path.with_suffix("") for path in kept} >= {path.relative_to(run_dir) for path in damaged}
    # States of trainings that have ended, and parts by another name, are nobody's.
    lost = whole - {path.relative_to(run_dir) for path in run_dir.rglob("*.*")}
    assert {path.parts[0] for path in lost if path.name[:10] != "checkpoint"} == {"certificates"}
    with told() as quiet:
        set_damaged_aside(store)
    assert quiet == []


def test_what_is_not_done_again_is_said(run_dir: Path) -> None:
    study, rng = load_study(run_dir.parent / "study.toml"), random.Random(0)
    trial, check = (next(run_dir.glob(pattern)) for pattern in ("search/*/trial-0.json", "boundary/*.json"))
    for path in (trial, check):
        flip(path, rng)
    with told() as lines:
        run_alone(run_dir, study, text=EVERYTHING)
    of_trial, of_check = lines
    assert of_trial.endswith("set aside as trial-0.json.damaged, and not done again, since its search has ended")
    assert of_check.endswith(f"set aside as {check.name}.damaged, and made again by check-boundary alone")
    assert not trial.is_file()
    assert not check.is_file()
    results = read_results(Store(run_dir), study)
    (search,) = results.searches
    left = results.trials_of(search)
    assert len(left) == search.trials - 1
    sentence = cost_sentence(left, made=search.trials)
    assert sentence.startswith(f"{len(left)} trials (records of 1 more are lost)")


def test_a_lost_trial_of_a_search_that_goes_on_is_done_again_and_that_is_said(run_dir: Path) -> None:
    (search,) = load_study(run_dir.parent / "study.toml").search_specs
    # As of algorithms whose id does not depend on how many trials there are.
    more: Any = SimpleNamespace(id=search.id, trials=search.trials + 1)
    store = Store(run_dir)
    flip(next(run_dir.glob("search/*/trial-0.json")), random.Random(0))
    with told() as lines:
        set_damaged_aside(store, [more])
    (line,) = lines
    assert line.endswith("set aside as trial-0.json.damaged, and done again")
    assert 0 in open_trials(store, more)


def counted(run_dir: Path):
    store = Store(run_dir)
    rows = store.counts(["classifier", "key"])
    assert rows is not None
    keys = dict(zip(rows["classifier"].to_pylist(), rows["key"].to_pylist(), strict=True))
    return [*map(certified_classifier, store.classifier_counts(keys))]


@pytest.mark.parametrize("pattern", ["models/*/model.json", "weights/*.json", "moments/*.npz", "search/*/trial-*.json"])
def test_a_file_in_the_place_of_another_is_refused(run_dir: Path, pattern: str) -> None:
    first, second = sorted(run_dir.glob(pattern))[:2]
    shutil.copy(first, second)
    with pytest.raises(DamagedError, match=str(second.parent)):
        numbers(run_dir)
    with told() as lines:
        set_damaged_aside(Store(run_dir))
    assert len(lines) == 1
    assert not second.exists()
    assert first.exists()


def test_a_state_of_another_seed_is_refused(run_dir: Path) -> None:
    (state,) = run_dir.glob("models/*/checkpoint.pt")
    other = next(path for path in (run_dir / "models").iterdir() if path != state.parent)
    shutil.copy(state, other)
    with pytest.raises(DamagedError, match=rf"{other.name}/checkpoint\.pt: damaged"):
        Store(run_dir).checkpoint(other.name)


def test_a_state_that_a_process_died_before_deleting_is_gone_when_the_run_goes_on(run_dir: Path) -> None:
    """Seen by stopping a study at every step of its writing: it lay there for ever beside the finished model."""
    study = load_study(run_dir.parent / "study.toml")
    finished, open_model = (Store(run_dir).model_dir(one.id).local_part for one in study.model_specs[:2])
    shutil.copy(finished / "checkpoint.pt", open_model)
    (open_model / "model.json").unlink()
    states = [*run_dir.glob("search/*/checkpoint-*.pt"), *run_dir.glob("models/*/checkpoint.pt")]
    with open_store(run_dir, study, source=EVERYTHING, environment={"commit": "none"}):
        # The other training has not ended; its state is another's here, and so set aside.
        left = {path for path in run_dir.rglob("checkpoint*") if path.is_file()}
    assert len(states) == 3
    assert left == {open_model / "checkpoint.pt.damaged"}


def test_a_run_directory_of_another_study_stays_as_it_is(run_dir: Path) -> None:
    flip(next(run_dir.glob("weights/*.json")), random.Random(0))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    other = load_study(run_dir.parent / "study.toml", overrides=["certify.n=300"])
    with (
        pytest.raises(StoreError, match=r"belongs to study small-.*certify\.n: 200 there, 300 here"),
        open_store(run_dir, other, source=EVERYTHING, environment={"commit": "none"}),
    ):
        pass
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("study.toml", "name = 'mine'"),
        ("study.json", '{"optuna": 1}'),
        ("environment.json", "{}"),
        ("weights/config.json", "{}"),
        ("report.html", "<html>"),
    ],
)
def test_files_of_something_else_are_neither_written_over_nor_set_aside(
    name: str, content: str, finished: Path, tmp_path: Path
) -> None:
    study, theirs = load_study(finished.parent / "study.toml"), tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text(content)
    with (
        pytest.raises(StoreError, match=f"{tmp_path} is no run directory, and has a {name} that one would write over"),
        open_store(tmp_path, study, source=EVERYTHING, environment={"commit": "none"}),
    ):
        pass
    assert [path for path in tmp_path.rglob("*.*") if path.name != "lock"] == [theirs]
    assert theirs.read_text() == content


def test_a_run_may_lie_beside_its_own_study_file(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(EVERYTHING.replace("\n", "\r\n").encode())
    study = load_study(finished.parent / "study.toml")
    with open_store(tmp_path, study, source=EVERYTHING, environment={"commit": "none"}):
        pass
    assert (tmp_path / "study.json").is_file()


def test_results_are_not_adopted_by_a_study_that_they_may_not_be_of(run_dir: Path) -> None:
    own, other = (load_study(run_dir.parent / "study.toml", overrides=[f"certify.n={n}"]) for n in (200, 300))
    file = run_dir / "study.json"

    def opened(study: StudyConfig) -> None:
        with open_store(run_dir, study, source=EVERYTHING, environment={"commit": "none"}):
            pass

    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(StoreError, match=rf"{file}: damaged or missing, and nothing else says .* put a copy"):
        opened(other)
    # As if the process had died before it wrote it again.
    aside = file.rename(run_dir / "study.json.damaged")
    opened(own)
    assert file.is_file()
    file.unlink()
    aside.write_bytes(b"")
    with pytest.raises(StoreError, match=rf"{aside}: damaged or missing"):
        opened(own)
    aside.unlink()
    with pytest.raises(StoreError, match=rf"{file}: damaged or missing"):
        opened(own)


@pytest.mark.parametrize(
    ("pattern", "changes"),
    [
        ("models/*/model.json", {"train_sigma": 0.5}),
        ("models/*/model.json", {"status": "diverged"}),
        ("models/*/model.json", {"label": "macer"}),
        ("models/*/model.json", {"normalization": [[0.1], [0.2]]}),
        ("weights/*.json", {"weights": [1.0, 0.0]}),
        ("weights/*.json", {"method": "mme"}),
        ("weights/*.json", {"sigma": 1.0}),
        ("search/*/trial-*.json", {"objective": 9.0}),
    ],
)
def test_a_record_that_somebody_edited_is_refused(run_dir: Path, pattern: str, changes: dict[str, object]) -> None:
    path = sorted(run_dir.glob(pattern))[0]
    text, content = path.read_text(), read_content(StorePath.of(path))
    write_record(StorePath.of(path), content | changes)
    of_before, of_edit = (json.loads(one)["sha256"] for one in (text, path.read_text()))
    path.write_text(path.read_text().replace(of_edit, of_before))
    with pytest.raises(DamagedError, match=r"its content is not what was written"):
        numbers(run_dir)


@pytest.mark.parametrize(
    "content",
    ["[]", "1", '"text"', "null", "{}", "[" * 100_000, '{"a":' * 100_000, "9" * 100_000, "\ud800", ""],
    ids=["list", "number", "text", "null", "empty", "deep list", "deep table", "long number", "surrogate", "nothing"],
)
@pytest.mark.parametrize("name", ["study.json", "environment.json", "model.json"])
def test_json_of_another_kind_is_one_line(run_dir: Path, content: str, name: str) -> None:
    path = next(run_dir.rglob(name))
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(DamagedError, match=f"{name}: damaged") as refused:
        numbers(run_dir)
    assert str(refused.value).isprintable()


def test_a_changed_run_directory_is_read_or_refused_in_a_line(finished: Path) -> None:
    outcomes = mutate_directories(finished, 8, random.Random(1), pages=0.0)
    assert outcomes.total() == 8
    assert {read for read, _ in outcomes} == {"read", "refused"}


def test_a_run_without_damage_is_opened_without_a_word(finished: Path) -> None:
    before = numbers(finished)
    with told() as lines:
        set_damaged_aside(Store(finished))
    assert lines == []
    assert numbers(finished) == before
    assert np.size(list(finished.rglob("*.damaged"))) == 0
