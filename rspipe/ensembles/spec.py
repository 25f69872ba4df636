"""Ensembles: members, weighting, and how their moments are estimated."""

from typing import Annotated, Literal

from pydantic import Field

from rspipe.smoothing.classifiers import Average
from rspipe.spec import PositiveFloat, PositiveInt, Seed, Spec


class WeighSpec(Spec):
    """How the moments of the margins are estimated on the calibration split."""

    images: PositiveInt | None = None
    """Number of calibration images, evenly spaced over the split; all by default."""
    draws: Annotated[int, Field(ge=2)] = 200
    """Noise draws per image, shared by all members."""
    seed: Seed = 0


Weighting = Literal["uniform", "esbrs_ratio", "esbrs_paper", "esbrs_acr", "sween", "auto", "mme", "consensus"]
"""How members are combined: an average with uniform or solved weights, or another rule of `Classifier`."""


class EnsembleSpec(Spec):
    """An ensemble of trained models at one noise level."""

    label: str
    """In the paper's words, e.g. "advmacer x1 + smoothadv x2"."""
    sigma: PositiveFloat
    members: Annotated[tuple[str, ...], Field(min_length=2)]
    """Ids of the models."""
    weights: "Weighting"
    average: Average
    weigh: WeighSpec
    consensus_size: int = 0
    """Members whose agreement decides, the first ones, for `consensus` alone."""

    @property
    def id(self) -> str:
        """Readable and unique."""
        # File names may end at 143 bytes (eCryptfs); the digest tells apart what is cut off.
        name = self.label.replace(" + ", "+").replace(" ", "-")[:80]
        return f"{name}-{self.weights}-s{self.sigma:g}-{self.digest}"


def ensemble_name(members: str, weights: str, average: str, *, consensus_size: int = 0) -> str:
    """Return an ensemble's name in tables: members and weighting, and what is averaged where it is logits.

    The members that a consensus asks first are said where they are more than two.
    """
    how = f"{weights} of {consensus_size}" if consensus_size > 2 else weights
    return f"{members} ({how})" if average == "probabilities" else f"{members} ({how}, {average})"
