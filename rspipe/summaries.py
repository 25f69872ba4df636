"""From the records of a study to what is reported of it: summaries and paired differences."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rspipe.records import EnsembleWeights, SearchResult, TrainedModel, Trial
from rspipe.study import StudyConfig

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class CertifiedClassifier:
    """The certificates of one classifier (a base model or an ensemble), ordered by example."""

    id: str
    kind: Literal["model", "ensemble"]
    sigma: float
    example: IntArray
    """[example], position in the test part of the data set."""
    label: IntArray
    """[example]."""
    prediction: IntArray
    """[example], ABSTAIN = -1."""
    radius: FloatArray
    """[example], pixel units, 0 where abstained."""
    n_a: IntArray
    """[example], estimation samples of the selected class."""
    p_a_lower: FloatArray
    """[example]."""
    n: int
    seconds: float
    """Time of the passes it was certified in, shared with all other classifiers of the pass."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[example], whether the prediction is the label."""
        return np.equal(self.prediction, self.label)


@dataclass(frozen=True)
class Results:
    """Everything a study has produced so far, read back from its run directory."""

    study: StudyConfig
    environment: dict[str, str]
    """Commit, package versions, device, precision, machine."""
    models: tuple[TrainedModel, ...]
    searches: tuple[SearchResult, ...]
    trials: tuple[Trial, ...]
    ensembles: tuple[EnsembleWeights, ...]
    certified: tuple[CertifiedClassifier, ...]
