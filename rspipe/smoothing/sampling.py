"""How many samples an image gets: the rules with their parameters, and the numbers that counts depend on."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from rspipe.errors import nearest
from rspipe.smoothing.certificates import cannot_certify, check_alpha
from rspipe.smoothing.decisions import DecisionLooks, decision_looks
from rspipe.smoothing.noise import NoiseKind
from rspipe.smoothing.rules import looks


@dataclass(frozen=True)
class FixedRule:
    """CERTIFY of Cohen et al. 2019: n fresh samples for every image, for comparison with papers."""

    name: Literal["fixed"] = "fixed"
    label_stop: bool = False
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""

    def __post_init__(self) -> None:
        """Raise ValueError for what is of another type."""
        _check(*_types(self))


@dataclass(frozen=True)
class PlannedRule:
    """A pilot decides how many fresh samples the estimate gets; exactly as sound as CERTIFY."""

    name: Literal["planned"] = "planned"
    pilot: int = 1000
    """Samples that the plan is made from; the n0 of the selection are among them."""
    eps: float = 0.01
    """Radius that the plan may lose against n samples, on average over what the pilot leaves open, in units of sigma; 0
    is CERTIFY. At a single p a little above 1/2 it loses up to 1.7 times as much, see `planned_sizes`."""
    futility: float = 1e-3
    """Chance, at most, that an image that could be certified is given up after the pilot."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""

    def __post_init__(self) -> None:
        """Raise ValueError for all numbers that are out of range."""
        _check(*_types(self))
        _check(
            (self.pilot >= 1, f"pilot = {self.pilot} must be at least 1"),
            (0 <= self.eps < math.inf, f"eps = {self.eps} must be a finite number, at least 0"),
            _chance(self.futility),
        )


@dataclass(frozen=True)
class RadiusGridRule:
    """Certified accuracies at given radii alone: looks with shares of alpha, until the answer at each is clear."""

    name: Literal["radius_grid"] = "radius_grid"
    grid: tuple[float, ...] = tuple(0.25 * step for step in range(1, 17))
    """The radii, in pixel units; multiples of 0.25 up to 4 by default."""
    futility: float = 1e-3
    """Chance, at most, at each look that a radius that could still be proven is given up."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""

    def __post_init__(self) -> None:
        """Raise ValueError for all numbers that are out of range."""
        radii = list(self.grid)
        positive = bool(radii) and all(0 < radius < math.inf for radius in radii)
        _check(*_types(self))
        _check(
            (positive, f"grid = {radii} must hold one radius or more, all above 0"),
            (radii == sorted(set(radii)), f"grid = {radii} must ascend, without repetition"),
            _chance(self.futility),
        )


@dataclass(frozen=True)
class DecideRule:
    """Certified accuracies at one or a few radii alone: bets at growing looks, and a last look at all n samples."""

    name: Literal["decide"] = "decide"
    radii: tuple[float, ...] = (0.25,)
    """The radii, in pixel units, ascending; 0 asks for the class alone."""
    early_share: float = 0.2
    """Of alpha, for all looks before the last."""
    first: int = 100
    """Samples of the first look."""
    growth: float = 1.1
    """Factor between looks, rounded up to multiples of `step`, which is the least distance."""
    step: int = 100
    futility: float = 1e-3
    """Chance, at most, at each look that a radius that could still be proven is given up."""
    label_stop: bool = True
    """Stop after the selection where it is not the label: such an image counts 0 whatever follows."""

    def __post_init__(self) -> None:
        """Raise ValueError for all numbers that are out of range."""
        radii = list(self.radii)
        usable = bool(radii) and all(0 <= radius < math.inf for radius in radii)
        growing = self.first >= 1 and self.step >= 1 and 1 <= self.growth < math.inf
        _check(*_types(self))
        _check(
            (usable, f"radii = {radii} must hold one radius or more, none below 0"),
            (radii == sorted(set(radii)), f"radii = {radii} must ascend, without repetition"),
            _chance(self.futility),
            (0 < self.early_share < 1, f"early_share = {self.early_share} must lie in (0, 1)"),
            (growing, f"first = {self.first}, step = {self.step} and growth = {self.growth} must be at least 1"),
        )

    def looks(self, *, sigma: float, n: int, alpha: float) -> tuple[DecisionLooks, ...]:
        """Return the looks of every radius, all at the same numbers of samples; nobody may write to them."""
        given = {name: getattr(self, name) for name in ("early_share", "first", "growth", "step", "futility")}
        return tuple(_looks(radius, sigma=float(sigma), n=n, alpha=alpha, **given) for radius in self.radii)


# Every image of a pass asks for the same ones.
_looks = lru_cache(maxsize=64)(decision_looks)


def _types(rule: Any) -> Iterator[tuple[bool, str]]:
    """Yield whether settings are the whole numbers, and yes or no, that they must be."""
    for field in fields(rule):
        value = getattr(rule, field.name)
        if field.type is bool:
            yield isinstance(value, bool | np.bool_), f"{field.name} = {value!r} must be true or false"
        elif field.type is int:
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            yield whole, f"{field.name} = {value!r} must be a whole number"


def _check(*conditions: tuple[bool, str]) -> None:
    """Raise ValueError with all that is said of conditions that do not hold."""
    if wrong := [text for holds, text in conditions if not holds]:
        raise ValueError("; ".join(wrong))


def _chance(futility: float) -> tuple[bool, str]:
    return 0 < futility < 1, f"futility = {futility} must lie in (0, 1)"


Rule = FixedRule | PlannedRule | RadiusGridRule | DecideRule

RULES: dict[str, type[Rule]] = {kind().name: kind for kind in get_args(Rule)}

LOOKING = ("radius_grid", "decide")
"""Names of the rules that look at their estimation samples on the way, and may stop for what they see."""


def rule_text(rule: Rule) -> str:
    """Return a rule in words: its name, and the parameters that its certificates depend on."""
    # An image that misses the label counts 0 whether or not it was stopped.
    parameters = {name: value for name, value in asdict(rule).items() if name not in ("name", "label_stop")}
    lists = {name: "/".join(map(str, value)) for name, value in parameters.items() if isinstance(value, tuple)}
    return " ".join([rule.name, *(f"{name}={value}" for name, value in (parameters | lists).items())])


def tabulated_radii(rule: Rule, radii: Sequence[float]) -> Sequence[float]:
    """Return the radii at which certified accuracy is tabulated: those given, or those that the rule asks for alone."""
    return rule.radii if rule.name == "decide" else radii


def check_rule_keys(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that the rule of that name does not have; an unknown name is somebody else's error."""
    kind = RULES.get(str(values.get("name")))
    valid = [field.name for field in fields(kind)] if kind else []
    for key in values:
        if kind and key not in valid:
            raise ValueError(f"unknown key {key!r}{nearest(key, valid)}")


