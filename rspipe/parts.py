"""What the parts of the report's sections on ensembles and attacks are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

from rspipe.records import Interval
from rspipe.summaries import CertifiedClassifier, Side, acr_difference, verdict
from rspipe.tables import TONES, Cell, Table, bracketed


@dataclass(frozen=True)
class Part:
    """A part of a section: a heading, a table, sentences, and how to read them."""

    title: str
    table: Table
    sentences: tuple[str, ...] = ()
    note: str = ""


def interval_cell(interval: Interval | None, *, signed: bool = False) -> Cell:
    """Return an estimate with its interval; a dash without."""
    return Cell("–") if interval is None else Cell(bracketed(interval, signed=signed), interval.estimate)


def change_cell(interval: Interval | None) -> Cell:
    """Return a difference in the colour of its sign; a dash without."""
    if interval is None:
        return Cell("–")
    return Cell(bracketed(interval, signed=True), interval.estimate, tone=TONES[verdict(interval)])


def group(classifiers: Sequence[CertifiedClassifier]) -> Side:
    """Return classifiers that are averaged per image."""
    return Side("", "", classifiers)


def difference_of_means(first: Sequence[CertifiedClassifier], second: Sequence[CertifiedClassifier]) -> Interval | None:
    """Return the paired difference of ACR of two groups, each averaged per image; None where they share no image."""
    found = acr_difference(group(first), group(second))
    return None if found is None else found[0]
