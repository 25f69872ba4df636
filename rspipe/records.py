"""Records: what came out of a stage. Plain frozen dataclasses that travel as JSON."""

from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, ClassVar, Literal, Self

Status = Literal["finished", "diverged", "collapsed", "failed"]
"""How a training ended, `failed` where the network returned no class scores (NaN) later on; only what finished is
certified or a member of an ensemble."""

TrialStatus = Literal[Status, "stopped", "invalid"]
"""How a trial ended: `stopped` by early stopping, `invalid` where its hyper-parameters do not fit together."""


_SOLE = 0.99
"""Weight above which the others of an ensemble decide next to nothing: it is one model by another name."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """Base of the records that are stored as JSON."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-like dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the record that `to_json` described; lists become tuples, at any depth but inside dictionaries."""
        return cls(**{key: _with_tuples(value) for key, value in values.items()})


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Record):
    """A trained base classifier; its parameters lie beside the record."""

    id: str
    label: str
    source: str
    """The method that trained it, or "checkpoint" where it was loaded."""
    train_sigma: float
    seed: int
    spec: dict[str, Any]
    status: Status
    message: str
    """Why training ended early, or why the normalization of a checkpoint is doubtful; else empty."""
    collapsed: bool
    """True when it predicts a single class on the validation split."""
    history: tuple[dict[str, float | int], ...]
    """One entry per epoch: `epoch` (from 1), `lr`, `seconds`, `samples_per_second` (noisy samples that went forward and
    backward), `loss`, the method's loss terms, `noisy_accuracy`; every so often what
    `rspipe.training.validation.validation_metrics` gives."""
    clean_accuracy: float
    """Share of the validation images (where there are none, of some others) classified correctly without noise."""
    noisy_accuracy: float
    """The same with one draw of the training noise per image."""
    seconds: float
    """Training time, summed over interruptions."""
    passes: int
    """Forward-and-backward passes of single noisy images."""
    parameters: int
    device: str
    precision: str | None
    """Of its training; None where it was trained elsewhere."""
    checksum: str
    """Of the parameters: certificates and ensemble weights hold for these and no others."""
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None
    """Mean and standard deviation per channel of the network's first layer; None where it has no such layer."""
    input_shape: tuple[int, ...]
    """Of an image."""
    answers: tuple[tuple[float, ...], ...] | None
    """Logits for fixed inputs, see `rspipe.networks.answers.answers_of`: code that has changed since gives others."""

    @property
    def common_seed(self) -> int | None:
        """Its seed, where models of other labels with this seed drew the same in their trainings; None where not."""
        return self.seed if self.spec.get("training", {}).get("common_seeds") else None


@dataclass(frozen=True, kw_only=True)
class Trial(Record):
    """One trial of a search: a set of hyper-parameters and its objective on the validation split."""

    search: str
    index: int
    """Position in the search's own sequence; 0 are the method's settings in the study file."""
    parameters: dict[str, float | int]
    """Of the hyper-parameters whose conditions hold."""
    objective: float
    """Certified ACR on the validation split; 0 where training did not finish."""
    noisy_accuracy: float
    status: TrialStatus
    message: str
    seconds: float
    passes: int
    error: float | None
    """Standard error of the objective for the choice of validation images; None where training did not finish. All
    trials of a search share the images and the noise, so their differences are known better; another training seed is
    not in it."""
    accuracy: float
    """Clean accuracy of the smoothed classifier: certified accuracy at radius 0 on the validation split."""
    epochs: int
    """That were trained."""
    watched: dict[str, float]
    """The estimates of the ACR that trials are compared by while they train, by epoch."""


@dataclass(frozen=True, kw_only=True)
class SearchResult(Record):
    """A finished search at one noise level."""

    id: str
    label: str
    sigma: float
    best: dict[str, float | int]
    best_index: int
    objective: float
    default_objective: float | None
    """Objective of the settings in the study file (trial 0); None where their training did not finish."""
    trials: int


