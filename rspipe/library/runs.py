"""A finished run, read for a notebook: its summaries, curves and counts in pandas."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rspipe.errors import StoreError
from rspipe.report.results import Results
from rspipe.smoothing.metrics import accuracy_band, certified_accuracy
from rspipe.stages.report import read_results
from rspipe.storage.opening import read_study
from rspipe.storage.store import Store


@dataclass(frozen=True, repr=False)
class Run:
    """The content of a run directory: a study, finished or not."""

    path: str
    results: Results
    """Records and certificates, as the report is made from them."""

    @property
    def summaries(self) -> pd.DataFrame:
        """A row per certified classifier: its ACR with interval, accuracies, cost, members and weights."""
        rows = []
        for one in self.results.summaries:
            shares = zip(one.radii, one.certified_accuracy, strict=True)
            values = {**one.to_json(), "acr": one.acr.estimate, "acr_low": one.acr.low, "acr_high": one.acr.high}
            del values["radii"], values["certified_accuracy"]
            rows.append(values | {f"certified_accuracy_{radius:g}": share for radius, share in shares})
        return pd.DataFrame(rows)

    def curves(self, radii: Sequence[float] | None = None) -> pd.DataFrame:
        """Return certified accuracy by classifier and radius, with pointwise 95 % Wilson intervals over images.

        Args:
            radii: In pixel units; those of the study's tables by default.
        """
        at = list(self.results.radii if radii is None else radii)
        frames = []
        for one in self.results.summaries:
            certified = self.results.certificates(one.id)
            assert certified is not None
            share = certified_accuracy(certified.radius, certified.correct, at)
            low, high = accuracy_band(share, one.images)
            frames.append(
                pd.DataFrame(
                    {"name": one.name, "sigma": one.sigma, "radius": at, "accuracy": share, "low": low, "high": high}
                )
            )
        return pd.concat(frames, ignore_index=True)

    @property
    def certificates(self) -> pd.DataFrame:
        """A row per classifier and image: label, prediction, radius, correct."""
        frames = []
        for one in self.results.summaries:
            certified = self.results.certificates(one.id)
            assert certified is not None
            columns = ("example", "label", "prediction", "radius", "correct", "p_a_lower", "n_a", "samples", "noise")
            values = {name: getattr(certified, name) for name in columns}
            frames.append(pd.DataFrame({"name": one.name, "sigma": one.sigma, **values}))
        return pd.concat(frames, ignore_index=True)

    @property
    def counts(self) -> pd.DataFrame:
        """All counts as they are stored, a row per classifier and image; see `rspipe.storage.counts.SCHEMA`."""
        table = Store(self.path).counts()
        assert table is not None
        frame: pd.DataFrame = table.to_pandas()
        return frame

    def __repr__(self) -> str:
        """Return a few lines: the study, and the ACR of the first classifiers."""
        study, summaries, most = self.results.study, self.results.summaries, 12
        lines = [f"Run of study {study.id} in {self.path}: {len(summaries)} classifiers certified"]
        for one in summaries[:most]:
            lines.append(
                f"  sigma {one.sigma:g}  {one.name}: ACR {one.acr.estimate:.3f} "
                f"[{one.acr.low:.3f}, {one.acr.high:.3f}], {one.images} images"
            )
        more = len(summaries) - most
        return "\n".join(lines + ([f"  ... and {more} more"] if more > 0 else []))


def read_run(path: Path | str) -> Run:
    """Return what a run directory holds: a folder, or an address in an object store.

    Args:
        path: Of the run.

    Raises:
        StoreError: It is no run directory, of another version of rspipe, or nothing in it is certified.
    """
    store = Store(path)
    results = read_results(store, read_study(store))
    if not results.summaries:
        raise StoreError(f"{store.run_dir}: nothing is certified in it yet; run the study to its end")
    return Run(str(store.run_dir), results)
