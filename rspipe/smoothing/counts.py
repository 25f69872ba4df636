"""The count table: class counts of classifiers at images, from the actor that counts to the certificates."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from rspipe.arrays import FloatArray, IntArray, TextArray
from rspipe.smoothing.sampling import Rule

NO_LABEL = -1


@dataclass(frozen=True)
class CountTable:
    """Class counts at one noise level under one rule: a row for each classifier and example.

    A pass over an image has the rows of its classifiers, the store those of a classifier's images. Certificates follow
    from the table alone (`rspipe.smoothing.derivation`).
    """

    sigma: float
    rule: Rule
    n0: int
    """Samples that select the class."""
    n: int
    """Samples that estimate its probability, at most."""
    alpha: float
    seed: int
    classifier: TextArray
    """[row] id."""
    kind: TextArray
    """[row] "model" or "ensemble"."""
    example: IntArray
    """[row] position in the test part of the data set."""
    label: IntArray
    """[row] class of the example; NO_LABEL = -1 where none was given."""
    selection: IntArray
    """[row, class] counts of the n0 samples that select the class."""
    pilot: IntArray
    """[row, class] of the samples, beside those, that the number of samples was planned from."""
    estimation: IntArray
    """[row, class] of the fresh samples that estimate the class's probability."""
    stop: TextArray
    """[row] why there are fewer samples than n: "label", "futility", "settled", "planned", or "" for all n."""
    marks: IntArray
    """[mark] numbers of samples at which the counts so far were noted."""
    prefix: IntArray
    """[row, mark, class] counts of the first so many estimation samples; -1 where there are not as many."""
    probability_sum: FloatArray
    """[row, class] sum of the classifier's probabilities over the estimation samples; [row, 0] where not kept."""
    probability_square: FloatArray
    """[row, class] sum of their squares."""
    batch_size: IntArray
    """[row] estimation samples that ran at once; 0 without any."""
    noise: TextArray
    """[row] "grid 1/255" (or 256), where it was drawn exactly on the grid of the pixels, or "float"."""
    seconds: FloatArray
    """[row] time of the pass over the example, shared by its classifiers."""

    @property
    def drawn(self) -> IntArray:
        """[row] estimation samples."""
        return np.asarray(self.estimation.sum(-1), dtype=np.int64)

    @property
    def samples(self) -> IntArray:
        """[row] samples in all."""
        return self.n0 + np.asarray(self.pilot.sum(-1), dtype=np.int64) + self.drawn

    @property
    def id(self) -> str:
        """Of the classifier, where all rows are of one."""
        assert (self.classifier == self.classifier[0]).all()
        return str(self.classifier[0])


_SHARED = ("sigma", "rule", "n0", "n", "alpha", "seed", "marks")


def of_classifier(passes: Sequence[CountTable], row: int) -> CountTable:
    """Return the counts of one classifier at many images, from passes over an image each, which have it in a row."""
    rows: dict[str, Any] = {
        field.name: np.concatenate([getattr(one, field.name)[row : row + 1] for one in passes])
        for field in fields(CountTable)
        if field.name not in _SHARED
    }
    return replace(passes[0], **rows)
