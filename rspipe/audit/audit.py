"""The audit of a certification log: what it is, what follows from it, and what is wrong with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rspipe.arrays import BoolArray, FloatArray, IntArray
from rspipe.audit.columns import COLUMNS
from rspipe.audit.ladder import Ladder, nearest_successes, proved_radius, successes
from rspipe.audit.log import OWN_COLUMNS, CertificationLog, Precision, radius_precision, write_log
from rspipe.audit.radii import (
    RADII,
    Known,
    Levels,
    check_cascade,
    check_radii,
    implied_ladder,
    logged_levels,
    logged_sigma,
    parameters_text,
    without_ladder,
)
from rspipe.audit.rows import Finding, check_claims, check_collapse, check_lines, counted, describe_images
from rspipe.records import Interval
from rspipe.smoothing.certificates import ABSTAIN
from rspipe.smoothing.metrics import accuracy_band, acr_interval, certified_accuracy, credited_radius, saturated
from rspipe.smoothing.sampling import LOOKING


@dataclass(frozen=True)
class AccuracyAt:
    """Certified accuracy at a radius, with its 95 % interval (Wilson)."""

    radius: float
    accuracy: Interval


@dataclass(frozen=True)
class Audit:
    """All that is known of a log. Arrays are [image], ascending, from the first row of each image."""

    name: str
    idx: IntArray
    label: IntArray
    predict: IntArray
    radius: FloatArray
    time_text: tuple[str, ...]
    own: dict[str, tuple[str, ...]]
    """Columns that rspipe writes beside Cohen's (`OWN_COLUMNS`), as far as the log has them."""
    description: str
    """Of the file, in words."""
    images: str
    """Which images it is of."""
    precision: Precision
    sigma: float | None
    ladder: Ladder | None
    """The sigma, n and alpha that the radii imply; None where they do not say."""
    acr: Interval | None
    """With a 95 % interval for this model on other images; None where the log has no radii, or given ones alone."""
    accuracy: tuple[AccuracyAt, ...]
    """Of the whole log at radius 0, and at multiples of 0.25 that some image reaches; by a rule that knows given radii
    alone, at those that images have."""
    abstained: float
    """Share of images."""
    saturated: float | None
    """Share of images whose n samples all fell on one class; None where n is unknown."""
    findings: tuple[Finding, ...]
    """Problems first."""

    @property
    def correct(self) -> BoolArray:
        """[image], whether the prediction is the label."""
        return np.equal(self.predict, self.label)

    @property
    def problems(self) -> int:
        """Number of findings that make the log wrong, incomplete or not comparable."""
        return sum(finding.severity == "problem" for finding in self.findings)


def audit_log(log: CertificationLog, known: Known | None = None) -> Audit:
    """Return everything that a log shows."""
    known = known or Known()
    idx, rows = np.unique(log.idx, return_index=True)
    label, predict, radius = log.label[rows], log.predict[rows], log.radius[rows]
    correct, claimed = predict == label, predict != ABSTAIN
    precision = radius_precision(log.radius_text[row] for row in rows if log.radius[row] > 0)
    images, incomplete = describe_images(idx, labels=label, size=known.images)
    findings = [*check_lines(log), *incomplete, *check_claims(log), *check_collapse(predict, label)]
    sigma, ladder, at_cap, acr = known.sigma or logged_sigma(log), None, None, None
    levels, given = logged_levels(log), log.rule.partition(" ")[0] in LOOKING
    if log.kind == "certify":
        acr = acr_interval(radius, correct) if log.has_acr else None
        if levels is not None:
            own = Levels(levels.level[rows], levels.sigma[rows])
            findings += check_cascade(
                own, idx, radius, claimed, precision=precision, known=known, without=without_ladder(log)
            )
        else:
            sigma, ladder, about_ladder = implied_ladder(log, idx[claimed], radius[claimed], precision, known)
            findings += about_ladder
    if ladder is not None:
        findings += check_radii(ladder, idx, radius, correct, claimed, precision=precision, known=known)
        at_cap = float(np.mean(claimed & saturated(nearest_successes(radius, ladder), ladder.n)))
    return Audit(
        name=log.name,
        idx=idx,
        label=label,
        predict=predict,
        radius=radius,
        time_text=tuple(log.time_text[row] for row in rows),
        own={name: tuple(log.extra[name][row] for row in rows) for name in OWN_COLUMNS if name in log.extra},
        description=describe(log, precision, levels),
        images=images,
        precision=precision,
        sigma=sigma,
        ladder=ladder,
        acr=acr,
        # A flag is no radius.
        accuracy=_accuracy(radius if log.kind == "certify" else np.zeros_like(radius), correct, given=given),
        abstained=float(np.mean(~claimed)),
        saturated=at_cap,
        findings=tuple(sorted(findings, key=lambda finding: finding.severity != "problem")),
    )


