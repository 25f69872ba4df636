"""A run's result in one file for somebody else: what the report was made from, with checksums, without the networks."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from itertools import chain

from rspipe.storage.paths import StorePath

_FILES = {
    "": ("study.toml", "study.json", "environment.json", "environment-*.json", "images.json", "summary.*", "*.html"),
    "certificates": ("part-*.parquet",),
    "cascades": ("*.json",),
    "choices": ("*.json",),
    "weights": ("*.json",),
    "boundary": ("*.json",),
    "published": ("*.tsv",),
}
"""Patterns by folder; the records of models and searches lie in folders of their own."""

_README = """\
The result of a certification study, made by rspipe.

  sha256sum -c SHA256SUMS    every file is as it was written
  python check_run.py .      every radius is proven again from the counts (pipelines/check_run.py of rspipe, which needs
                             NumPy, SciPy and pyarrow, and imports nothing of rspipe)
  rspipe compare . OTHER     against another run, image by image; rspipe derive . gives other certificates

report.html is the result in words; environment.json says with what it was computed (environment-*.json: later on);
study.toml what was asked.
"""

# No file says when it was packed, so that the same run gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


def bundled_files(run_dir: StorePath) -> Iterator[tuple[str, StorePath]]:
    """Yield the files of a run directory that a bundle holds, with their names in it, in order."""
    for folder, patterns in _FILES.items():
        place = run_dir / folder if folder else run_dir
        for path in chain.from_iterable(map(place.glob, patterns)):
            yield f"{folder}/{path.name}" if folder else path.name, path
    for folder, pattern in (("models", "model.json"), ("search", "*.json")):
        for place in (run_dir / folder).folders():
            for path in place.glob(pattern):
                yield f"{folder}/{place.name}/{path.name}", path


def bundle(run_dir: StorePath) -> bytes:
    """Return a zip of a run's study, summaries, counts, environment and records, with SHA256SUMS and README.txt.

    Networks, moments, logs and figures are left out. The same files give the same bytes.
    """
    contents = {name: path.read_bytes() for name, path in bundled_files(run_dir)}
    contents["README.txt"] = _README.encode()
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**contents, "SHA256SUMS": sums.encode()}.items():
            entry = zipfile.ZipInfo(name, date_time=_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return packed.getvalue()
