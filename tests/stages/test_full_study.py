"""A reduced study as its user runs it: to its end, killed at every stage, and given nonsense."""

import csv
import json
import re
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import norm

from pipelines import check_run, recount
from rspipe.smoothing.certificates import clopper_pearson_lower
from rspipe.storage.files import read_content, write_record
from rspipe.storage.paths import StorePath
from tests.processes import (
    PATIENCE,
    PIPELINES,
    TINY,
    Head,
    kill,
    run,
    start,
    start_on_terminal,
    wait_until,
)

Copied = Callable[..., Path]


def rows_of(run_dir: Path) -> dict[tuple[str, int], dict[str, object]]:
    """Return the certification rows by classifier and example; each may occur once only."""
    parts = sorted((run_dir / "certificates").glob("part-*.parquet"))
    rows = [row for part in parts for row in pq.read_table(part, partitioning=None).to_pylist()]
    seen = Counter((row["classifier"], row["example"]) for row in rows)
    assert max(seen.values()) == 1, "a certificate was stored twice"
    timeless = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    return {(row["classifier"], row["example"]): row for row in timeless}


def summary_of(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "summary.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [{name: value for name, value in row.items() if name != "training_seconds"} for row in rows]


def assert_same_results(run_dir: Path, reference: Path) -> None:
    """Compare two runs of a study bit for bit, but for times."""
    assert rows_of(run_dir) == rows_of(reference)
    assert summary_of(run_dir) == summary_of(reference)
    names = [path.parent.name for path in (reference / "models").glob("*/model.json")]
    assert {path.parent.name for path in (run_dir / "models").glob("*/model.json")} == set(names)
    for name in names:
        ours, theirs = (
            torch.load(at / "models" / name / "weights.pt", weights_only=True) for at in (run_dir, reference)
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    for path in (reference / "weights").glob("*.json"):
        assert json.loads((run_dir / "weights" / path.name).read_text()) == json.loads(path.read_text())


def assert_quiet(output: str) -> None:
    ours = ("joining Ray", "leaving Ray", "Study ")
    noise = [line for line in output.splitlines() if "ray" in line.lower() and not line.startswith(ours)]
    assert noise == [], "Ray's own output reached the terminal"


def on(head: Head) -> dict[str, str]:
    """Return the environment of a pipeline that is to run on a head."""
    return {**head.environment, "RAY_ADDRESS": head.address}


def test_a_study_goes_through_every_stage_and_says_where_its_results_are(reference: tuple[Path, str]) -> None:
    run_dir, output = reference
    # The search after the models that do not wait for it: the first of all is there soon.
    ends = (
        "train: 4/4 models",
        "search: 4/4 trials",
        "train: 5/5 models",
        "weigh: 40/40 images",
        "certify: 60/60 images",
    )
    assert sorted(ends, key=output.index) == list(ends)
    assert str(run_dir / "report.html") in output
    assert "mlflow" in output


def test_every_base_model_and_every_ensemble_is_certified_on_every_image(reference: tuple[Path, str]) -> None:
    run_dir, _ = reference
    rows = rows_of(run_dir)
    classifiers = {classifier for classifier, _ in rows}
    assert len(classifiers) == 5 + 3 + 2
    assert len(rows) == len(classifiers) * 60
    for row in rows.values():
        assert (sum(row["selection"]), sum(row["estimation"])) == (row["n0"], row["n"]) == (100, 2000)  # type: ignore[call-overload]
    assert len(summary_of(run_dir)) == len(classifiers)
    assert "<svg" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_every_radius_is_proven_again_without_rspipe_and_an_image_counted_again(
    reference: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check_run.main([str(reference[0]), "--recount", "1"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_study_on_a_terminal_asked_to_end_says_how_it_goes_on(
    asked: signal.Signals, head: Head, copied: Copied
) -> None:
    run_dir = copied(without=("certificates",))
    words = ("--study", str(TINY), "--run-dir", str(run_dir), "--resources.workers", "1")
    process, shown = start_on_terminal("full_study.py", *words, environment=on(head))
    deadline = time.monotonic() + PATIENCE
    # The bar knows of an image a moment after it is stored.
    while not any(run_dir.glob("certificates/part-*.parquet")) or "ETA" not in "".join(shown):
        assert process.poll() is None, "".join(shown)
        assert time.monotonic() < deadline, "".join(shown)
        time.sleep(0.05)
    process.send_signal(asked)
    assert process.wait(PATIENCE) == 130, "".join(shown)
    text = "".join(shown)
    assert "certify" in text
    assert "ETA" in text
    assert "interrupted; the same command goes on from here" in text
    assert "Traceback" not in text


def test_training_alone_ends_with_the_models_that_were_missing(
    head: Head, reference: tuple[Path, str], copied: Copied
) -> None:
    run_dir = copied()
    shutil.rmtree(run_dir / "models" / max(path.parent.name for path in run_dir.glob("models/gaussian-*/model.json")))
    words = ("--study", str(TINY), "--run-dir", str(run_dir), "--resources.workers", "1")
    status, output = run("train.py", *words, environment=on(head))
    assert status == 0, output
    assert_quiet(output)
    assert "train: 4/5 models" in output
    assert "train: 5/5 models" in output
    assert_same_results(run_dir, reference[0])


def one_line(script: str, words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a pipeline in this process, which must refuse before it starts anything; return its error, one line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        patch.syspath_prepend(PIPELINES)
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(PIPELINES / script), run_name="__main__")
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"(rspipe [a-z-]+ \S+: loading\n(loading, \d+:\d\d\n)*)?", captured.out)
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "certify.m=3"], "unknown key 'm'"),
        (["--set", "models.0.method.name='gausian'"], "did you mean 'gaussian'?"),
        (["--set", "models.0.sigma=0"], "greater than 0"),
        (["--set", "certify.n=5"], "use n >= 10"),
        (["--set", "ensembles.0.members='gaussian x3'"], "needs 3 models but sigma 0.25 has 2"),
        (["--set", "certify.images=1000"], "lower the number"),
        (["--set", "architecture=lenet"], "architecture 'lenet' does not take images of 1x8x8"),
        (["--study", "no/such.toml"], "no such study file"),
        (["--ray-address", "127.0.0.1:9"], "no Ray head answers at 127.0.0.1:9"),
        (["--ray-address", "nonsense"], "not of the form host:port"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_nonsense_is_one_clear_line_and_exit_status_2(
    words: Sequence[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--study", str(TINY), "--run-dir", str(tmp_path / "run"), *words]
    assert says in one_line("full_study.py", given, capsys)


def test_a_missing_data_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.toml"
    data = '[data]\nname = "parquet"\ntitle = "X"\nfolder = "absent"\ntrain = "a"\ntest = "b"\nclasses = 2\n'
    study.write_text(TINY.read_text().replace("[training]", f"{data}\n[training]"))
    assert "data.folder" in one_line("train.py", ["--study", str(study), "--run-dir", str(tmp_path / "run")], capsys)


def test_a_run_directory_of_another_study_is_refused(
    reference: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--study", str(TINY), "--run-dir", str(reference[0]), "--set", "certify.n=3000"]
    assert "belongs to study tiny-" in one_line("full_study.py", words, capsys)


def test_a_killed_study_without_a_cluster_goes_on_and_an_unreachable_mlflow_is_one_warning(
    own_ray: None, reference: tuple[Path, str], copied: Copied
) -> None:
    run_dir = copied(without=("certificates", "report.html", "summary.tsv"))
    words = ("--study", str(TINY), "--run-dir", str(run_dir), "--resources.workers", "1")
    process = start("full_study.py", *words)
    wait_until(lambda: any(run_dir.glob("certificates/part-*.parquet")), process)
    kill(process)
    assert not (run_dir / "report.html").exists(), "the study had ended before it was killed"
    status, output = run("full_study.py", *words, environment={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    assert status == 0, output
    assert_quiet(output)
    assert output.count("cannot be written") == 1
    assert_same_results(run_dir, reference[0])
    assert (run_dir / "report.html").is_file()


def in_this_process(script: str, *words: str) -> None:
    """Run a pipeline in this process, where no Ray answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *words])
        patch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        patch.syspath_prepend(PIPELINES)
        runpy.run_path(str(PIPELINES / script), run_name="__main__")


def test_the_report_is_made_without_a_cluster(reference: tuple[Path, str], copied: Copied) -> None:
    run_dir = copied(without=("summary.tsv",))
    in_this_process("report.py", str(run_dir))
    assert_same_results(run_dir, reference[0])


def test_attacks_around_certified_images_are_kept_and_reported(
    capsys: pytest.CaptureFixture[str], copied: Copied
) -> None:
    run_dir = copied()
    words = ["--images", "5", "--factors", "0.5", "1", "6", "--attack.steps", "5", "--attack.draws", "16"]
    in_this_process("check_boundary.py", str(run_dir), *words, "--classifier", "gaussian x2 (uniform)")
    (path,) = (run_dir / "boundary").glob("*.json")
    check = json.loads(path.read_text())
    assert path.stem.startswith("gaussian-x2-uniform-s0.25-")
    assert [sum(counts) for counts in zip(check["same"], check["abstained"], check["changed"], strict=True)] == [5] * 3
    # Each of ten predictions is wrong with probability .001, each of five certificates, too.
    assert check["changed"][:2] == [0, 0]
    assert check["distance"][0] == pytest.approx(0.5, abs=1e-5)
    said = "none of 10 predictions within the certified radius changed"
    assert said in capsys.readouterr().out
    assert said in (run_dir / "report.html").read_text(encoding="utf-8")
    nobody = [str(run_dir), "--classifier", "nobody"]
    assert "no certified classifier is called nobody" in one_line("check_boundary.py", nobody, capsys)
    # As of a folder in which the images have been replaced.
    images = run_dir / "images.json"
    write_record(StorePath.of(images), {**read_content(StorePath.of(images)), "test_part": "another"})
    assert "the test images differ in number, names, labels or content" in one_line(
        "check_boundary.py", [str(run_dir)], capsys
    )
    with pytest.raises(SystemExit) as ended:
        recount.compare(run_dir, 1)
    assert ended.value.code == 2
    assert "the test images differ" in capsys.readouterr().err


def derive(run_dir: Path, *words: str) -> Path:
    """Derive from a run directory, without Ray; return the folder of the files."""
    before = {path.name for path in run_dir.glob("derived/*")}
    in_this_process("derive.py", str(run_dir), *words)
    (made,) = [path for path in run_dir.glob("derived/*") if path.name not in before]
    return made


def log_of(path: Path) -> dict[int, tuple[int, float]]:
    """Return (prediction, radius) by example of a certification log in Cohen's six columns."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "idx\tlabel\tpredict\tradius\tcorrect\ttime"
    cells = [line.split("\t") for line in lines[1:]]
    assert all(int(correct) == int(label == prediction) for _, label, prediction, _, correct, _ in cells)
    return {int(example): (int(prediction), float(radius)) for example, _, prediction, radius, *_ in cells}


def test_other_certificates_are_derived_from_the_counts_without_sampling(
    capsys: pytest.CaptureFixture[str], copied: Copied
) -> None:
    run_dir = copied()
    stored = rows_of(run_dir)
    classifiers = {classifier for classifier, _ in stored}
    own, loose = derive(run_dir), derive(run_dir, "--alpha", "0.01")
    two_sided = derive(run_dir, "--certificate", "two_sided")
    fewer = derive(run_dir, "--n", "1000")
    assert {path.stem for path in own.iterdir()} == classifiers
    for classifier in classifiers:
        ours = log_of(own / f"{classifier}.tsv")
        assert len(ours) == 60
        for example, (prediction, radius) in ours.items():
            row = stored[classifier, example]
            assert prediction == row["prediction"]
            # Rounded down, never up: a larger radius is no certificate.
            assert 0 <= float(str(row["radius"])) - radius < 1e-6
            assert log_of(loose / f"{classifier}.tsv")[example][1] >= radius
            first = clopper_pearson_lower(
                np.array(row["prefix"]).reshape(-1, 10)[row["marks"].index(1000)][np.argmax(row["selection"])],
                1000,
                alpha=0.001,
            )
            expected = 0.25 * norm.ppf(first) if first >= 0.5 else 0.0
            assert log_of(fewer / f"{classifier}.tsv")[example][1] == pytest.approx(expected, abs=1e-6)
    assert {path.stem for path in two_sided.iterdir()} == classifiers
    shown = capsys.readouterr().out
    assert "ACR" in shown
    assert "gaussian, seed 0" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--n", "3"], "n = 3 can never certify at alpha = 0.001; use n >= 10"),
        (["--n", "5000"], "n must lie in [1, 2000]"),
        (["--alpha", "2"], "alpha"),
        (["--certificate", "soft", "--n", "1000"], "probabilities were not kept at n = 1000"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_derived_is_one_clear_line(
    words: Sequence[str], says: str, reference: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in one_line("derive.py", [str(reference[0]), *words], capsys)


def test_a_stage_script_prints_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        in_this_process("certify.py", "--help")
    assert ended.value.code in (None, 0)
    printed = capsys.readouterr().out
    for option in ("--study", "--run-dir", "--set", "--ray-address", "--resources.workers"):
        assert option in printed
