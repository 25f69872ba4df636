"""A certified data set: certificates of one classifier, and what is made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.audit.log import certification_log
from rspipe.errors import needs_extra
from rspipe.records import Interval
from rspipe.report.latex import latex
from rspipe.report.tables import Cell, Table, estimate_cell, number_cell, percent_cell
from rspipe.smoothing.certificates import radius_cap
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.derivation import CertifiedClassifier, certified_classifier
from rspipe.smoothing.metrics import accuracy_band, acr_by_rule, certified_accuracy
from rspipe.smoothing.sampling import tabulated_radii

_RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True, repr=False)
class CertifiedDataset:
    """Certificates of a smoothed classifier at the images of a data set, with the counts that they follow from."""

    name: str
    counts: CountTable
    members: tuple["CertifiedDataset", ...] = ()
    """The same of each member of an ensemble, from the same noise."""
    precision: str = "float32"
    """That of the forward pass; of an ensemble, those of its members."""

    @cached_property
    def certified(self) -> CertifiedClassifier:
        """The certificates, as the rule gives them."""
        return certified_classifier(self.counts)

    @property
    def label(self) -> IntArray:
        """[image]."""
        return self.certified.label

    @property
    def prediction(self) -> IntArray:
        """[image], ABSTAIN = -1."""
        return self.certified.prediction

    @property
    def radius(self) -> FloatArray:
        """[image] certified L2 radius, in the units of the images; 0 where abstained."""
        return self.certified.radius

    @property
    def correct(self) -> BoolArray:
        """[image], whether the prediction is the label."""
        return self.certified.correct

    @property
    def acr(self) -> float:
        """The average certified radius: wrong and abstained images count 0."""
        return self.acr_interval.estimate

    @cached_property
    def acr_interval(self) -> Interval:
        """The average certified radius with its 95 % interval over images."""
        return acr_by_rule(self.radius, self.correct, rule=self.counts.rule.name)

    def curve(self, radii: ArrayLike) -> FloatArray:
        """Return certified accuracy at each of some radii: the share of images right with at least such a radius."""
        return certified_accuracy(self.radius, self.correct, radii)

    def _table(self, radii: Sequence[float]) -> Table:
        radii = tabulated_radii(self.counts.rule, radii)
        return Table.of(
            {
                "classifier": Cell(one.name),
                "ACR ± 95 %": estimate_cell(one.acr_interval),
                **{f"CA({r:g})": number_cell(float(share)) for r, share in zip(radii, one.curve(radii), strict=True)},
                "abstained": percent_cell(float(np.mean((one.prediction < 0) & ~one.certified.stopped))),
                "images": number_cell(len(one.label), digits=0),
            }
            for one in (self, *self.members)
        )

    def __repr__(self) -> str:
        """Return a few lines: the terms, and a row per classifier with its ACR and certified accuracies."""
        counts, table = self.counts, self._table(_RADII)
        rows = [table.columns, *(tuple(cell.text for cell in row) for row in table.rows)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        head = (
            f"CertifiedDataset: sigma = {counts.sigma:g}, rule {counts.rule.name}, n0 = {counts.n0:,}, "
            f"n = {counts.n:,}, alpha = {counts.alpha:g}, noise {', '.join(sorted({*counts.noise.tolist()}))}"
        )
        shown, most = [], 12
        for row in rows[: most + 1]:
            cells = (
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            shown.append("  ".join(cells).rstrip())
        more = [f"... and {len(rows) - 1 - most} more members"] if len(rows) - 1 > most else []
        return "\n".join([head, *shown, *more])

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row per image: example, label, prediction, radius, correct, and their sources.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        with needs_extra("to_pandas"):
            import pandas as pd

        own = self.certified
        return pd.DataFrame(
            {
                "example": own.example,
                "label": own.label,
                "prediction": own.prediction,
                "radius": own.radius,
                "correct": own.correct,
                "p_a_lower": own.p_a_lower,
                "n_a": own.n_a,
                "samples": own.samples,
                "noise": own.noise,
                "seconds": self.counts.seconds,
            }
        )

    def to_tsv(self, path: Path | str | None = None) -> str:
        """Return a certification log (`certification_log`) in the columns of Cohen et al. 2019, and write it.

        Args:
            path: Where to write it; nowhere by default.
        """
        text = certification_log(self.certified, self.counts.rule)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def to_latex(self, radii: Sequence[float] = _RADII) -> str:
        """Return a row per classifier, the ensemble before its members, as a LaTeX tabular in the style of booktabs."""
        return latex(self._table(radii))

    def plot(self) -> Any:
        """Return a figure of certified accuracy against the radius, with pointwise 95 % intervals over images.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        # By its name, since what it stands on is of an extra.
        with needs_extra("plot"):
            import matplotlib as mpl

            from rspipe.report import figures

        counts = self.counts
        cap = radius_cap(sigma=counts.sigma, n=counts.n, alpha=counts.alpha)
        reached = max(float(one.certified.credited_radius.max()) for one in (self, *self.members))
        radii = np.linspace(0.0, min(1.02 * cap, max(1.05 * reached, 0.1 * cap)), 241)
        colours = figures.label_colours([one.name for one in (self, *self.members)])
        with mpl.rc_context(figures.STYLE):
            figure, axes = figures.new_panel(
                f"Certified accuracy, σ = {counts.sigma:g}", "certified L2 radius", "certified accuracy"
            )
            for one in (self, *self.members):
                colour, line = colours[one.name]
                share = one.curve(radii)
                axes.plot(radii, share, line, drawstyle="steps-pre", color=colour, label=figures.legend_text(one.name))
                low, high = accuracy_band(share, len(one.label))
                axes.fill_between(radii, low, high, step="pre", color=colour, alpha=0.13, linewidth=0)
            axes.set(xlim=(0.0, radii[-1]), ylim=(0.0, 1.0))
            figures.draw_legend(figure)
        return figure