def rule_of(given: Rule | str | Mapping[str, Any]) -> Rule:
    """Return a rule from its name, a table of its name and parameters, or itself.

    Raises:
        ValueError: There is no such rule, or a parameter is unknown or out of range.
    """
    if isinstance(given, Rule):
        return given
    values: dict[str, Any] = {"name": given} if isinstance(given, str) else {**given}
    if (name := str(values.get("name"))) not in RULES:
        raise ValueError(f"unknown rule {name!r}{nearest(name, RULES)}")
    check_rule_keys(values)
    for key in ("grid", "radii"):
        if key in values:
            values[key] = tuple(map(float, values[key]))
    return RULES[name](**values)


@dataclass(frozen=True)
class Sampling:
    """All that the counts of a classifier at an image depend on, beside the two, sigma and the device."""

    rule: Rule = FixedRule()
    """How many samples each estimate gets."""
    n0: int = 100
    """Noise samples that select the class."""
    n: int = 100_000
    """Noise samples that estimate its probability, at most."""
    alpha: float = 0.001
    """Failure probability of each certificate."""
    seed: int = 0
    block_size: int = 1000
    """Noise samples per block, the unit of the noise stream."""
    batch_size: int | None = None
    """Samples per forward pass, a divisor of `block_size`; chosen by the size of an input by default."""
    noise: NoiseKind = "auto"
    """Whole numbers drawn exactly where an image has 8 bits ("grid"), or float32 ("float"); "auto": where it can be."""

    def __post_init__(self) -> None:
        """Raise ValueError where the numbers do not fit together, or could never certify anything."""
        check_alpha(self.alpha)
        counts = {name: getattr(self, name) for name in ("n0", "n", "block_size")}
        _check(*_types(self))
        _check(*((count >= 1, f"{name} must be at least 1, got {count}") for name, count in counts.items()))
        last = self.alpha
        if self.rule.name == "radius_grid":
            last = looks(self.n, self.alpha)[-1].alpha
        elif self.rule.name == "decide":
            last = (1 - self.rule.early_share) * self.alpha
        too_few, pilot, batch = cannot_certify(self.n, last), getattr(self.rule, "pilot", math.inf), self.batch_size
        _check(
            (not too_few, too_few),
            (pilot > self.n0, f"rule.pilot = {pilot} includes the selection and must exceed n0 = {self.n0}"),
            (
                batch is None or (batch >= 1 and self.block_size % batch == 0),
                f"batch_size = {batch} must divide block_size = {self.block_size}",
            ),
        )
