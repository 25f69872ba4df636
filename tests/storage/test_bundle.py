"""A run's result in one file: somebody else can check it with what is in it."""

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from pipelines import check_run
from rspipe.report.section import Section
from rspipe.stages.report import read_results, write_report
from rspipe.storage.bundle import bundle
from rspipe.storage.files import write_record
from rspipe.storage.opening import read_study
from rspipe.storage.store import Store
from tests.damages import small_run


def test_a_bundle_is_checked_by_its_sums_and_proven_by_check_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To draw them takes most of the time of a report.
    monkeypatch.setattr(Section, "pictures", {})
    store = Store(small_run(tmp_path))
    write_record(store.run_dir / "environment-0.json", {"commit": "another"})
    (store.run_dir / "study.json.damaged").write_text("")
    results = read_results(store, read_study(store))
    write_report(store, results, figures=())
    packed = bundle(store.run_dir)
    assert packed == bundle(store.run_dir)
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        archive.extractall(tmp_path / "copy")
    copy = tmp_path / "copy"
    sums = dict(reversed(line.split("  ")) for line in (copy / "SHA256SUMS").read_text().splitlines())
    files = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert files - {"SHA256SUMS"} == {*sums}
    assert all(hashlib.sha256((copy / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert {"study.json", "environment.json", "summary.tsv", "report.html", "README.txt"} <= files
    assert any(name.startswith("cascades/") for name in files)
    # Networks and moments are large.
    assert not [name for name in files if name.endswith((".pt", ".safetensors", ".npz", ".damaged"))]
    assert check_run.main([str(copy)]) == 0
    unpacked = Store(copy)
    same = read_results(unpacked, read_study(unpacked))
    for name in ("environment", "choices", "attacks", "cascades", "certified"):
        assert len(getattr(same, name)) == len(getattr(results, name)) > 0, name
    assert same.environment["commit"] == "none then another"
    assert unpacked.published(str(tmp_path / "log.tsv")) is not None
