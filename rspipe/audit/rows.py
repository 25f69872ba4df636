"""Checks of the rows of a certification log: lines, images, claims, predictions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rspipe.arrays import IntArray
from rspipe.audit.log import CertificationLog
from rspipe.smoothing.certificates import ABSTAIN

TEST_SETS = (10_000, 26_032, 50_000)
"""Sizes of the usual test sets: MNIST and CIFAR-10, SVHN, ImageNet's validation images."""

_MANY_CLASSES = 200
"""From this label on the data are ImageNet."""

_ONE_CLASS = 0.9
"""Share of predictions from which on a model counts as one of a single class."""

_SHOWN = 3


def some(values: Sequence[object]) -> str:
    """Return the first few of several things, as text."""
    shown = ", ".join(map(str, values[:_SHOWN]))
    return shown if len(values) <= _SHOWN else f"{shown}, ..."


def counted(number: int, what: str) -> str:
    """Return a number of things, as text."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@dataclass(frozen=True)
class Finding:
    """Something to know before believing a log."""

    severity: Literal["problem", "note"]
    text: str


def problem(text: str) -> Finding:
    """Return a finding that makes a log wrong, incomplete or not comparable."""
    return Finding("problem", text)


def note(text: str) -> Finding:
    """Return a finding that a reader should know."""
    return Finding("note", text)


def check_lines(log: CertificationLog) -> Iterator[Finding]:
    """Find lines that are no rows, headers within the rows, and images with several rows."""
    if log.unreadable:
        lines = some([f"line {bad.line}: {bad.reason}" for bad in log.unreadable])
        yield problem(f"{counted(len(log.unreadable), 'line')} cannot be read as a row ({lines})")
    if log.repeated_headers:
        yield problem(f"the header stands again in line {some(log.repeated_headers)}: several logs in one file")
    idx, rows = np.unique(log.idx, return_counts=True)
    twice = idx[rows > 1].tolist()
    if twice:
        content = np.unique(np.stack([log.idx, log.label, log.predict, log.radius], axis=1), axis=0)
        contradicting = int(np.sum(np.unique(content[:, 0], return_counts=True)[1] > 1))
        how = f", {contradicting:,} of them with contradicting content" if contradicting else ", always the same"
        yield problem(
            f"{counted(len(twice), 'image')} in several rows{how} (idx {some(twice)}); the first row counts here, but "
            "a plain mean over the file counts all"
        )
    elif np.any(np.diff(log.idx) < 0):
        yield note("the rows are not in the order of the images")


def describe_images(idx: IntArray, *, labels: IntArray, size: int | None = None) -> tuple[str, list[Finding]]:
    """Return which images a log is of, in words, and what is missing.

    Args:
        idx: [image], ascending, each once.
        labels: [image].
        size: Number of images of the whole test set; guessed from idx and labels when None.
    """
    count, first, last = idx.size, int(idx[0]), int(idx[-1])
    fitting = [one for one in TEST_SETS if last < one and (one == TEST_SETS[-1] or labels.max() < _MANY_CLASSES)]
    total = size or (fitting[0] if fitting else last + 1)
    if last >= total:
        return f"{counted(count, 'image')}, idx {first} to {last}", [problem(f"idx {last} is beyond {total:,} images")]
    gaps = np.diff(idx)
    if count < 3 or gaps.min() == gaps.max():
        step = int(gaps[0]) if count > 1 else 1
        return _regular(count, first, last, step=step, total=total, known=size is not None)
    values, frequency = np.unique(gaps, return_counts=True)
    step = int(values[frequency.argmax()])
    if frequency.max() >= 0.9 * gaps.size and np.all(gaps % step == 0):
        missing = (last - first) // step + 1 - count
        holes = (idx[:-1][gaps > step] + step).tolist()
        text, findings = _regular(count, first, last, step=step, total=total, known=size is not None)
        return text, [problem(f"{counted(missing, 'row')} missing in between (from idx {some(holes)})"), *findings]
    if gaps.max() - gaps.min() <= 1:
        return f"{counted(count, 'image')}, evenly spaced from idx {first} to {last}", []
    return (
        f"{counted(count, 'image')}, idx {first} to {last}",
        [note("the images are no regular subset, so missing rows cannot be told")],
    )


def _regular(count: int, first: int, last: int, *, step: int, total: int, known: bool) -> tuple[str, list[Finding]]:
    every = "all" if step == 1 else f"every {step}th"
    expected = len(range(first, total, step))
    of = f"{total:,} images" if known else f"{total:,} (as it seems)"
    if first < step and last + step >= total:
        return (f"all {of}" if step == 1 else f"{count:,} of {of}, {every} from idx {first}"), []
    text = f"{counted(count, 'image')}, {every} from idx {first} to {last}"
    # Whoever begins at the first image and stops in the second half was interrupted; others wanted a part.
    if first < step and (known or 2 * last > total):
        return text, [problem(f"ends at idx {last} of {of}: {expected - len(range(first, last + 1, step)):,} of "
                              f"{expected:,} rows are missing")]  # fmt: skip
    return text, []


def check_claims(log: CertificationLog) -> Iterator[Finding]:
    """Find classes without a radius, and rows that contradict themselves.

    These are radii of abstentions, and `correct` other than label and prediction say.
    """
    nothing = log.idx[log.nothing].tolist()
    if nothing:
        yield note(
            f"{counted(len(nothing), 'row')} with a class and no radius (below 0, nan or empty; idx {some(nothing)}): "
            "nothing is certified there, and the image counts 0"
        )
    claiming = log.idx[(log.predict == ABSTAIN) & (log.radius > 0)].tolist()
    if claiming and log.kind == "certify":
        yield problem(f"{counted(len(claiming), 'abstention')} with a radius above 0 (idx {some(claiming)})")
    # Where nothing is certified, the column may speak of the class that was named.
    wrong = log.idx[(log.logged_correct != log.correct) & ~log.nothing].tolist()
    if not wrong:
        return
    if np.array_equal(log.logged_correct, np.cumsum(log.correct)):
        yield note("the column correct is a running count; it is computed from label and prediction here")
    else:
        yield problem(
            f"correct contradicts label and prediction in {counted(len(wrong), 'row')} (idx {some(wrong)}); it is "
            "computed from them here"
        )


def check_collapse(predict: IntArray, label: IntArray) -> Iterator[Finding]:
    """Find out whether a model knows one class alone: its ACR can be large then, and means nothing.

    Arguments are [image].
    """
    claimed = predict[predict != ABSTAIN]
    if claimed.size == 0:
        yield problem("every image is abstained on")
        return
    classes, frequency = np.unique(claimed, return_counts=True)
    top = int(frequency.argmax())
    share, common = frequency[top] / claimed.size, float(np.mean(label == classes[top]))
    if claimed.size >= 20 and share >= _ONE_CLASS and share > common + 0.1:
        how = "every prediction is" if len(classes) == 1 else f"{100 * share:.0f} % of the predictions are"
        yield problem(
            f"the model has collapsed: {how} class {classes[top]}, the label of {100 * common:.0f} % of the images; "
            "an ACR of such a model means nothing"
        )
