"""Specs of certification: the rule, the sample sizes, alpha."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from rspipe.networks.precision import Precision
from rspipe.smoothing.noise import NoiseKind
from rspipe.smoothing.sampling import DecideRule, FixedRule, PlannedRule, RadiusGridRule, Sampling, check_rule_keys
from rspipe.spec import ImageChoice, PositiveInt, Seed, Spec, by_name

Probability = Annotated[float, Field(gt=0, lt=1)]


def _rule_by_name(value: Any) -> Any:
    table = by_name(value)
    if isinstance(table, Mapping):
        check_rule_keys(table)
    return table


RuleSpec = Annotated[FixedRule | PlannedRule | RadiusGridRule | DecideRule, Field(discriminator="name")]


class CertifySpec(Spec):
    """How classifiers are certified on the test split."""

    rule: Annotated[RuleSpec, BeforeValidator(_rule_by_name)] = Sampling.rule
    """How many samples each estimate gets: a rule's name, or a table of its name and parameters."""
    n0: PositiveInt = Sampling.n0
    """Noise samples that select the class."""
    n: PositiveInt = Sampling.n
    """Noise samples that estimate its probability, at most."""
    alpha: Probability = Sampling.alpha
    """Failure probability of each certificate."""
    images: ImageChoice | None = None
    """Which test images: so many, evenly spaced over the split, a range such as { skip = 20 }, or a list of their
    numbers; all by default."""
    seed: Seed = Sampling.seed
    precision: Precision = "float32"
    """Of the forward pass: the classifier that is certified is `rspipe.deploy(network, precision=...)`. In a study file
    it may be "auto", which is its default there: what is faster on the machine that the study is begun on."""
    block_size: PositiveInt = Sampling.block_size
    """Noise samples per block, the unit of the noise stream."""
    batch_size: PositiveInt | None = None
    """Samples per forward pass, a divisor of `block_size`; chosen by the size of an input by default."""
    noise: NoiseKind = Sampling.noise
    """Exactly drawn whole numbers where an image has 8 bits ("grid"), or float32; "auto": the first where it can be."""

    @property
    def sampling(self) -> Sampling:
        """The values that counts depend on.

        Raises:
            ValueError: The numbers do not fit together, or could never certify anything.
        """
        return Sampling(**{field.name: getattr(self, field.name) for field in fields(Sampling)})

    @model_validator(mode="after")
    def _can_certify(self) -> "CertifySpec":
        _ = self.sampling
        return self
