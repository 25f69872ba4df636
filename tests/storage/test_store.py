"""The run directory: atomic records, one study, one process, damage noticed."""

import errno
import json
import multiprocessing
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from rspipe.errors import DamagedError, StoreError
from rspipe.records import SearchResult, TrainedModel, Trial
from rspipe.smoothing.classifiers import Classifier
from rspipe.smoothing.counting import count_image
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import KINDS, CertificateKind, certified_classifier, derive
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule, Rule
from rspipe.smoothing.spec import CertifySpec
from rspipe.stages.report import read_results
from rspipe.storage.counts import count_rows
from rspipe.storage.damage import set_damaged_aside
from rspipe.storage.files import checksum, torch_bytes, write_sealed
from rspipe.storage.opening import open_store
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study
from tests.processes import PATIENCE
from tests.results_builder import ensemble, stored_model

TINY = Path(__file__).parents[1] / "tiny.toml"


@pytest.fixture
def study() -> StudyConfig:
    return load_study(TINY)


RULES: dict[str, Rule] = {
    "fixed": FixedRule(),
    "planned": PlannedRule(name="planned", pilot=200, eps=0.05),
    "radius_grid": RadiusGridRule(name="radius_grid", grid=(0.25, 0.5)),
    "decide": DecideRule(radii=(0.25, 0.5)),
}


def counts_table(
    example: int, *, classifier: str = "a", key: str = "k", rule: str = "fixed", **arrays: np.ndarray[Any, Any]
) -> pa.Table:
    """The rows that certification writes of an image, from arrays like those of a pass; 990 of 1000 by default."""
    spec = CertifySpec(rule=RULES[rule], n0=100, n=1000)
    estimation = np.array([[10, 990]])
    content: dict[str, Any] = {
        "sigma": 0.5,
        "rule": spec.rule,
        "n0": spec.n0,
        "n": spec.n,
        "alpha": spec.alpha,
        "seed": spec.seed,
        "classifier": np.array([classifier]),
        "kind": np.array(["model"]),
        "example": np.array([example]),
        "label": np.array([1]),
        "selection": np.array([[1, 99]]),
        "pilot": np.zeros((1, 2), np.int64),
        "estimation": estimation,
        "stop": np.array([""]),
        "marks": np.array([200, 500, 1000]),
        "prefix": np.array([[[2, 198], [5, 495], [10, 990]]]),
        "probability_sum": estimation * 0.9,
        "probability_square": estimation * 0.81,
        "batch_size": np.array([100]),
        "seconds": np.array([0.1]),
        "noise": np.array(["grid 1/255"]),
    }
    return count_rows(CountTable(**{**content, **arrays}), keys=[key], spec=spec, device="cpu")


def test_a_run_directory_refuses_another_study_and_says_what_differs(run_dir: StorePath, study: StudyConfig) -> None:
    with open_store(run_dir, study, source="", environment={}):
        pass
    other = load_study(TINY, overrides=["certify.n=3000"])
    with (
        pytest.raises(StoreError, match=r"belongs to study tiny-.*certify\.n: 2000 there, 3000 here.*--run-dir"),
        open_store(run_dir, other, source="", environment={}),
    ):
        pass


def test_a_run_directory_opens_again_for_its_own_study_and_keeps_its_first_environment(
    run_dir: StorePath, study: StudyConfig
) -> None:
    for environment in ({"torch": "1"}, {"torch": "2"}):
        with open_store(run_dir, study, source="text", environment=environment):
            pass
    assert '"torch": "1"' in (run_dir / "environment.json").read_text()
    assert (run_dir / "study.toml").read_text() == "text"


def _hold(run_dir: StorePath, opened: object, release: object) -> None:
    with open_store(run_dir, load_study(TINY), source="", environment={}):
        opened.set()  # type: ignore[attr-defined]
        release.wait(PATIENCE)  # type: ignore[attr-defined]


def test_certificates_of_another_test_part_are_not_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    # While nothing is certified they may change.
    for part in ("b", "a", "a"):
        store.save_images_to_certify(20, test_part=part)
    monkeypatch.setattr(Store, "counted", lambda _: {("a", "key", 0)})
    store.save_images_to_certify(30, test_part="a")
    with pytest.raises(
        StoreError, match=r"the test images differ in number, names, labels or content .* put those in their place"
    ):
        store.save_images_to_certify(20, test_part="b")
    assert store.images_to_certify() == 30


