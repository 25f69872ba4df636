"""A study in MLflow, which may also be missing."""

import json
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from rspipe.records import TrainedModel
from rspipe.report.headline import headline
from rspipe.report.results import Results
from rspipe.smoothing.metrics import certified_accuracy
from rspipe.spec import content_id
from rspipe.storage.files import write_record
from rspipe.storage.paths import StorePath
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.tracking.client import tracking_uri, ui_command
from rspipe.tracking.outcome import Outcome
from rspipe.tracking.publish import Tracker
from rspipe.tracking.runs import study_runs
from tests.browser import browser, needs_browser
from tests.processes import PATIENCE, free_ports, kill_all
from tests.results_builder import results


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")


def with_specs(content: Results) -> Results:
    """Return results whose searches are those of their study, so that a search run finds its space."""
    ids = {spec.sigma: spec.id for spec in content.study.search_specs}
    searches = tuple(replace(search, id=ids[search.sigma]) for search in content.searches)
    old = {search.id: ids[search.sigma] for search in content.searches}
    return replace(
        content, searches=searches, trials=tuple(replace(trial, search=old[trial.search]) for trial in content.trials)
    )


def save(store: Store, content: Results) -> None:
    """Write the files that a run directory with these results has and MLflow gets."""
    for name in ("study.json", "environment.json"):
        write_record(store.run_dir / name, {"name": name})
    (store.run_dir / "study.toml").write_text("")
    for model in content.models:
        store.save_model(model, {"w": torch.zeros(1)})
    for search in content.searches:
        store.save_search_result(search)
    for record in content.ensembles:
        store.save_ensemble_weights(record)


def one_level() -> Results:
    """Return the noise level at which a model diverged."""
    made = with_specs(results())
    searches = tuple(search for search in made.searches if search.sigma == 0.5)
    return replace(
        made,
        models=tuple(model for model in made.models if model.train_sigma == 0.5),
        searches=searches,
        trials=tuple(trial for trial in made.trials if trial.search == searches[0].id),
        ensembles=tuple(record for record in made.ensembles if record.sigma == 0.5),
        certified=tuple(one for one in made.certified if one.sigma == 0.5),
    )


def small_results() -> Results:
    """Return two methods of one seed, and the model that diverged: MLflow's database takes its time for each run."""
    made = one_level()
    # Otherwise the newest would have the largest ACR.
    models, ensembles = made.models[2::-1], made.ensembles[2:3]
    ids = {record.id for record in (*models, *ensembles)}
    certified = tuple(one for one in made.certified if one.id in ids)
    return replace(made, models=models, ensembles=ensembles, certified=certified)


@pytest.fixture
def content() -> Results:
    return small_results()


@pytest.fixture
def store(tmp_path: Path, content: Results, empty_database: Path) -> Store:
    store = Store(tmp_path / "run")
    save(store, content)
    shutil.copy(empty_database, tmp_path)
    return store


def runs(store: Store) -> list[Run]:
    client = MlflowClient(tracking_uri(store.run_dir))
    experiment = client.get_experiment_by_name("rspipe")
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def open_tracker(store: Store, study: StudyConfig) -> Tracker:
    tracker = Tracker(store, study)
    tracker.open()
    return tracker


def publish(store: Store, content: Results) -> None:
    tracker = open_tracker(store, content.study)
    message = headline(content)
    tracker.publish(content, content.summaries, {"study/again.json": store.run_dir / "study.json"}, message)
    tracker.finish("FINISHED")


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Store, Results]:
    """A study that was published once, for tests that change nothing."""
    folder, content = tmp_path_factory.mktemp("published"), one_level()
    shutil.copy(empty_database, folder)
    store = Store(folder / "run")
    save(store, content)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        publish(store, content)
    return store, content


def child(published: list[Run], record: TrainedModel) -> Run:
    (run,) = [run for run in published if run.data.tags["rspipe.key"].startswith(f"model/{record.id}/")]
    return run


def test_there_is_a_parent_run_and_a_child_run_per_model_search_and_ensemble(read_only: tuple[Store, Results]) -> None:
    store, content = read_only
    published = runs(store)
    kinds = Counter(run.data.tags["rspipe.kind"] for run in published)
    assert kinds == {
        "study": 1,
        "model": len(content.models),
        "search": len(content.searches),
        "ensemble": len(content.ensembles),
        "trial": len(content.trials),
    }
    (parent,) = [run.info.run_id for run in published if run.data.tags["rspipe.kind"] == "study"]
    direct = [run for run in published if run.data.tags["rspipe.kind"] != "trial"]
    assert {run.data.tags.get("mlflow.parentRunId") for run in direct} == {None, parent}
    assert {run.data.tags.get("rspipe.study") for run in published} == {content.study.id}
    certified = child(published, next(model for model in content.models if content.certificates(model.id)))
    assert certified.data.tags["rspipe.noise"] == "grid 1/256"