@dataclass(frozen=True, kw_only=True)
class EnsembleWeights(Record):
    """An ensemble of base classifiers with its weights, frozen before any test image is seen."""

    id: str
    label: str
    sigma: float
    members: tuple[str, ...]
    """Ids of the member models."""
    method: str
    """How the weights were chosen."""
    average: str
    weights: tuple[float, ...]
    """Non-negative, sum 1."""
    objective: float
    """Value of the method's objective at the weights."""
    uniform_objective: float
    """Value of the same objective at uniform weights."""
    status: str
    solver: str
    gap: float
    """Relative optimality gap (Frank-Wolfe)."""
    pairs: int | None
    """Pairs of calibration image and competitor that `esbrs_paper` rests on; None of other methods."""
    effective_pairs: float | None
    """How many pairs of equal influence they amount to."""
    spread: tuple[float, ...]
    """Standard deviations of the weights for the choice of calibration images, by bootstrap; empty where unknown."""
    images: int
    draws: int
    checksums: tuple[str, ...]
    """Of the members' parameters."""
    consensus_size: int
    """Members whose agreement decides, the first ones, for `consensus` alone."""

    @property
    def sole_member(self) -> str | None:
        """Id of the member with more than 99 % of the weight, which the ensemble then is; None where there is none."""
        weight, member = max(zip(self.weights, self.members, strict=True))
        return member if weight > _SOLE else None


@dataclass(frozen=True, kw_only=True)
class Cascade(Record):
    """A cascade over noise levels of certified classifiers, in the order of its levels."""

    name: str
    """In a study file: of all cascades that differ in the seed of their models alone."""
    sigmas: tuple[float, ...]
    classifiers: tuple[str, ...]
    """Ids of a model or an ensemble of each level."""
    seed: int | None
    """Of its models, where a level is a label; None where all levels are ensembles."""
    two_sided: bool = False
    """Whether the last level has a two-sided certificate."""

    @property
    def id(self) -> str:
        """Readable, and unique in a study."""
        return f"{file_name(self.name)}{'' if self.seed is None else f'-seed{self.seed}'}"

    @property
    def sigma(self) -> float:
        """Of the first level, beside which it stands in tables."""
        return self.sigmas[0]

    @property
    def label(self) -> str:
        """As the name."""
        return self.name


@dataclass(frozen=True, kw_only=True)
class CascadeChoice(Record):
    """The levels of a cascade that were chosen on the calibration images, before any test image is seen."""

    name: str
    """Of the cascade."""
    sigmas: tuple[float, ...]
    entries: tuple[str, ...]
    """Label or ensemble of each level."""
    value: float
    """What the calibration images lead to expect: mean radius or share of certified images, averaged over seeds."""
    next_value: float
    """That of the second best; NaN where there was no other."""
    candidates: int
    images: int
    draws: int
    members: tuple[str, ...]
    """Ids of the models that were chosen from."""
    checksums: tuple[str, ...]
    """Of their parameters."""

    @property
    def text(self) -> str:
        """In words."""
        levels = ", ".join(f"{entry} at {sigma:g}" for sigma, entry in zip(self.sigmas, self.entries, strict=True))
        others = f", next {self.next_value:.4f}" if self.candidates > 1 else ""
        return (
            f"{self.name}: {levels}, the best of {self.candidates} on {self.images} calibration images "
            f"({self.draws} draws of each; expected {self.value:.4f}{others})"
        )


def file_name(name: str) -> str:
    """Return the name of a cascade as that of a file, of which some file systems take 143 bytes."""
    readable = name.replace(", ", "-").replace(" + ", "+").replace(" ", "-")
    return readable if len(readable) <= 90 else f"{readable[:81]}-{sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, kw_only=True)
class BoundaryCheck(Record):
    """Attacks on a certified classifier, inside, on and beyond the certified radius of test images."""

    classifier: str
    """Its id."""
    name: str
    """In tables."""
    sigma: float
    key: str
    """Identity of what its certificates depend on."""
    images: int
    """That were certified with the right class and a radius above 0, of which these were attacked."""
    steps: int
    draws: int
    n: int
    alpha: float
    """Probability that a prediction is wrong, at most."""
    factors: tuple[float, ...]
    """Distances allowed to the attack, in units of each image's certified radius."""
    same: tuple[int, ...]
    """Images at each distance whose prediction was still the certified class."""
    abstained: tuple[int, ...]
    changed: tuple[int, ...]
    """Images predicted as another class."""
    ever_changed: tuple[int, ...]
    """Images predicted as another class at this distance or a smaller one."""
    distance: tuple[float, ...]
    """Mean distance that was gone, in units of the radius: the box [0, 1] may keep an attack short."""

    @property
    def broken(self) -> int:
        """Predictions that changed within the certified radius: there should be none."""
        return sum(count for factor, count in zip(self.factors, self.changed, strict=True) if factor <= 1)

    @property
    def expected_broken(self) -> float:
        """How many predictions within the radius are wrong, at most, on average, by the errors of prediction alone."""
        return self.alpha * self.images * sum(factor <= 1 for factor in self.factors)


@dataclass(frozen=True, kw_only=True)
class Interval(Record):
    """An estimate with a 95 % confidence interval."""

    estimate: float
    low: float
    high: float
