"""A certification log, ours or another's, beside runs: its radii, and the counts that these imply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from rspipe.arrays import FloatArray, IntArray
from rspipe.audit.audit import Audit, audit_log
from rspipe.audit.ladder import nearest_successes
from rspipe.audit.log import (
    LEVEL_COLUMNS,
    RULE_COLUMN,
    CertificationLog,
    Precision,
    Rounding,
    log_content,
    parse_radii,
)
from rspipe.audit.radii import Known
from rspipe.audit.rows import TEST_SETS
from rspipe.errors import LogError
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.counts import CountTable
from rspipe.smoothing.metrics import credited_radius
from rspipe.smoothing.sampling import FixedRule
from rspipe.spec import ImageChoice, ImageRange

_MOST_COUNTS = 10**8
"""Of all images and classes: twice ImageNet's 50,000 of 1,000."""


@dataclass(frozen=True)
class LoggedCertificates:
    """The certificates of a log; arrays are [image], ascending by example."""

    id: str
    """Path of the file."""
    sigma: float
    example: IntArray
    label: IntArray
    prediction: IntArray
    """ABSTAIN = -1 where nothing is certified."""
    radius: FloatArray
    """As logged, in pixel units."""
    rule: str
    """In words, as the log names it; `fixed` where it names none."""
    n: int | None
    alpha: float | None
    """None, as n is, where the radii do not tell."""
    counts: CountTable | None
    """Of two classes or more, by the number of samples whose radius is nearest to the logged one; None without n."""
    problems: int
    """Number of problems that an audit finds in the log."""
    precision: Precision
    """Of the radii, as logged."""
    rounding: Rounding
    """Of the radii: by whichever their ladder fits; rspipe's own are rounded down."""

    @property
    def credits(self) -> FloatArray:
        """[image] radii as logged, 0 where the prediction is wrong."""
        return credited_radius(self.radius, self.prediction == self.label)

    def labels_of(self, examples: IntArray) -> IntArray:
        """Return the labels of some of the images."""
        return np.asarray(self.label[np.searchsorted(self.example, examples)], dtype=np.int64)

    @property
    def images(self) -> ImageChoice:
        """Which images they are, as a study file would say it; a list where they are no regular subset.

        A step that ends where a usual test set ends is a sample of all of it, a shorter one is not.
        """
        first, last = int(self.example[0]), int(self.example[-1])
        steps = np.unique(np.diff(self.example)).tolist() or [1]
        if len(steps) > 1:
            return tuple(self.example.tolist())
        skip, size = int(steps[0]), int(self.example.size)
        whole = first < skip and any(last < total <= last + skip for total in TEST_SETS)
        return ImageRange(start=first, skip=skip, first=None if whole else size)


def read_logged(path: Path, *, sigma: float | None = None) -> LoggedCertificates:
    """Return the certificates of a log.

    Args:
        path: Of the file.
        sigma: Noise level; what the file's name, a column or the radii say when None.

    Raises:
        LogError: It cannot be read, has no radii, or its noise level is not known.
    """
    return logged_certificates(parse_radii(log_content(path), name=str(path)), sigma=sigma)


def logged_certificates(log: CertificationLog, *, sigma: float | None = None) -> LoggedCertificates:
    """Return the certificates of a log of radii; see `read_logged`."""
    audit = audit_log(log, Known(sigma=sigma))
    if audit.sigma is None:
        raise LogError(
            f"{log.name}: nothing says its noise level; name the file sigma_0.25.tsv, or the like, or give it"
        )
    ladder = audit.ladder
    return LoggedCertificates(
        id=log.name,
        sigma=audit.sigma,
        example=audit.idx,
        label=audit.label,
        prediction=audit.predict,
        radius=audit.radius,
        rule=log.rule,
        n=None if ladder is None else ladder.n,
        alpha=None if ladder is None else ladder.alpha,
        counts=_implied_counts(audit, name=PurePath(log.name).name),
        problems=audit.problems,
        precision=audit.precision,
        # Who names levels or a rule is rspipe.
        rounding=ladder.rounding if ladder else "down" if {LEVEL_COLUMNS[0], RULE_COLUMN} & {*log.extra} else "nearest",
    )


def _implied_counts(audit: Audit, *, name: str) -> CountTable | None:
    """Return class counts from which CERTIFY makes the radii of a log; None where n and alpha are not known.

    Samples that are not of the predicted class are given to another one. Of an abstention only is known that it is
    one: no sample is given to its class, so that it stays one at any alpha.

    Raises:
        LogError: Its classes are too many.
    """
    if (ladder := audit.ladder) is None:
        return None
    claimed, rows = audit.predict != ABSTAIN, np.arange(audit.idx.size)
    classes = max(int(audit.label.max()), int(audit.predict.max()), 1) + 1
    if rows.size * classes > _MOST_COUNTS:
        raise LogError(
            f"{name}: class {classes - 1:,} stands in a log of {rows.size:,} images; too many counts to hold"
        )
    selected = np.where(claimed, audit.predict, audit.label)
    n_a = np.where(claimed, nearest_successes(audit.radius, ladder), 0)
    selection = np.zeros((rows.size, classes), np.int64)
    selection[rows, selected] = 1
    estimation = np.zeros_like(selection)
    estimation[rows, selected] = n_a
    estimation[rows, (selected + 1) % classes] = ladder.n - n_a
    nothing = np.zeros((rows.size, 0))
    return CountTable(
        sigma=ladder.sigma,
        rule=FixedRule(),
        n0=1,
        n=ladder.n,
        alpha=ladder.alpha,
        seed=0,
        classifier=np.full(rows.size, name),
        kind=np.full(rows.size, "model"),
        example=audit.idx,
        label=audit.label,
        selection=selection,
        pilot=np.zeros_like(selection),
        estimation=estimation,
        stop=np.full(rows.size, "", dtype="<U8"),
        marks=np.array([ladder.n]),
        prefix=estimation[:, None],
        probability_sum=nothing,
        probability_square=nothing,
        batch_size=np.zeros(rows.size, np.int64),
        noise=np.full(rows.size, "unknown"),
        seconds=np.zeros(rows.size),
    )


def differing_terms(ours: Mapping[str, Sequence[str]], theirs: Mapping[str, Sequence[str]]) -> str:
    """Return in what two sides differ, in words: their values of each term, by its name; empty without anything.

    What one side does not say is not known to differ.
    """
    different = [name for name in ours if ours[name] and theirs.get(name) and ours[name] != theirs[name]]
    return ", ".join(f"{name} is {'/'.join(ours[name])} and {'/'.join(theirs[name])}" for name in different)


def log_caveat(one: LoggedCertificates) -> str:
    """Return what to know before a log is compared; empty without anything."""
    if one.problems:
        return f"an audit finds {one.problems} that {'is' if one.problems == 1 else 'are'} wrong; see rspipe audit"
    if one.n is None:
        return "its radii do not tell n and alpha, which have to be those of the others"
    return ""