def nested_trials(store: Store) -> dict[str, list[Run]]:
    """Return the runs of trials by the key of the run that they are nested in."""
    published = runs(store)
    keys = {run.info.run_id: run.data.tags["rspipe.key"] for run in published}
    nested: dict[str, list[Run]] = {}
    for run in sorted(published, key=lambda run: run.info.run_name or ""):
        if run.data.tags["rspipe.kind"] == "trial":
            nested.setdefault(keys[run.data.tags["mlflow.parentRunId"]], []).append(run)
    return nested


def test_trials_are_nested_in_their_search_also_when_more_are_added(store: Store, content: Results) -> None:
    publish(store, content)
    (search,) = content.searches
    (listed,) = nested_trials(store).values()
    assert [run.info.status for run in listed] == ["FINISHED", "FAILED", "FINISHED"]
    for run, trial in zip(listed, content.trials, strict=True):
        assert {name: float(value) for name, value in run.data.params.items()} == trial.parameters
        assert run.data.metrics["training_passes"] == trial.passes
        assert run.data.metrics.get("validation/acr") == (trial.objective if trial.status == "finished" else None)
    best = max(trial.objective for trial in content.trials)
    added = replace(content.trials[0], index=3, objective=best + 0.1, watched={"1": 0.3}, status="finished")
    stopped = replace(added, index=4, objective=0.0, status="stopped")
    more = replace(search, trials=5, best=added.parameters, best_index=3, objective=added.objective)
    publish(store, replace(content, searches=(more,), trials=(*content.trials, added, stopped)))
    ((key, children),) = nested_trials(store).items()
    assert key.startswith(f"search/{search.id}/5/")
    assert len(children) == 5
    assert children[4].info.status == "KILLED"
    (superseded,) = [run.data.tags["rspipe.key"] for run in runs(store) if "rspipe.superseded" in run.data.tags]
    assert superseded.startswith(f"search/{search.id}/3/")


def test_a_trial_that_is_done_again_with_other_values_is_another_run(
    store: Store, content: Results, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, content)
    (search,) = content.searches
    first, *others = content.trials
    again = replace(first, parameters={name: 2 * value for name, value in first.parameters.items()})
    won = replace(search, best=again.parameters, best_index=again.index)
    publish(store, replace(content, searches=(won,), trials=(again, *others)))
    published = [run for children in nested_trials(store).values() for run in children]
    told = [{name: float(value) for name, value in run.data.params.items()} for run in published]
    assert all(trial.parameters in told for trial in (first, again))
    superseded = {run.data.tags["rspipe.kind"] for run in runs(store) if "rspipe.superseded" in run.data.tags}
    assert superseded == {"trial", "search"}
    assert not [record for record in caplog.records if record.name.startswith("rspipe")]


def test_certified_accuracy_is_logged_with_a_thousandth_of_the_radius_as_step(read_only: tuple[Store, Results]) -> None:
    store, content = read_only
    client, published = MlflowClient(tracking_uri(store.run_dir)), runs(store)
    certified = {one.id: one for one in content.certified}
    lengths = set()
    for record in content.models:
        if record.status == "diverged":
            continue
        one = certified[record.id]
        history = client.get_metric_history(child(published, record).info.run_id, "certified_accuracy")
        steps = [point.step for point in history]
        expected = certified_accuracy(one.radius, one.correct, [step / 1000 for step in steps])
        assert [point.value for point in history] == pytest.approx(expected.tolist())
        assert steps[0] == 0
        assert history[-1].value == 0
        assert steps == sorted(set(steps))
        lengths.add(tuple(steps))
    assert len(lengths) == 1, "curves can be compared on one grid only"


def test_the_run_of_a_study_has_what_studies_are_sorted_and_compared_by(read_only: tuple[Store, Results]) -> None:
    store, content = read_only
    (run,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    metrics, tags = run.data.metrics, run.data.tags
    methods = {average.label: average.models.estimate for average in content.seed_averages}
    assert {name: metrics[f"acr_0.5/{name}"] for name in methods} == pytest.approx(methods)
    assert metrics["acr_0.5/best"] >= max(methods.values())
    assert tags["rspipe.best_0.5"]
    baseline = content.baseline
    for label, acr in methods.items():
        if label != baseline:
            name = f"0.5/{label} - {baseline}"
            assert metrics[f"difference_{name}"] == pytest.approx(acr - methods[baseline])
            assert "these " in tags[f"rspipe.verdict_{name}"]
    for sentence in headline(content).sentences:
        assert sentence in tags["mlflow.note.content"]
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == (f"rspipe study {content.study.name}", "LOCAL")
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, json.loads(data.dataset.source)["name"]) == (content.study.data.name, "digits")
    model = child(runs(store), content.models[0])
    assert [one.dataset.digest for one in model.inputs.dataset_inputs] == [data.dataset.digest]