def test_a_second_process_on_a_run_directory_is_refused_and_a_killed_one_leaves_it_free(
    run_dir: StorePath, study: StudyConfig
) -> None:
    context = multiprocessing.get_context("spawn")
    opened, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(run_dir, opened, release))
    holder.start()
    try:
        assert opened.wait(PATIENCE)
        with (
            pytest.raises(StoreError, match=r"in use by (another )?process.*; wait for it or end it"),
            open_store(run_dir, study, source="", environment={}),
        ):
            pass
    finally:
        holder.kill()
        holder.join()
    with open_store(run_dir, study, source="", environment={}) as store:
        assert store.run_dir == run_dir


def test_a_record_read_back_is_the_record_written(run_dir: StorePath) -> None:
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
        error=None,
        accuracy=0.5,
        epochs=2,
        watched={"1": 0.25},
    )
    store = Store(run_dir)
    assert store.trial("s", 1) is None
    store.save_trial(trial)
    assert store.trial("s", 1) == trial


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = StorePath.of(tmp_path / "file")
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StoreError, match=r"file: could not be written: No space left on device .*free space"):
        path.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_file_on_a_disk_that_fails_is_neither_damaged_nor_missing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.model_dir("m").local_part / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    # Its first page is mapped nowhere, so that to read it is an input/output error.
    path.symlink_to("/proc/self/mem")
    with pytest.raises(StoreError, match=r"could not be read: Input/output error .*, then resume$") as refused:
        store.checkpoint("m")
    assert not isinstance(refused.value, DamagedError)
    assert path.is_symlink(), "it was deleted as damaged"


def search_result(search: str, *, trials: int = 1) -> SearchResult:
    return SearchResult(
        id=search,
        label="s",
        sigma=0.5,
        best={"lbd": 1.0},
        best_index=0,
        objective=0.5,
        default_objective=0.5,
        trials=trials,
    )


def test_states_of_trials_that_were_never_proposed_again_go_when_their_search_is_finished(run_dir: StorePath) -> None:
    store = Store(run_dir)
    for lbd in (1.0, 2.0):
        store.save_trial_checkpoint("s", {"lbd": lbd}, {"epoch": int(lbd)})
    assert store.trial_checkpoint("s", {"lbd": 2.0}) == {"epoch": 2}
    assert store.trial_checkpoint("s", {"lbd": 3.0}) is None
    store.save_search_result(search_result("s"))
    assert [path.name for path in (run_dir / "search" / "s").glob("*")] == ["result.json"]


def test_trials_that_are_added_to_a_finished_search_keep_their_states(run_dir: StorePath) -> None:
    few, more = (
        load_study(TINY, overrides=["search.0.algorithm={name='random'}", f"search.0.trials={count}"])
        for count in (2, 3)
    )
    (search,), point = more.search_specs, {"lbd": 2.0}
    store = Store(run_dir)
    store.save_search_result(search_result(search.id, trials=2))
    store.save_trial_checkpoint(search.id, point, {"epoch": 1})
    for study, kept in ((more, {"epoch": 1}), (few, None)):
        with open_store(run_dir, study, source="", environment={}):
            assert store.trial_checkpoint(search.id, point) == kept


def test_a_checkpoint_comes_back_and_a_damaged_one_is_refused(run_dir: StorePath) -> None:
    store = Store(run_dir)
    state = {"epoch": 3, "network": {"w": torch.arange(4.0)}, "history": [{"loss": 0.1}]}
    store.save_checkpoint("m", state)
    loaded = store.checkpoint("m")
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["network"]["w"], state["network"]["w"])  # type: ignore[index]
    path = store.model_dir("m") / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DamagedError, match=r"checkpoint\.pt: damaged .* run the study again, which recreates it$"):
        store.checkpoint("m")


def test_a_checkpoint_that_would_execute_code_is_not_loaded(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "executed"),)

    store = Store(tmp_path)
    path = store.model_dir("m").local_part / "checkpoint.pt"
    path.parent.mkdir(parents=True)
    torch.save({"epoch": Harmful()}, path)
    write_sealed(StorePath.of(path), path.read_bytes(), place="models/m/checkpoint.pt")
    with pytest.raises(StoreError, match="damaged"):
        store.checkpoint("m")
    assert not (tmp_path / "executed").exists()


def test_counts_are_kept_per_block_and_those_of_several_keys_beside_each_other(run_dir: StorePath) -> None:
    store = Store(run_dir)
    assert store.counts() is None
    store.save_counts(counts_table(1))
    store.save_counts(counts_table(2))
    store.save_counts(counts_table(2, key="other"))
    assert store.counted() == {("a", "k", 1), ("a", "k", 2), ("a", "other", 2)}


