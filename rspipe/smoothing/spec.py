"""Specs of certification: the rule, the sample sizes, alpha."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rspipe.networks.deployment import Precision
from rspipe.smoothing.certificates import check_can_certify
from rspipe.smoothing.rules import looks
from rspipe.spec import NonNegativeFloat, PositiveFloat, PositiveInt, Seed, Spec, by_name

Probability = Annotated[float, Field(gt=0, lt=1)]


class FixedRule(Spec):
    """CERTIFY of Cohen et al. 2019: n fresh samples for every image, for comparison with papers."""

    name: Literal["fixed"] = "fixed"
    label_stop: bool = False
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""


class PlannedRule(Spec):
    """A pilot decides how many fresh samples the estimate gets; exactly as sound as CERTIFY."""

    name: Literal["planned"]
    pilot: PositiveInt = 1000
    """Samples that the plan is made from; the n0 of the selection are among them."""
    eps: NonNegativeFloat = 0.01
    """Radius that the plan may lose against n samples, on average, in units of sigma; 0 is CERTIFY."""
    futility: Probability = 1e-3
    """Chance, at most, that an image that could be certified is given up after the pilot."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""


class RadiusGridRule(Spec):
    """Certified accuracies at given radii alone: looks with shares of alpha, until the answer at each is clear."""

    name: Literal["radius_grid"]
    grid: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = tuple(0.25 * step for step in range(1, 17))
    """The radii, in pixel units; multiples of 0.25 up to 4 by default."""
    futility: Probability = 1e-3
    """Chance, at most, at each look that a radius that could still be proven is given up."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""

    @model_validator(mode="after")
    def _ascending(self) -> "RadiusGridRule":
        if list(self.grid) != sorted(set(self.grid)):
            raise PydanticCustomError(
                "grid_order", "grid = {grid} must ascend, without repetition", {"grid": str(list(self.grid))}
            )
        return self


RuleSpec = Annotated[FixedRule | PlannedRule | RadiusGridRule, Field(discriminator="name")]


class CertifySpec(Spec):
    """How classifiers are certified on the test split."""

    rule: Annotated[RuleSpec, BeforeValidator(by_name)] = FixedRule()
    """How many samples each estimate gets: a rule's name, or a table of its name and parameters."""
    n0: PositiveInt = 100
    """Noise samples that select the class."""
    n: PositiveInt = 100_000
    """Noise samples that estimate its probability, at most."""
    alpha: Probability = 0.001
    """Failure probability of each certificate."""
    images: PositiveInt | None = None
    """Number of test images, evenly spaced over the split; all by default."""
    seed: Seed = 0
    precision: Precision = "float32"
    """Of the forward pass: the classifier that is certified is `rspipe.deploy(network, precision=...)`."""
    block_size: PositiveInt = 1000
    """Noise samples per block, the unit of the noise stream."""
    batch_size: PositiveInt | None = None
    """Samples per forward pass, a divisor of `block_size`; chosen by the size of an input by default."""

    @model_validator(mode="after")
    def _can_certify(self) -> "CertifySpec":
        whole = self.rule.name != "radius_grid"
        check_can_certify(self.n, self.alpha if whole else looks(self.n, self.alpha)[-1].alpha)
        if self.rule.name == "planned" and self.rule.pilot <= self.n0:
            raise PydanticCustomError(
                "pilot_too_small",
                "rule.pilot = {pilot} includes the selection and must exceed n0 = {n0}",
                {"pilot": self.rule.pilot, "n0": self.n0},
            )
        if self.batch_size is not None and self.block_size % self.batch_size:
            raise PydanticCustomError(
                "batch_no_divisor",
                "batch_size = {batch} must divide block_size = {block}",
                {"batch": self.batch_size, "block": self.block_size},
            )
        return self