def describe(log: CertificationLog, precision: Precision, levels: Levels | None) -> str:
    """Return what a file is, in a few words."""
    kinds = {
        "certify": "log of CERTIFY" if log.rule == "fixed" else f"log of certificates by {log.rule}",
        "predict": "log of PREDICT, without radii",
        "flags": "flags of a given radius",
    }
    parts = [kinds[log.kind]]
    if levels is not None:
        parts.append(f"of a cascade over sigma {', '.join(f'{sigma:g}' for sigma in levels.sigmas.values())}")
    if not log.header:
        parts.append("no header, taken for Cohen's six columns")
    elif log.header == COLUMNS:
        parts.append("Cohen's six columns")
    else:
        parts.append(f"columns {', '.join(log.header)}")
    if log.kind == "certify":
        parts.append(f"radii with {precision.digits} {precision.kind}")
    if log.kind == "flags":
        parts.append(f"{100 * float(np.mean((log.radius > 0) & log.correct)):.1f} % of the rows proved and correct")
    if log.line_ends != "LF":
        parts.append(f"line ends {log.line_ends}")
    if log.prose:
        parts.append(f"{counted(log.prose, 'line')} of prose")
    seconds = log.seconds[np.isfinite(log.seconds)]
    if seconds.size and seconds.mean() > 0:
        parts.append(f"{seconds.mean():.3g} s per image")
    return "; ".join(parts)


def audit_lines(audit: Audit) -> list[tuple[str, str]]:
    """Return what is to be read of an audit: a word on the left, a sentence on the right."""
    lines = [("is", audit.description), ("images", audit.images)]
    if audit.ladder is not None:
        lines.append(("radii imply", parameters_text(audit.ladder)))
    elif audit.sigma is not None:
        lines.append(("sigma", f"{audit.sigma:g}"))
    if audit.acr is not None:
        lines.append(("ACR", f"{audit.acr.estimate:.4f} [{audit.acr.low:.4f}, {audit.acr.high:.4f}]"))
    shown = audit.accuracy[:: 1 + len(audit.accuracy) // 9]
    accuracy = [(f"CA({at.radius:g})", at.accuracy) for at in shown]
    lines.append((
        "accuracy", ", ".join(f"{name} {ca.estimate:.3f} [{ca.low:.3f}, {ca.high:.3f}]" for name, ca in accuracy)
    ))  # fmt: skip
    saturated = "" if audit.saturated is None else f", saturated {100 * audit.saturated:.1f} %"
    lines.append(("share", f"abstained {100 * audit.abstained:.1f} %{saturated}"))
    lines += [(finding.severity, finding.text) for finding in audit.findings]
    return lines


def _accuracy(radius: FloatArray, correct: BoolArray, *, given: bool) -> tuple[AccuracyAt, ...]:
    """Return certified accuracies, at the radii that images have where only given ones are known."""
    largest = float(credited_radius(radius, correct).max())
    radii = np.unique(radius[correct]).tolist() if given else [at for at in RADII if at <= largest]
    share = certified_accuracy(radius, correct, radii)
    low, high = accuracy_band(share, radius.size)
    rows = zip(radii, share.tolist(), low.tolist(), high.tolist(), strict=True)
    return tuple(AccuracyAt(at, Interval(estimate=p, low=below, high=above)) for at, p, below, above in rows)


def cohen_log(audit: Audit) -> str:
    """Return a log in Cohen's six columns: a row per image in their order, radii as logged, `correct` computed."""
    return write_log(
        (i, label, predict, _plain(radius), int(label == predict), time or "0.0")
        for i, label, predict, radius, time in _cells(audit, audit.radius)
    )


_DECIMALS = 6


def rspipe_log(audit: Audit) -> str:
    """Return a log as rspipe writes it: Cohen's six columns, radii rounded down.

    Where the radii imply n and alpha, they become those that were surely proved, and four columns to the right say
    sigma, n, alpha and `n_a`, the fewest successes that a logged radius can stand for. Columns of rspipe's own stay.
    """
    ladder, radius, images = audit.ladder, audit.radius, audit.radius.size
    columns: dict[str, Sequence[object]] = {**audit.own}
    if ladder is not None:
        radius = proved_radius(radius, audit.precision, ladder)
        n_a = np.where(audit.predict == ABSTAIN, -1, successes(audit.radius, audit.precision, ladder))
        terms = {"sigma": ladder.sigma, "n": ladder.n, "alpha": ladder.alpha}
        columns |= {name: [value] * images for name, value in terms.items()}
        columns["n_a"] = [one if one >= 0 else "" for one in n_a.tolist()]
    extra = [*zip(*columns.values(), strict=True)] or [()] * images
    floors = np.floor(radius * 10**_DECIMALS) / 10**_DECIMALS
    return write_log(
        (
            (i, label, predict, f"{one:.{_DECIMALS}f}", int(label == predict), time or "0.0", *right)
            for (i, label, predict, one, time), right in zip(_cells(audit, floors), extra, strict=True)
        ),
        more=[*columns],
    )


def _cells(audit: Audit, radius: FloatArray) -> Iterator[tuple[int, int, int, float, str]]:
    columns = (audit.idx.tolist(), audit.label.tolist(), audit.predict.tolist(), radius.tolist(), audit.time_text)
    yield from zip(*columns, strict=True)


def _plain(radius: float) -> str:
    return f"{radius:.15g}" if radius % 1 else f"{radius:.1f}"