@pytest.mark.parametrize(
    "arrays",
    [
        {"estimation": np.array([[10, 989]])},
        {"selection": np.array([[0, 99]])},
        {"selection": np.array([[-1, 101]])},
        {"pilot": np.array([[0, 1]])},
    ],
)
def test_counts_that_do_not_add_up_to_their_samples_are_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    store, good = Store(tmp_path), counts_table(1)
    for name, values in arrays.items():
        column = pa.array(values.tolist(), good.schema.field(name).type)
        good = good.set_column(good.schema.get_field_index(name), good.schema.field(name), column)
    store.save_counts(good)
    with pytest.raises(DamagedError, match=r"part-\w+\.parquet: damaged or missing .*(add up|below 0)"):
        store.counted()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("alpha", None),
        ("n", pa.array([1000], pa.int32())),
        ("rule_parameters", pa.array(['{"name":"later"}'])),
    ],
)
def test_counts_of_another_version_are_refused_and_stay(tmp_path: Path, name: str, values: pa.Array | None) -> None:
    store, rows = Store(tmp_path), counts_table(1).drop_columns(name)
    store.save_counts(rows if values is None else rows.append_column(name, values))
    for read in (store.counted, partial(set_damaged_aside, store)):
        with pytest.raises(StoreError, match=r"part-\w+\.parquet: written by another version of rspipe") as refused:
            read()
        assert not isinstance(refused.value, DamagedError)
    assert not list(tmp_path.rglob("*.damaged"))


def test_the_same_counts_stored_twice_count_once(run_dir: StorePath) -> None:
    store = Store(run_dir)
    store.save_counts(counts_table(1))
    store.save_counts(pa.concat_tables([counts_table(1), counts_table(2)]))
    (classifier,) = map(certified_classifier, store.classifier_counts({"a": "k"}))
    assert classifier.example.tolist() == [1, 2]


def test_different_counts_under_one_key_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_counts(counts_table(1))
    other = counts_table(1, estimation=np.array([[20, 980]]))
    store.save_counts(pa.concat_tables([other, counts_table(2)]))
    with pytest.raises(StoreError, match="a has two different counts for image 1"):
        store.classifier_counts({"a": "k"})


