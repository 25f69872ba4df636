"""Published results, and claims to judge: `[[published]]` and `[[claims]]` of a study file."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.spec import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Spec
from rspipe.study.groups import Sigmas, as_tuple


class PublishedResult(Spec):
    """`[[published]]`: what others report for an entry of the study, to stand beside what is measured."""

    entry: str
    """Label of models, compared in the mean over seeds, or an ensemble as in tables: "advmacer x3 (uniform)".

    One of listed models is called by their seeds where they are not the first of their label: "advmacer seeds 0,2
    (uniform)".
    """
    sigma: PositiveFloat
    acr: NonNegativeFloat | None = None
    """Mean over their seeds, where there are several; None where their logs say it."""
    logs: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Published certification logs, one per seed: files, or logs in a table, as `FILE.parquet#NUMBER`. Absolute, or
    relative to the study file. The run directory keeps a copy."""
    seeds: PositiveInt = 1
    low: NonNegativeFloat | None = None
    """The least ACR of their seeds, of which there are two to five where it is given with `high`."""
    high: NonNegativeFloat | None = None
    decimals: NonNegativeInt | None = None
    """To which it is rounded; as many as are written by default, but three at least."""
    images: PositiveInt = 10_000
    """Test images that it is an average over: the first ones, or every `every`-th."""
    every: PositiveInt = 1
    """20: over images 0, 20, 40, ... of the test set."""
    n: PositiveInt = 100_000
    """Samples of CERTIFY."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.001
    """Error of CERTIFY."""
    source: str
    differs: str = ""
    """In what the entry differs from what was published; empty where it is the same recipe."""

    @model_validator(mode="after")
    def _figure_or_logs(self) -> "PublishedResult":
        if (self.acr is None) == (not self.logs):
            raise PydanticCustomError("published_what", "needs acr, or the logs that say it; give one of the two")
        figure: dict[str, object] = {
            "seeds": 1,
            "low": None,
            "high": None,
            "decimals": None,
            "images": 10_000,
            "every": 1,
        }
        figure |= {"n": 100_000, "alpha": 0.001}
        repeated = [name for name, default in figure.items() if getattr(self, name) != default]
        if self.logs and repeated:
            raise PydanticCustomError("published_both", "{name}: the logs say it; drop it", {"name": repeated[0]})
        for log in self.logs:
            if self.logs.count(log) > 1:
                raise PydanticCustomError(
                    "published_twice", "logs names '{log}' twice, as if it were two seeds; remove one", {"log": log}
                )
        return self

    @model_validator(mode="after")
    def _in_order(self) -> "PublishedResult":
        low, high = self.low, self.high
        if (low is None) != (high is None):
            raise PydanticCustomError(
                "published_span", "low and high of their seeds belong together; give both or none"
            )
        if low is not None and high is not None:
            if self.acr is not None and not low <= self.acr <= high:
                raise PydanticCustomError(
                    "published_order",
                    "low = {low}, acr = {acr} and high = {high} must ascend",
                    {"low": low, "acr": self.acr, "high": high},
                )
            if not 2 <= self.seeds <= 5:
                raise PydanticCustomError(
                    "published_seeds",
                    "low and high tell the scatter of two to five seeds, not of seeds = {seeds}; correct one of them",
                    {"seeds": self.seeds},
                )
        return self

    @property
    def rounded_to(self) -> int:
        """Decimals of `acr`."""
        return max(3, len(repr(self.acr).partition(".")[2])) if self.decimals is None else self.decimals

    @property
    def examples(self) -> range:
        """Numbers of the test images that it is an average over."""
        return range(0, self.images * self.every, self.every)


class Claim(Spec):
    """`[[claims]]`: a statement that one entry has a larger ACR than another, to be judged on the same images."""

    first: str
    """The entry with the larger ACR, named as in `PublishedResult`."""
    second: str
    sigma: Sigmas | None = None
    """Noise levels; all where both entries are certified by default."""
    by: float | None = None
    """The difference that was published, first less second, at the only noise level named; below 0, the published order
    is the other way round, and it is that order which is judged."""
    seeds: PositiveInt = 1
    """Published seeds of each entry."""
    source: str = ""
    differs: str = ""
    """Data, architecture or certificate that the claim was made on, where they are others than here: a verdict on it is
    then no reproduction. Empty where they are the same."""

    @model_validator(mode="after")
    def _one_difference(self) -> "Claim":
        if self.by is not None and (self.sigma is None or len(self.sigma) != 1):
            raise PydanticCustomError("claim_sigma", "by = {by} needs a single sigma beside it", {"by": self.by})
        return self

    @property
    def size(self) -> float | None:
        """By how much the entry that was published as the larger one is larger."""
        return None if self.by is None else abs(self.by)