def test_what_a_study_found_last_is_shown_though_the_clock_was_set_back(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, content)
    (parent,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    tracker = open_tracker(store, content.study)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    for best in (0.75, 0.5):
        tracker._write_outcome(parent.info.run_id, Outcome({"acr_0.5/best": best}, {}, f"{best}"))
        (parent,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
        assert parent.data.metrics["acr_0.5/best"] == best


def test_a_study_that_is_not_certified_yet_claims_nothing(store: Store, content: Results) -> None:
    tracker = open_tracker(store, content.study)
    tracker.publish(content, content.summaries[1:], {}, headline(content))
    (run,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    assert not [name for name in run.data.metrics if name.startswith(("acr_0", "difference_"))]


def test_a_model_run_holds_its_learning_curve_its_hyperparameters_and_its_acr(read_only: tuple[Store, Results]) -> None:
    store, content = read_only
    record = content.models[0]
    run = child(runs(store), record)
    client = MlflowClient(tracking_uri(store.run_dir))
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in history] == [(e["epoch"], e["loss"]) for e in record.history]
    summary = next(one for one in content.summaries if one.id == record.id)
    assert run.data.metrics["acr"] == summary.acr.estimate
    assert run.data.metrics["acr_two_sided"] == summary.acr_two_sided
    assert run.data.metrics["samples_per_image"] == summary.samples
    assert run.data.metrics["CA/0.50"] == summary.certified_accuracy[2]
    assert run.data.tags["rspipe.sigma"] == "0.5"
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"model.json", "weights.pt"}


def test_files_are_logged_once_also_where_certificates_follow_and_after_resumes(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[str, str]] = []
    log_artifact = MlflowClient.log_artifact

    def noted(client: MlflowClient, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        logged.append((run_id, Path(local_path).name))
        log_artifact(client, run_id, local_path, artifact_path)

    monkeypatch.setattr(MlflowClient, "log_artifact", noted)
    few = replace(content, searches=(), trials=())
    open_tracker(store, content.study).publish(replace(few, certified=(), ensembles=()))
    for _ in range(2):
        open_tracker(store, content.study).publish(few, few.summaries)
    assert len(logged) == len(set(logged))
    run = child(runs(store), content.models[0]).info.run_id
    assert {name for id_, name in logged if id_ == run} == {"model.json", "weights.pt"}


def test_tags_say_the_last_stage_and_parameters_how_it_was_certified(store: Store, content: Results) -> None:
    record = content.models[0]
    few = replace(content, models=(record,), searches=(), trials=(), ensembles=())
    tracker = open_tracker(store, content.study)
    tracker.publish(replace(few, certified=()))
    assert child(runs(store), record).data.tags["rspipe.stage"] == "train"
    tracker.publish(few, few.summaries)
    run = child(runs(store), record)
    expected = {"stage": "certify", "study": content.study.id, "method": record.source, "seed": "0", "data": "digits"}
    assert {name: run.data.tags[f"rspipe.{name}"] for name in expected} == expected
    certify = {name: run.data.params[f"certify.{name}"] for name in ("rule.name", "n", "alpha", "precision")}
    assert certify == {"rule.name": "fixed", "n": "10000", "alpha": "0.001", "precision": "float32"}


def test_the_load_of_the_machine_is_logged_while_a_study_runs_and_goes_on_when_it_resumes(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psutil")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    client, name = MlflowClient(tracking_uri(store.run_dir)), "system/cpu_utilization_percentage"
    seen = 0
    for _ in range(2):
        tracker = open_tracker(store, content.study)
        (parent,) = runs(store)
        deadline = time.monotonic() + 60
        while len(client.get_metric_history(parent.info.run_id, name)) <= seen:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        tracker.finish("KILLED")
        history = client.get_metric_history(parent.info.run_id, name)
        assert len(history) > seen
        seen = len(history)
        assert [point.step for point in history] == list(range(seen))
        assert all(0 <= point.value <= 100 for point in history)


def test_the_duration_of_a_run_is_the_time_that_training_took(store: Store, content: Results) -> None:
    publish(store, replace(content, ensembles=(), certified=()))
    published = runs(store)
    for record in content.models:
        run = child(published, record)
        assert (run.info.end_time - run.info.start_time) / 1000 == pytest.approx(record.seconds, abs=1e-3)


def test_a_rule_without_two_sided_certificates_has_no_such_acr(
    store: Store, content: Results, caplog: pytest.LogCaptureFixture
) -> None:
    record = content.models[0]
    on_grid = [replace(one, rule="radius_grid", two_sided=math.nan) for one in content.certified if one.id == record.id]
    few = replace(content, models=(record,), searches=(), trials=(), ensembles=(), certified=tuple(on_grid))
    publish(store, few)
    metrics = child(runs(store), record).data.metrics
    assert math.isnan(metrics.get("acr_two_sided", math.nan))
    assert metrics["acr"] > 0
    assert not [one for one in caplog.records if one.name.startswith("rspipe")]


def test_a_diverged_model_is_a_failed_run_without_an_acr(read_only: tuple[Store, Results]) -> None:
    store, content = read_only
    (record,) = [model for model in content.models if model.status == "diverged"]
    run = child(runs(store), record)
    assert run.info.status == "FAILED"
    assert "acr" not in run.data.metrics


def test_publishing_again_changes_nothing(store: Store, content: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store, content)
    client = MlflowClient(tracking_uri(store.run_dir))

    def everything() -> list[tuple[object, ...]]:
        return sorted(
            (
                run.info.run_id,
                run.data.tags["rspipe.key"],
                [len(client.get_metric_history(run.info.run_id, name)) for name in sorted(run.data.metrics)],
                run.data.params,
            )
            for run in runs(store)
        )

    before, written = everything(), list[str]()
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient,
        "log_batch",
        lambda self, run_id, *what, **named: written.append(run_id) or log_batch(self, run_id, *what, **named),
    )
    publish(store, content)
    assert everything() == before
    # What is up to date is not even written again.
    parents = {run.info.run_id for run in runs(store) if "mlflow.parentRunId" not in run.data.tags}
    assert set(written) <= parents


def test_a_run_cut_off_while_it_was_written_is_completed_without_doubled_points(store: Store, content: Results) -> None:
    publish(store, content)
    client = MlflowClient(tracking_uri(store.run_dir))
    run = child(runs(store), content.models[0])
    for tag in ("rspipe.logged", "rspipe.metrics"):
        client.delete_tag(run.info.run_id, tag)
    before = client.get_metric_history(run.info.run_id, "certified_accuracy")
    publish(store, content)
    after = client.get_metric_history(run.info.run_id, "certified_accuracy")
    assert [(point.step, point.value) for point in after] == [(point.step, point.value) for point in before]


def test_points_that_are_there_are_not_sent_again_where_certificates_follow(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    log_batch = MlflowClient.log_batch

    def noted(client: MlflowClient, run_id: str, metrics: Sequence[Metric] = (), **rest: Any) -> None:
        sent.extend((run_id, metric.key) for metric in metrics)
        log_batch(client, run_id, metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", noted)
    tracker = open_tracker(store, content.study)
    tracker.publish(replace(content, certified=()))
    before = {*sent}
    assert {"training/loss", "weight", "validation/clean_accuracy"} <= {name for _, name in before}
    sent.clear()
    tracker.publish(content, content.summaries)
    assert {"acr", "certified_accuracy"} <= {name for _, name in sent}
    assert before.isdisjoint(sent)


def test_an_unfinished_certification_is_not_shown(store: Store, content: Results) -> None:
    tracker = open_tracker(store, content.study)
    tracker.publish(content, content.summaries[1:])
    first = child(runs(store), content.models[0])
    assert not {"acr", "certified_accuracy"} & set(first.data.metrics)
    tracker.publish(content, content.summaries)
    history = MlflowClient(tracking_uri(store.run_dir)).get_metric_history(first.info.run_id, "certified_accuracy")
    assert len({point.step for point in history}) == len(history) > 10


def test_a_tracker_that_is_stopped_publishes_no_further_run_and_the_next_one_does(
    store: Store, content: Results
) -> None:
    few = replace(content, searches=(), trials=(), ensembles=(), certified=())
    tracker = open_tracker(store, content.study)
    tracker.stop()
    tracker.publish(few)
    tracker.finish("KILLED")
    (parent,) = runs(store)
    assert parent.info.status == "KILLED"
    open_tracker(store, content.study).publish(few)
    assert len(runs(store)) == 1 + len(few.models)


def test_a_tracker_that_is_stopped_sends_no_further_file(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(content, searches=(), trials=(), ensembles=(), certified=())
    tracker, sent = open_tracker(store, content.study), list[str]()

    def stopped_meanwhile(_: MlflowClient, __: str, local_path: str, artifact_path: str | None = None) -> None:
        sent.append(local_path)
        tracker.stop()

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", stopped_meanwhile)
        tracker.publish(few)
    assert len(sent) == 1
    tracker.finish("KILLED")
    publish(store, few)
    client = MlflowClient(tracking_uri(store.run_dir))
    for run in runs(store):
        if run.data.tags["mlflow.runName"] != content.study.id:
            assert {item.path for item in client.list_artifacts(run.info.run_id)} >= {"model.json"}


def test_a_parent_run_whose_making_was_cut_off_is_completed(store: Store, content: Results) -> None:
    open_tracker(store, content.study)
    (parent,) = runs(store)
    client = MlflowClient(tracking_uri(store.run_dir))
    client.delete_tag(parent.info.run_id, "rspipe.logged")
    publish(store, content)
    (again,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    assert again.info.run_id == parent.info.run_id
    assert "rspipe.logged" in again.data.tags


def test_a_model_trained_anew_is_another_run(store: Store, content: Results) -> None:
    publish(store, content)
    model = content.models[0]
    retrained = replace(content, models=(replace(model, checksum="other"), *content.models[1:]))
    publish(store, retrained)
    keys = [run.data.tags["rspipe.key"] for run in runs(store) if model.id in run.data.tags["rspipe.key"]]
    assert sorted(keys) == sorted([f"model/{model.id}/{model.checksum}", f"model/{model.id}/other"])
    superseded = [run.data.tags["rspipe.key"] for run in runs(store) if "rspipe.superseded" in run.data.tags]
    assert superseded == [f"model/{model.id}/{model.checksum}"]


def test_a_classifier_certified_anew_is_another_run_with_its_own_acr_and_curve(store: Store, content: Results) -> None:
    """MLflow would show the larger of the two ACRs with the lower end of the other's interval."""
    publish(store, content)
    other = replace(content, certified=tuple(replace(one, radius=one.radius / 2) for one in content.certified))
    client, of = MlflowClient(tracking_uri(store.run_dir)), ("acr", "acr_low", "acr_high", "CA/0.50")
    for made in (other, content, content):
        publish(store, made)
        summary = next(one for one in made.summaries if one.id == content.models[0].id)
        versions = [run for run in runs(store) if f"/{content.models[0].id}/" in run.data.tags["rspipe.key"]]
        (shown,) = [run for run in versions if "rspipe.superseded" not in run.data.tags]
        values = (summary.acr.estimate, summary.acr.low, summary.acr.high, summary.certified_accuracy[2])
        assert tuple(shown.data.metrics[name] for name in of) == values
        steps = [point.step for point in client.get_metric_history(shown.info.run_id, "certified_accuracy")]
        assert len(steps) == len({*steps}) > 10
        assert {run.data.tags["rspipe.listed"] for run in versions if run is not shown} == {"no"}
    # The third time nothing was new.
    assert len(versions) == 3


def test_a_run_that_is_superseded_is_listed_again_when_its_model_comes_back(store: Store, content: Results) -> None:
    def marks() -> tuple[str, str | None]:
        tags = child(runs(store), content.models[0]).data.tags
        return tags["rspipe.listed"], tags.get("rspipe.superseded")

    tracker = open_tracker(store, content.study)
    seen = list[tuple[str, str | None]]()
    # The winners of a search that gets more trials are unknown meanwhile.
    for models in (content.models, content.models[1:], content.models):
        tracker.publish(replace(content, models=models, searches=(), trials=(), ensembles=(), certified=()))
        seen.append(marks())
    assert seen == [("yes", None), ("no", "yes"), ("yes", None)]


def test_another_title_is_told_to_the_parent_run(
    store: Store, content: Results, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, content)
    study = content.study.model_copy(update={"title": "Another", "radii": (0.0, 2.0)})
    publish(store, replace(content, study=study))
    (parent,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    assert parent.data.tags["mlflow.note.content"].startswith("Another\n\n* ")
    assert not [record for record in caplog.records if record.name.startswith("rspipe")]


def test_a_model_that_failed_later_and_a_study_file_that_changed_are_no_longer_the_files_of_before(
    store: Store, content: Results, tmp_path: Path
) -> None:
    def logged(run: Run, name: str) -> str:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        uri = tracking_uri(store.run_dir)
        return Path(MlflowClient(uri).download_artifacts(run.info.run_id, name, str(folder))).read_text()

    few = replace(content, searches=(), trials=(), ensembles=())
    tracker, model = open_tracker(store, content.study), content.models[0]
    tracker.publish(few, few.summaries)
    failed = replace(model, status="diverged", message="NaN at image 3")
    store.save_model(failed, {"w": torch.zeros(1)})
    (store.run_dir / "study.toml").write_text("# another text")
    tracker.publish(replace(few, models=(failed, *few.models[1:])), ())
    assert '"diverged"' in logged(child(runs(store), failed), "model.json")
    (parent,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    assert logged(parent, "study.toml") == "# another text"


def test_fewer_trials_than_were_made_and_runs_that_others_nested_stop_nothing(
    store: Store, content: Results, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, content)
    (parent,) = [run for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    client = MlflowClient(tracking_uri(store.run_dir))
    client.create_run(parent.info.experiment_id, tags={"mlflow.parentRunId": parent.info.run_id})
    groups = tuple(one.model_copy(update={"trials": one.trials - 1}) for one in content.study.search)
    publish(store, replace(content, study=content.study.model_copy(update={"search": groups})))
    assert not [record for record in caplog.records if record.name.startswith("rspipe")]


def test_certificates_join_the_run_that_training_made(store: Store, content: Results) -> None:
    early = replace(content, certified=(), ensembles=())
    tracker = open_tracker(store, content.study)
    tracker.publish(early)
    record = content.models[0]
    assert "acr" not in child(runs(store), record).data.metrics
    tracker.publish(content, content.summaries)
    assert "acr" in child(runs(store), record).data.metrics


def test_the_parent_run_is_running_while_the_study_runs_and_holds_its_files(store: Store, content: Results) -> None:
    tracker = open_tracker(store, content.study)
    (parent,) = runs(store)
    assert parent.info.status == "RUNNING"
    tracker.publish(content, content.summaries, {"figures/a.json": store.run_dir / "study.json"})
    tracker.finish("KILLED")
    client = MlflowClient(tracking_uri(store.run_dir))
    assert client.get_run(parent.info.run_id).info.status == "KILLED"
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names == {"study.toml", "study.json", "environment.json", "figures"}


def test_a_run_directory_made_anew_is_another_parent_run(store: Store, content: Results) -> None:
    publish(store, content)
    write_record(store.run_dir / "environment.json", {"started": "later"})
    publish(store, content)
    parents = [run.data.tags["rspipe.key"] for run in runs(store) if run.data.tags["rspipe.kind"] == "study"]
    assert len(set(parents)) == 2
    assert f"study/{content.study.id}/{content_id({'started': 'later'})}" in parents


def test_the_command_names_the_database_and_quotes_it(tmp_path: Path) -> None:
    uri = tracking_uri(StorePath.of(tmp_path / "a b" / "run"))
    assert uri == f"sqlite:///{tmp_path}/a b/mlflow.db"
    assert ui_command(uri) == f"mlflow ui --backend-store-uri '{uri}'"
    assert ui_command("http://somewhere:5000") == "", "a server shows its pages itself"


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_unreachable_server_is_one_warning(
    store: Store,
    content: Results,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri = f"http://127.0.0.1:{closed_port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    publish(store, content)
    # Of whatever library: all of them reach the terminal.
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert uri in warning
    assert str(store.run_dir) in warning
    assert "report.py" in warning


@contextmanager
def server(folder: Path, port: int, database: str) -> Iterator[None]:
    """A tracking server as its own process, with artifacts that pass through it."""
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), *words],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                assert answer.status == 200
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield
    finally:
        kill_all(process)


@pytest.fixture(scope="module")
def sqlite(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a database in a file."""
    return f"sqlite:///{shutil.copy(empty_database, tmp_path_factory.mktemp('sqlite'))}"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """Start PostgreSQL on loopback; return an empty database of it."""
    pytest.importorskip("psycopg2", reason="needs psycopg2, which is not installed")
    initdb = shutil.which("initdb")
    if initdb is None:
        pytest.skip("needs PostgreSQL's server, whose programs are not in the path")
    programs = Path(initdb).resolve().parent
    # It refuses to run as root; its package makes a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if user is not None:
        shutil.chown(folder, user)
    data, where = str(folder / "data"), ["-h", "127.0.0.1", "-p", str(free_ports(1)[0])]
    making = [str(programs / "initdb"), "-D", data, "-U", "rspipe", "-A", "trust", "--no-sync"]
    subprocess.run(making, check=True, user=user, cwd=folder, capture_output=True)
    running = [str(programs / "postgres"), "-D", data, "-k", str(folder), *where, "-F"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(running, user=user, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([str(programs / "pg_isready"), "-q", *where], check=False).returncode:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"postgresql+psycopg2://rspipe@127.0.0.1:{where[-1]}/postgres"
    finally:
        # Not a smart end, which waits for clients.
        process.send_signal(signal.SIGINT)
        process.wait()
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Served:
    """A study that was published on a server, after the server had been down at first."""

    uri: str
    store: Store
    content: Results
    warnings: tuple[str, ...]
    """Of all that was published."""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, content = tmp_path_factory.mktemp("server"), small_results()
    database = request.getfixturevalue(request.param)
    store = Store(tmp_path_factory.mktemp("served") / "run")
    save(store, content)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    warnings = list[str]()
    handler, logger = logging.Handler(), logging.getLogger("rspipe")
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        publish(store, content)
        assert len(warnings) == 1, "the server is not there yet"
        with server(folder, port, database):
            publish(store, content)
            yield Served(f"http://127.0.0.1:{port}", store, content, tuple(warnings))
    logger.removeHandler(handler)


def test_what_a_server_missed_while_it_was_down_is_there_after_the_next_run(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (warning,) = served.warnings
    assert f"MLflow at {served.uri} cannot be written" in warning
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    content, published = served.content, runs(served.store)
    assert len(published) == 1 + sum(map(len, (content.models, content.searches, content.ensembles, content.trials)))
    record = content.models[0]
    run = child(published, record)
    assert run.data.metrics["acr"] == next(one for one in content.summaries if one.id == record.id).acr.estimate
    # No node but the server's needs its folder.
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    client = MlflowClient(served.uri)
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"model.json", "weights.pt"}
    fetched = Path(client.download_artifacts(run.info.run_id, "weights.pt", str(tmp_path)))
    assert fetched.read_bytes() == (served.store.model_dir(record.id) / "weights.pt").read_bytes()
    assert not (served.store.run_dir.local_part.parent / "mlartifacts").exists()


_CURVES = (
    "[...document.querySelectorAll('.js-plotly-plot')]"
    ".filter(plot => JSON.stringify(plot.layout?.xaxis?.title ?? '').includes('radius')).flatMap(plot => plot.data)"
)
"""Those of the charts whose axis is the radius."""


@needs_browser
def test_the_printed_address_opens_the_classifiers_by_acr_and_their_curves_over_the_radius(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Open what a study prints at its end, in the pages that MLflow's own server shows, and the chart beside it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    content, published = served.content, {run.info.run_id: run for run in runs(served.store)}
    address = Tracker(served.store, content.study).address
    assert address.startswith(f"{served.uri}/#/experiments/")
    by_acr = sorted(content.listed, key=lambda one: -one.acr.estimate)
    names = [run.info.run_name for one in by_acr for run in published.values() if f"/{one.id}/" in key_of(run)]
    assert len(names) == len(by_acr)
    certified = {one.id: one for one in content.certified}
    at = [0.0, 0.26, 0.5, 0.74]
    expected = {
        name: certified_accuracy(certified[one.id].radius, certified[one.id].correct, at).tolist()
        for name, one in zip(names, by_acr, strict=True)
    }
    with browser() as running:
        context = running.new_context(viewport={"width": 1600, "height": 1000})
        context.set_default_timeout(150_000)
        page, outside = context.new_page(), list[str]()
        inside = (served.uri, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(inside) or outside.append(request.url))
        page.goto(address)
        page.get_by_text(f"{len(names)} matching runs").wait_for()
        links = page.locator(".ag-row a").filter(has_text="σ")
        # Their number is there before they are.
        links.nth(len(names) - 1).wait_for()
        shown = links.all_inner_texts()
        assert [name.strip() for name in shown] == names
        headings = {text.strip() for text in page.locator(".ag-header-cell").all_inner_texts()}
        assert {"acr", "acr_low", "acr_high", "CA/0.00"} <= headings
        page.goto(f"{address}&compareRunsMode=CHART")
        page.wait_for_function(f"new Set({_CURVES}.map(trace => trace.name)).size == {len(names)}")
        traces = page.evaluate(f"{_CURVES}.map(trace => [trace.name, trace.x, trace.y])")
        assert {name for name, _, _ in traces} == set(names)
        for name, radii, shares in traces:
            curve = dict(zip(radii, shares, strict=True))
            assert [curve[radius] for radius in at] == pytest.approx(expected[name])
    assert outside == []


def key_of(run: Run) -> str:
    return str(run.data.tags["rspipe.key"])


def test_a_damaged_database_is_a_warning(store: Store, content: Results, caplog: pytest.LogCaptureFixture) -> None:
    (store.run_dir.local_part.parent / "mlflow.db").write_text("not a database at all, not in the least")
    publish(store, content)
    assert [record.levelname for record in caplog.records if record.name.startswith("rspipe")] == ["WARNING"]


def test_the_experiment_name_of_the_environment_is_respected(
    store: Store, content: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    before = (store.run_dir / "study.json").read_bytes()
    publish(store, content)
    client = MlflowClient(tracking_uri(store.run_dir))
    assert client.get_experiment_by_name("mine") is not None
    assert client.get_experiment_by_name("rspipe") is None
    assert (store.run_dir / "study.json").read_bytes() == before


def publish_at_once(stores: list[Store], content: Results) -> dict[int, list[str]]:
    """Publish studies, each in a process of its own, all beginning at the same moment; return what each warned of."""
    # Forked: what takes seconds to import is there.
    processes = multiprocessing.get_context("fork")
    start, warnings = processes.Barrier(len(stores)), processes.Queue()

    def one(number: int, store: Store) -> None:
        lines: list[str] = []
        handler = logging.Handler(logging.WARNING)
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger().addHandler(handler)
        try:
            start.wait(60)
            publish(store, content)
        finally:
            warnings.put((number, lines))

    studies = [processes.Process(target=one, args=pair, daemon=True) for pair in enumerate(stores)]
    for study in studies:
        study.start()
    told = dict(warnings.get(timeout=PATIENCE) for _ in studies)
    for study in studies:
        study.join(PATIENCE)
    assert [study.exitcode for study in studies] == [0] * len(stores)
    return told


def three_studies(folder: Path, content: Results) -> list[Store]:
    """Return three studies of the same content beside each other, where there is no database yet."""
    stores = [Store(folder / f"run-{number}") for number in range(3)]
    for number, store in enumerate(stores):
        save(store, content)
        write_record(store.run_dir / "environment.json", {"name": str(number)})
    return stores


@pytest.fixture(scope="module")
def begun_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Store], dict[int, list[str]]]:
    """Studies that were published at once on a new database, with what each warned of."""
    content = small_results()
    stores = three_studies(tmp_path_factory.mktemp("at-once"), content)
    assert not (stores[0].run_dir.local_part.parent / "mlflow.db").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        return stores, publish_at_once(stores, content)


def assert_nothing_is_lost(client: MlflowClient, name: str, stores: list[Store], content: Results) -> None:
    """Look at every point of every metric, at all parameters and at the files, of every study in an experiment."""
    experiment = client.get_experiment_by_name(name)
    published = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in published if run.data.tags["rspipe.kind"] == "study"]
    assert len({run.data.tags["rspipe.key"] for run in parents}) == len(parents) == len(stores)
    by_key: dict[str, list[Run]] = {}
    for run in published:
        by_key.setdefault(run.data.tags["rspipe.key"], []).append(run)
    expected = list(study_runs(content, content.summaries, stores[0]))
    assert len(published) == len(stores) * (1 + len(expected))
    for one in expected:
        assert len(by_key[one.key]) == len(stores), one.name
        wanted = Counter((point.name, point.step) for point in one.points if math.isfinite(point.value))
        for run in by_key[one.key]:
            assert run.info.status == one.status
            assert run.data.params == one.parameters
            assert run.data.metrics.keys() == {metric for metric, _ in wanted}
            history = [
                point for metric in run.data.metrics for point in client.get_metric_history(run.info.run_id, metric)
            ]
            assert Counter((point.key, point.step) for point in history) == wanted
            assert "rspipe.files" in run.data.tags or not one.files
    for run in parents:
        assert run.info.status == "FINISHED"
        assert run.data.metrics["acr_0.5/best"] > 0


def test_three_studies_that_begin_at_once_on_a_new_database_lose_nothing(
    begun_at_once: tuple[list[Store], dict[int, list[str]]], content: Results
) -> None:
    stores, warned = begun_at_once
    assert warned == {0: [], 1: [], 2: []}
    assert_nothing_is_lost(MlflowClient(tracking_uri(stores[0].run_dir)), "rspipe", stores, content)


def test_artifacts_and_a_database_that_is_made_anew_lie_beside_the_run_directory(
    begun_at_once: tuple[list[Store], dict[int, list[str]]],
) -> None:
    beside = begun_at_once[0][0].run_dir.local_part.parent
    assert list((beside / "mlartifacts").rglob("weights.pt"))
    assert (beside / "mlflow.db").is_file()


def test_three_studies_that_begin_at_once_on_a_server_without_their_experiment_lose_nothing(
    served: Served, content: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", served.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "at once")
    stores = three_studies(tmp_path, content)
    assert publish_at_once(stores, content) == {0: [], 1: [], 2: []}
    assert_nothing_is_lost(MlflowClient(served.uri), "at once", stores, content)
