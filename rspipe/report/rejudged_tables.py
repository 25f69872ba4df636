"""The tables of published methods judged again: settings, methods, reversed orders, and every pair."""

from collections.abc import Iterator, Sequence

from rspipe.records import Interval
from rspipe.report.rejudged import ACR, ALPHA, AT_FEWER, FEWER, HARD_HALF, Contestant, Pair, Rejudged
from rspipe.report.tables import Cell, Table, bracketed, markdown, markdown_text, number_cell, relation_cell

_NOTE = f"""\
Radii are those of the nearest possible count, of CERTIFY with n = 100,000 at alpha = {ALPHA:g}; abstentions count 0. Of
a method with several recipes in the logs the one with the largest ACR on every other shared image is judged, on the
other images alone: nothing is judged on images that it was chosen on. *Certain* is a difference whose verdict stays
with Holm's correction over all pairs of its setting (of certified accuracies, over four radii, too). *These models*:
the trained networks, on other test images. *Procedures*: trained again with other seeds, which can be judged where both
methods have two trainings or more. At n = {FEWER:,} radii are those expected of so many of the same samples. The hard
half: the shared images with the smaller mean radius over the methods of the setting; its intervals count that other
test images have another half.
"""


def rejudged_markdown(settings: Sequence[Rejudged], *, source: str) -> str:
    """Return the judged settings as Markdown: what is certain, then the methods, then the orders that reverse."""
    reversals = Table.of(_reversal_rows(settings))
    parts = [
        _totals(settings, source),
        _NOTE,
        "**What is certain**",
        markdown(Table.of(_setting_row(one) for one in settings)),
        "**Methods**, by ACR on the images that all of a setting share",
        *(f"{_heading(one)}\n\n{markdown(method_table(one))}" for one in settings),
        f"**Orders that reverse**, certain both by ACR and the other way at n = {FEWER:,} or on the hard half",
        markdown(reversals) if reversals.rows else "None.\n",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _heading(one: Rejudged) -> str:
    return f"{markdown_text(str(one.setting))}, {one.shared.size:,} shared images"


def _totals(settings: Sequence[Rejudged], source: str) -> str:
    """Return in words how many orders are certain, and how many of these reverse."""
    pairs = [pair for one in settings for pair in one.of(ACR)]
    judged = [pair for pair in pairs if pair.difference.procedures is not None]
    fewer, hard, any_radius = (
        sum(len(one.reversed_by(name)) for one in settings) for name in (AT_FEWER, HARD_HALF, _accuracies(settings)[0])
    )
    return (
        f"{source}: {len(settings)} settings, {len(pairs)} pairs of methods. By ACR the order of "
        f"{sum(pair.models for pair in pairs)} is certain for these models; {len(judged)} can be judged as procedures, "
        f"of which {sum(pair.procedures for pair in judged)} are certain. Of the certain orders {fewer} are certainly "
        f"the other way at n = {FEWER:,}, {hard} on the hard half of the images, and {any_radius} by the share of "
        "images that are certified at all, CA(0)."
    )


def _accuracies(settings: Sequence[Rejudged]) -> list[str]:
    """Return the other quantities, in order of their radii."""
    names = dict.fromkeys(pair.quantity for one in settings for pair in one.pairs)
    return [name for name in names if name not in {ACR, AT_FEWER, HARD_HALF}]


def _setting_row(one: Rejudged) -> dict[str, Cell]:
    pairs = one.of(ACR)
    judged = [pair for pair in pairs if pair.difference.procedures is not None]
    return {
        "setting": Cell(str(one.setting)),
        "methods": number_cell(len(one.contestants), digits=0),
        "pairs": number_cell(len(pairs), digits=0),
        "certain of these models": number_cell(sum(pair.models for pair in pairs), digits=0),
        "of procedures, judged": Cell(f"{sum(pair.procedures for pair in judged)} of {len(judged)}" if judged else "–"),
        f"reversed at n = {FEWER:,}": number_cell(len(one.reversed_by(AT_FEWER)), digits=0),
        "reversed on the hard half": number_cell(len(one.reversed_by(HARD_HALF)), digits=0),
        **{f"reversed by {name}": number_cell(len(one.reversed_by(name)), digits=0) for name in _accuracies([one])},
    }


def method_table(one: Rejudged) -> Table:
    """Return the methods of a setting, and those that each is not certainly different from by ACR."""

    def row(contestant: Contestant) -> dict[str, Cell]:
        credits_ = contestant.credits(one.shared)
        open_ = [
            pair.second.method if pair.first is contestant else pair.first.method
            for pair in one.of(ACR)
            if contestant in (pair.first, pair.second) and not pair.models
        ]
        chosen = f" (best of {contestant.recipes})" if contestant.recipes > 1 else ""
        return {
            "method": Cell(contestant.method),
            "recipe": Cell(f"{contestant.settings or 'one'}{chosen}"),
            "trainings": number_cell(len(contestant.logs), digits=0),
            "ACR": number_cell(float(credits_.mean())),
            "certified at all": number_cell(float((credits_ > 0).mean())),
            AT_FEWER: number_cell(float(contestant.credits(one.shared, n=FEWER).mean())),
            HARD_HALF: number_cell(float(contestant.credits(one.hard).mean())),
            "order not certain against": Cell(", ".join(open_) or "–"),
        }

    return Table.of(row(contestant) for contestant in one.contestants)


def _reversal_rows(settings: Sequence[Rejudged]) -> Iterator[dict[str, Cell]]:
    for one in settings:
        others = {quantity: one.of(quantity) for quantity in (AT_FEWER, HARD_HALF)}
        for at, pair in enumerate(one.of(ACR)):
            if any(pair.sign * pairs[at].sign < 0 for pairs in others.values()):
                yield {
                    "setting": Cell(str(one.setting)),
                    "first": Cell(pair.first.method),
                    "second": Cell(pair.second.method),
                    "ACR, first − second": _interval_cell(pair.difference.models),
                    **{name: _interval_cell(pairs[at].difference.models) for name, pairs in others.items()},
                    "images": Cell(f"{pair.difference.images:,}", pair.difference.images),
                }


def _interval_cell(interval: Interval) -> Cell:
    return Cell(bracketed(interval, signed=True, digits=4), interval.estimate)


def pair_rows(settings: Sequence[Rejudged]) -> Iterator[dict[str, str]]:
    """Yield every pair and quantity of every setting, as texts by column."""
    for one in settings:
        for pair in one.pairs:
            yield {
                "setting": str(one.setting),
                "first": pair.first.method,
                "second": pair.second.method,
                "first_recipe": pair.first.settings,
                "second_recipe": pair.second.settings,
                "quantity": pair.quantity,
                "images": str(pair.difference.images),
                "trainings": " and ".join(map(str, pair.difference.seeds)),
                **_verdicts(pair),
            }


def _verdicts(pair: Pair) -> dict[str, str]:
    texts: dict[str, str] = {"difference": f"{pair.difference.estimate:.6f}"}
    scopes = (
        ("models", pair.difference.models, pair.models),
        ("procedures", pair.difference.procedures, pair.procedures),
    )
    for name, judged, sure in scopes:
        texts |= {
            f"{name}_low": "" if judged is None else f"{judged.low:.6f}",
            f"{name}_high": "" if judged is None else f"{judged.high:.6f}",
            f"{name}_p": "" if judged is None else f"{judged.p:.3g}",
            f"{name}_verdict": relation_cell(pair.difference, judged, sure=sure).text,
        }
    return texts