def test_certificates_follow_from_the_counts_and_are_ordered_by_example(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for example in (5, 1, 3):
        store.save_counts(counts_table(example))
    store.save_counts(counts_table(4, key="other"))
    store.save_counts(counts_table(4, classifier="b"))
    (classifier,) = map(certified_classifier, store.classifier_counts({"a": "k"}))
    assert classifier.id == "a"
    assert classifier.example.tolist() == [1, 3, 5]
    assert np.all(classifier.prediction == 1)
    assert np.all(classifier.n_a == 990)
    assert np.all(classifier.samples == 1100)
    assert (classifier.kind, classifier.sigma, classifier.rule) == ("model", 0.5, "fixed")
    assert classifier.seconds == pytest.approx(0.3)


class Sure(nn.Module):
    """Class 1 of three, but for the noise in the first number."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, batch: Tensor) -> Tensor:
        return torch.stack([-batch[:, 0], batch[:, 0] + self.bias, batch[:, 1] - 1.5], dim=1)


CLASSIFIERS = (
    Classifier("sure", (0,), (1.0,)),
    Classifier("doubt", (1,), (1.0,)),
    Classifier("wrong", (2,), (1.0,)),
    Classifier("both", (0, 1), (0.5, 0.5), "probabilities"),
)
KEYS = {one.id: f"key of {one.id}" for one in CLASSIFIERS}


def passed(rule: str, store: Store, *, examples: Sequence[int] = (7, 3, 5)) -> list[CountTable]:
    """Pass over images, store what is counted, each image in a part of its own, and return it by image."""
    spec = CertifySpec(rule=RULES[rule], n0=100, n=3000, alpha=0.01, block_size=500, seed=4)
    networks = [Sure(4.0), Sure(0.05), Sure(-9.0)]
    call: dict[str, Any] = {"label": 1, "sigma": 0.5, "spec": spec, "classes": 3}
    counted = []
    for example in examples:
        counts = count_image(networks, CLASSIFIERS, torch.zeros(2), example=example, **call)
        counts = replace(counts, seconds=np.full(len(CLASSIFIERS), 0.5))
        store.save_counts(count_rows(counts, keys=list(KEYS.values()), spec=spec, device="cpu"))
        counted.append(counts)
    return counted


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("complete", [True, False])
def test_counts_come_back_as_they_were_made(tmp_path: Path, rule: str, complete: bool) -> None:
    store = Store(tmp_path)
    counted = passed(rule, store)
    stored = store.classifier_counts(KEYS, complete=complete)
    assert [one.id for one in stored] == sorted(KEYS)
    order = np.argsort((7, 3, 5))
    for counts in stored:
        row = [one.id for one in CLASSIFIERS].index(counts.id)

        def made(name: str, row: int = row) -> np.ndarray[Any, Any]:
            return np.stack([getattr(one, name)[row] for one in counted])[order]

        assert counts.example.tolist() == [3, 5, 7]
        assert counts.label.tolist() == [1, 1, 1]
        assert counts.kind.tolist() == ["ensemble" if counts.id == "both" else "model"] * 3
        assert counts.rule == RULES[rule]
        assert (counts.sigma, counts.n0, counts.n, counts.alpha, counts.seed) == (0.5, 100, 3000, 0.01, 4)
        assert counts.seconds.tolist() == [0.5] * 3
        for name in ("selection", "pilot", "estimation", "stop", "batch_size"):
            assert np.array_equal(getattr(counts, name), made(name)), name
            assert getattr(counts, name).dtype.kind == made(name).dtype.kind
        noted = complete or rule in ("radius_grid", "decide")
        prefix = made("prefix")
        reached = int((prefix[..., 0] >= 0).any(0).sum()) if noted else 0
        assert counts.marks.tolist() == counted[0].marks[:reached].tolist()
        assert np.array_equal(counts.prefix, prefix[:, :reached])
        for name in ("probability_sum", "probability_square"):
            assert np.array_equal(getattr(counts, name), made(name) if complete else np.zeros((3, 0))), name
    early = {"fixed": set(), "planned": {"label", "planned"}, "radius_grid": {"label", "settled"}}.get(
        rule, {"label", "settled"}
    )
    assert {str(one) for counts in stored for one in counts.stop} - {""} == early


@pytest.mark.parametrize("rule", RULES)
def test_certificates_of_stored_counts_are_those_of_the_pass(tmp_path: Path, rule: str) -> None:
    """Also by the radius grid where no image needed all samples, so that not every look was noted."""
    store = Store(tmp_path)
    passed(rule, store)
    table = store.counts()
    assert table is not None
    rows = {(row["classifier"], row["example"]): row for row in table.to_pylist()}
    for classifier in map(certified_classifier, store.classifier_counts(KEYS)):
        for position, example in enumerate(classifier.example.tolist()):
            row = rows[classifier.id, example]
            for name in ("prediction", "radius", "p_a_lower", "n_a", "samples"):
                assert getattr(classifier, name)[position] == row[name], name
    if rule == "radius_grid":
        marks = [len(counts.marks) for counts in store.classifier_counts(KEYS)]
        assert min(marks) < 5


@pytest.mark.parametrize("kind", KINDS)
def test_all_certificates_can_be_derived_from_what_is_stored(tmp_path: Path, kind: CertificateKind) -> None:
    store = Store(tmp_path)
    passed("fixed", store)
    derived = {one.id: derive(one, kind=kind, alpha=0.05) for one in store.classifier_counts(KEYS, complete=True)}
    assert derived["sure"].prediction.tolist() == [1, 1, 1]


def test_other_certificates_are_not_derived_from_counts_that_ended_early(tmp_path: Path) -> None:
    store = Store(tmp_path)
    passed("planned", store)
    counts = next(iter(store.classifier_counts(KEYS, complete=True)))
    with pytest.raises(ValueError, match="ended early"):
        derive(counts, kind="two_sided", alpha=0.05)


def test_a_row_says_all_that_its_counts_depend_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    passed("planned", store, examples=(3,))
    table = store.counts()
    assert table is not None
    (row,) = [row for row in table.to_pylist() if row["classifier"] == "sure"]
    expected = {
        "example": 3,
        "label": 1,
        "kind": "model",
        "sigma": 0.5,
        "rule": "planned",
        "rule_parameters": json.dumps(asdict(RULES["planned"]), separators=(",", ":")),
        "n0": 100,
        "n": 3000,
        "alpha": 0.01,
        "seed": 4,
        "streams": "selection 0, pilot 6, estimation 1",
        "block_size": 500,
        "batch_size": 500,
        "noise": "grid 1/255",
        "precision": "float32",
        "device": "cpu",
        "seconds": 0.5,
        "key": "key of sure",
    }
    assert {name: row[name] for name in expected} == expected


def test_counts_under_several_rules_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in RULES:
        store.save_counts(counts_table(1, key=name, rule=name))
    for name, rule in RULES.items():
        (counts,) = store.classifier_counts({"a": name})
        assert counts.rule == rule
    assert store.classifier_counts({"a": "another"}) == ()
    assert store.classifier_counts({"b": "fixed"}) == ()
    # As of a study of which no cascade has all its levels yet.
    assert store.classifier_counts({}) == ()


def test_a_directory_without_counts_has_no_classifiers(run_dir: StorePath) -> None:
    assert Store(run_dir).classifier_counts(KEYS, complete=True) == ()


def model(**changes: object) -> TrainedModel:
    return stored_model("gaussian", 0.25, 0, **changes)  # type: ignore[no-untyped-call,no-any-return]


def test_parameters_come_back_and_others_in_their_place_are_refused(run_dir: StorePath) -> None:
    store, parameters = Store(run_dir), {"w": torch.arange(3.0)}
    record = model(checksum=checksum(parameters))
    store.save_model(record, parameters)
    assert torch.equal(store.parameters(record.id)["w"], parameters["w"])
    path = store.model_dir(record.id) / "weights.pt"
    others = [torch_bytes({"w": torch.ones(3)}), torch_bytes({"w": 1}), torch_bytes([1]), b"x", None]
    for content in others:
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(DamagedError, match=r"run the study again, which recreates it$") as refused:
            store.parameters(record.id)
        assert "\n" not in str(refused.value)


def test_a_checksum_knows_names_shapes_types_and_values() -> None:
    base = {"a": torch.zeros(2, 3)}
    others = [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3).half()},
        {"a": torch.ones(2, 3)},
    ]
    assert len({checksum(one) for one in (base, *others)}) == 5
    assert checksum({"a": base["a"], "b": base["a"]}) == checksum({"b": base["a"], "a": base["a"]})


def test_weights_of_members_that_were_trained_anew_count_as_none(run_dir: StorePath) -> None:
    store = Store(run_dir)
    members = [model(spec={"seed": 1}, checksum="1"), model(spec={"seed": 2}, checksum="2")]
    for member in members:
        store.save_model(member, {})
    record = replace(ensemble("gaussian x2", 0.25, [member.id for member in members]), checksums=("1", "2"))
    store.save_ensemble_weights(record)
    assert store.ensemble_weights(record.id) == record
    store.save_model(replace(members[1], checksum="3"), {})
    assert store.ensemble_weights(record.id) is None


def test_a_model_or_trial_that_should_be_there_but_is_not_names_the_likely_cause(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for look in (lambda: store.existing_model("m"), lambda: store.existing_trial("s", 3)):
        with pytest.raises(StoreError, match=r"they do not share the run directory: .* --run-dir"):
            look()


def test_another_title_or_other_radii_are_the_same_study(run_dir: StorePath, study: StudyConfig) -> None:
    other = load_study(TINY, overrides=["title='Another'", "radii=[0.0, 2.0]", "baseline='macer'"])
    assert other.id == study.id
    for one in (study, other):
        with open_store(run_dir, one, source=one.title, environment={}):
            pass
    assert "Another" in (run_dir / "study.json").read_text()
    assert (run_dir / "study.toml").read_text() == "Another"


def test_a_run_that_goes_on_in_another_environment_says_so_and_keeps_both(
    run_dir: StorePath, study: StudyConfig, caplog: pytest.LogCaptureFixture
) -> None:
    for environment in ({"started": "1", "torch": "2.9"}, {"started": "2", "torch": "2.9"}):
        with open_store(run_dir, study, source="", environment=environment):
            pass
    assert not caplog.records
    with open_store(run_dir, study, source="", environment={"started": "3", "torch": "2.10"}) as store:
        assert read_results(store, study).environment == {"started": "1 then 3", "torch": "2.9 then 2.10"}
    assert "torch 2.9 then, 2.10 now" in caplog.text
    assert '"2.9"' in (run_dir / "environment.json").read_text()
    (later,) = run_dir.glob("environment-*.json")
    assert '"2.10"' in later.read_text()


def test_a_lost_environment_is_written_anew(run_dir: StorePath, study: StudyConfig) -> None:
    for _ in range(2):
        with open_store(run_dir, study, source="", environment={"torch": "1"}):
            pass
        assert (run_dir / "environment.json").is_file()
        (run_dir / "environment.json").unlink()


def test_a_file_system_without_locks_is_not_called_in_use(
    tmp_path: Path, study: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with (
        pytest.raises(StoreError, match=r"cannot be locked .No locks available.; choose one on another file system"),
        open_store(tmp_path / "run", study, source="", environment={}),
    ):
        pass
