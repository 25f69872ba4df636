"""Published results, and claims to judge: `[[published]]` and `[[claims]]` of a study file."""

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from rspipe.spec import NonNegativeFloat, PositiveFloat, PositiveInt, Spec
from rspipe.study.groups import Sigmas


class PublishedResult(Spec):
    """`[[published]]`: what others report for an entry of the study, to stand beside what is measured."""

    entry: str
    """Label of models, compared in the mean over seeds, or an ensemble as in tables: "advmacer x3 (uniform)".

    One of listed models is called by their seeds where they are not the first of their label: "advmacer seeds 0,2
    (uniform)".
    """
    sigma: PositiveFloat
    acr: NonNegativeFloat
    """Mean over their seeds, where there are several."""
    low: NonNegativeFloat | None = None
    """Of their seeds; `acr` by default."""
    high: NonNegativeFloat | None = None
    images: PositiveInt = 10_000
    """Test images that it is an average over; those certified here are taken for a sample of them."""
    source: str
    differs: str = ""
    """In what the entry differs from what was published; empty where it is the same recipe."""

    @model_validator(mode="after")
    def _in_order(self) -> "PublishedResult":
        low, high = self.span
        if not low <= self.acr <= high:
            raise PydanticCustomError(
                "published_order",
                "low = {low}, acr = {acr} and high = {high} must ascend",
                {"low": low, "acr": self.acr, "high": high},
            )
        return self

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest of their seeds."""
        return (self.acr if self.low is None else self.low), (self.acr if self.high is None else self.high)


class Claim(Spec):
    """`[[claims]]`: a statement that one entry has a larger ACR than another, to be judged on the same images."""

    first: str
    """The entry with the larger ACR, named as in `PublishedResult`."""
    second: str
    sigma: Sigmas | None = None
    """Noise levels; all where both entries are certified by default."""
    by: float | None = None
    """The difference that was published, at the only noise level named."""
    source: str = ""

    @model_validator(mode="after")
    def _one_difference(self) -> "Claim":
        if self.by is not None and (self.sigma is None or len(self.sigma) != 1):
            raise PydanticCustomError("claim_sigma", "by = {by} needs a single sigma beside it", {"by": self.by})
        return self
