"""Who is in an ensemble: the words of a study file, and what an ensemble is called."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

from pydantic_core import PydanticCustomError

MOST_SUBSETS = 256
"""Ensembles that an entry of a study file may form at one noise level: all subsets of eight members are 247."""


_ID = re.compile(r"(?P<label>[a-z][a-z0-9_]*)-s(?P<sigma>[0-9.e+-]+)-seed(?P<seed>[0-9]+)(-(?P<digest>[0-9a-f]{8}))?")


@dataclass(frozen=True)
class NamedModel:
    """A model as a study file names it: by its id, the digest of which may be left out."""

    text: str
    label: str
    sigma: float
    seed: int
    digest: str | None

    def sigma_among(self, sigmas: Collection[float]) -> float:
        """Return the one of a study's noise levels that is meant: ids show six digits of it."""
        shown = (sigma for sigma in sigmas if float(f"{sigma:g}") == self.sigma)
        return self.sigma if self.sigma in sigmas else next(shown, self.sigma)


@dataclass(frozen=True)
class Member:
    """A base classifier that an ensemble may hold."""

    id: str
    label: str
    seed: int
    position: int
    """Among the models of its label and noise level, in the order of their seeds in the study file."""


def parse_members(text: str, *, place: str = "members") -> tuple[tuple[str, int], ...]:
    """Return (label, count) pairs of the paper's notation, e.g. "advmacer x1 + smoothadv x2"."""
    pairs = []
    for part in text.split("+"):
        label, _, count = part.strip().partition(" x")
        if not label or not count.strip().isdecimal() or int(count) < 1:
            raise PydanticCustomError(
                "members",
                "{place}: '{text}' is not of the form 'advmacer x1 + smoothadv x2'",
                {"place": place, "text": text},
            )
        pairs.append((label.strip(), int(count)))
    if len({label for label, _ in pairs}) < len(pairs):
        raise PydanticCustomError("members", "{place}: '{text}' names a label twice", {"place": place, "text": text})
    if sum(count for _, count in pairs) < 2:
        raise PydanticCustomError(
            "members",
            "{place}: '{text}' is a single model; an ensemble has two or more",
            {"place": place, "text": text},
        )
    return tuple(pairs)


def named_model(text: str) -> NamedModel | None:
    """Return the model that an id such as "advmacer-s0.25-seed0" names; None where it is no id."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    return NamedModel(text, match["label"], float(match["sigma"]), int(match["seed"]), match["digest"])


def parse_ids(texts: Sequence[str], *, place: str = "members") -> tuple[NamedModel, ...]:
    """Return the models that ids such as "advmacer-s0.25-seed0" name, all of one noise level."""
    named = []
    for text in texts:
        one = named_model(text)
        if one is None:
            raise PydanticCustomError(
                "member_id",
                "{place}: '{text}' is not of the form 'advmacer-s0.25-seed0'",
                {"place": place, "text": text},
            )
        named.append(one)
    if len({(one.label, one.sigma, one.seed) for one in named}) < len(named):
        raise PydanticCustomError("member_twice", "{place}: names a model twice", {"place": place})
    if len(named) < 2:
        raise PydanticCustomError("members", "{place}: an ensemble has two or more members", {"place": place})
    if len({one.sigma for one in named}) > 1:
        raise PydanticCustomError(
            "several_sigmas", "{place}: the members of an ensemble have one noise level in common", {"place": place}
        )
    return tuple(named)


def ensemble_label(members: Iterable[Member]) -> str:
    """Return what an ensemble is called: in the paper's words where each label has its first models.

    Otherwise seeds are named, e.g. "advmacer seeds 0,2 + smoothadv seed 1".
    """
    groups: dict[str, list[Member]] = {}
    for member in members:
        groups.setdefault(member.label, []).append(member)
    first = all(sorted(one.position for one in group) == list(range(len(group))) for group in groups.values())
    if first:
        return " + ".join(f"{label} x{len(group)}" for label, group in groups.items())
    seeds = {label: [str(one.seed) for one in group] for label, group in groups.items()}
    return " + ".join(f"{label} seed{'s' * (len(which) > 1)} {','.join(which)}" for label, which in seeds.items())


def names_seeds(label: str) -> bool:
    """Return whether an ensemble's label names seeds: it is one of many alike, of which the paper's words name one."""
    return re.search(r" seeds? \d", label) is not None


def subsets(members: Sequence[Member]) -> Iterator[tuple[Member, ...]]:
    """Yield all subsets of two or more members, the small ones first."""
    for size in range(2, len(members) + 1):
        yield from combinations(members, size)


def choices(groups: Sequence[Sequence[Member]], counts: Sequence[int]) -> Iterator[tuple[Member, ...]]:
    """Yield every choice of so many members of each group, the first ones first."""
    for parts in product(*(combinations(group, count) for group, count in zip(groups, counts, strict=True))):
        yield tuple(chain.from_iterable(parts))
