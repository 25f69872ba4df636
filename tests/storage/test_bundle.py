"""A run's result in one file: somebody else can check it with what is in it."""

import hashlib
import io
import zipfile
from pathlib import Path

from pipelines import check_run
from rspipe.stages.report import read_results, write_report
from rspipe.storage.bundle import bundle
from rspipe.storage.opening import read_study
from rspipe.storage.store import Store
from tests.run_builder import EVERYTHING, finished_run


def test_a_bundle_is_checked_by_its_sums_and_proven_by_check_run(tmp_path: Path) -> None:
    store = Store(finished_run(tmp_path / "run", EVERYTHING))
    write_report(store, read_results(store, read_study(store)), figures=())
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
    # No networks, which are large.
    assert not [name for name in files if name.endswith((".pt", ".safetensors", ".npz"))]
    assert check_run.main([str(copy)]) == 0
    assert {one.id for one in read_results(Store(copy), read_study(Store(copy))).certified}
