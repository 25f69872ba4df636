"""The run directory: atomic records, one study, one process, damage found."""

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from rspipe.errors import StoreError
from rspipe.records import Trial
from rspipe.stages.store import Store, load_torch, open_store, write_atomically
from rspipe.study import StudyConfig, load_study

TINY = Path(__file__).parent / "tiny.toml"


@pytest.fixture
def study() -> StudyConfig:
    return load_study(TINY)


def counts_table(example: int, *, classifier: str = "a", key: str = "k") -> pa.Table:
    return pa.table(
        {
            "example": [example],
            "label": [1],
            "classifier": [classifier],
            "kind": ["model"],
            "sigma": [0.5],
            "selection": [[1, 99]],
            "estimation": [[10, 990]],
            "n": [1000],
            "alpha": [0.001],
            "seconds": [0.1],
            "key": [key],
        }
    )


def test_a_run_directory_refuses_another_study_and_says_what_differs(tmp_path: Path, study: StudyConfig) -> None:
    with open_store(tmp_path / "run", study, source="", environment={}):
        pass
    other = load_study(TINY, overrides=["certify.n=3000"])
    with (
        pytest.raises(StoreError, match=r"belongs to study tiny-.*certify\.n: 2000 there, 3000 here.*--run-dir"),
        open_store(tmp_path / "run", other, source="", environment={}),
    ):
        pass


def test_a_run_directory_opens_again_for_its_own_study_and_keeps_its_first_environment(
    tmp_path: Path, study: StudyConfig
) -> None:
    for environment in ({"torch": "1"}, {"torch": "2"}):
        with open_store(tmp_path / "run", study, source="text", environment=environment):
            pass
    assert '"torch": "1"' in (tmp_path / "run" / "environment.json").read_text()
    assert (tmp_path / "run" / "study.toml").read_text() == "text"


def _hold(run_dir: Path, opened: object, release: object) -> None:
    with open_store(run_dir, load_study(TINY), source="", environment={}):
        opened.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_a_second_process_on_a_run_directory_is_refused_and_a_killed_one_leaves_it_free(
    tmp_path: Path, study: StudyConfig
) -> None:
    context = multiprocessing.get_context("spawn")
    opened, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "run", opened, release))
    holder.start()
    try:
        assert opened.wait(30)
        with (
            pytest.raises(StoreError, match="in use by another process"),
            open_store(tmp_path / "run", study, source="", environment={}),
        ):
            pass
    finally:
        holder.kill()
        holder.join()
    with open_store(tmp_path / "run", study, source="", environment={}) as store:
        assert store.run_dir == tmp_path / "run"


def test_a_record_read_back_is_the_record_written(tmp_path: Path) -> None:
    trial = Trial(
        search="s",
        index=1,
        parameters={"lbd": 0.1, "m": 2},
        objective=1 / 3,
        noisy_accuracy=0.5,
        status="finished",
        message="",
        seconds=1.5,
        passes=10,
    )
    store = Store(tmp_path)
    assert store.trial("s", 1) is None
    store.save_trial(trial)
    assert store.trial("s", 1) == trial


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_checkpoint_counts_as_none_and_a_good_one_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    state = {"epoch": 3, "network": {"w": torch.arange(4.0)}, "history": [{"loss": 0.1}]}
    store.save_checkpoint("m", state)
    found = store.checkpoint("m")
    assert found["epoch"] == 3
    assert torch.equal(found["network"]["w"], state["network"]["w"])  # type: ignore[index]
    path = store.model_dir("m") / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    assert store.checkpoint("m") is None


def test_a_checkpoint_that_would_execute_code_is_not_loaded(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "executed"),)

    store = Store(tmp_path)
    path = store.model_dir("m") / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    torch.save({"epoch": Harmful()}, path)
    copy = shutil.copy(path, tmp_path / "copy.pt")
    assert store.checkpoint("m") is None
    with pytest.raises(StoreError, match="damaged"):
        load_torch(Path(copy))
    assert not (tmp_path / "executed").exists()


def test_counts_are_kept_per_block_and_a_truncated_part_is_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.counts() is None
    store.save_counts(counts_table(1))
    store.save_counts(counts_table(2))
    store.save_counts(counts_table(2, key="other"))
    assert store.counted("k") == {("a", 1), ("a", 2)}
    part = sorted((tmp_path / "certificates").glob("part-*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-20])
    assert len(store.counted("k")) + len(store.counted("other")) == 2
    assert len(list((tmp_path / "certificates").glob("*.damaged"))) == 1


def test_the_same_block_stored_twice_counts_once(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_counts(counts_table(1))
    store.save_counts(counts_table(1))
    (classifier,) = store.certified("k")
    assert classifier.example.tolist() == [1]


def test_certificates_follow_from_the_counts_and_are_ordered_by_example(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for example in (5, 1, 3):
        store.save_counts(counts_table(example))
    (classifier,) = store.certified("k")
    assert classifier.example.tolist() == [1, 3, 5]
    assert np.all(classifier.prediction == 1)
    assert np.all(classifier.n_a == 990)
