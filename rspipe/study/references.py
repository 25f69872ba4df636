"""References within a study file: the members of ensembles and the entries of claims must be trained."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from pydantic_core import PydanticCustomError

from rspipe.ensembles.members import MOST_SUBSETS, parse_ids
from rspipe.errors import nearest
from rspipe.study.ensemble_groups import EnsembleGroup

Trained: TypeAlias = Mapping[tuple[str, float], Collection[int]]
"""Seeds of a study's models, by label and noise level."""


def unknown_entries(references: Iterable[tuple[str, str]], entries: Collection[str]) -> Iterator[PydanticCustomError]:
    """Yield an error for every name, given behind its place in the file, that is no entry of the study."""
    for place, name in references:
        if name not in entries:
            yield PydanticCustomError(
                "unknown_entry",
                "{place}: there is no entry '{name}'{hint}",
                {"place": place, "name": name, "hint": nearest(name, entries)},
            )


def unknown_sigmas(
    references: Iterable[tuple[str, Sequence[float]]], sigmas: Sequence[float]
) -> Iterator[PydanticCustomError]:
    """Yield an error for every noise level, given behind its place in the file, that the study does not have."""
    for place, named in references:
        for sigma in named:
            if sigma not in sigmas:
                yield PydanticCustomError(
                    "unknown_sigma",
                    "{place}: no model has sigma {sigma}; the study has {sigmas}",
                    {"place": place, "sigma": sigma, "sigmas": ", ".join(map(str, sigmas))},
                )


def absent_entries(
    place: str, names: Sequence[str], sigmas: Sequence[float] | None, at: Mapping[float, Collection[str]]
) -> Iterator[PydanticCustomError]:
    """Yield an error where entries that a study has are at no noise level that they are named for.

    Args:
        place: Of the reference in the file.
        names: Of entries.
        sigmas: The levels that each of them is to have; one at least, and the same, where None.
        at: The names of all entries by noise level.
    """
    for name in names:
        has = [sigma for sigma, there in sorted(at.items()) if name in there]
        for sigma in sigmas or ():
            if sigma not in has:
                yield PydanticCustomError(
                    "absent_entry",
                    "{place}: there is no '{name}' at sigma {sigma}, but at {has}",
                    {"place": place, "name": name, "sigma": sigma, "has": ", ".join(map(str, has))},
                )
    if sigmas is None and not any(set(names) <= {*there} for there in at.values()):
        yield PydanticCustomError(
            "nowhere_together",
            "{place}: no noise level has both '{names}'",
            {"place": place, "names": "' and '".join(names)},
        )


def check_members(ensemble: EnsembleGroup, trained: Trained, *, place: str) -> None:
    """Raise a PydanticCustomError unless the members of an ensemble are models of the study."""
    wanted = ensemble.wanted(place=f"{place}.members")
    _check_size(ensemble, sum(count for _, count in wanted), place=place)
    _check_count(ensemble, [label for label, _ in wanted], trained, place=place)
    place, sigmas = f"{place}.members", tuple(sorted({sigma for _, sigma in trained}))
    _check_labels(ensemble, wanted, trained, sigmas, place=place)
    if not isinstance(ensemble.members, str):
        _check_listed(ensemble, ensemble.members, trained, place=place)
    if not any(all((label, sigma) in trained for label, _ in wanted) for sigma in sigmas):
        raise PydanticCustomError(
            "no_common_sigma",
            "{place}: '{text}' has no sigma at which all of its members are trained; add one to 'sigma' of a model",
            {"place": place, "text": ensemble.text},
        )


def _check_size(ensemble: EnsembleGroup, size: int, *, place: str) -> None:
    if "consensus" in ensemble.weights and ensemble.consensus >= size:
        raise PydanticCustomError(
            "consensus_too_large",
            "{place}.consensus = {first} must be below the {size} members of '{text}'",
            {"place": place, "first": ensemble.consensus, "size": size, "text": ensemble.text},
        )


def _check_count(ensemble: EnsembleGroup, labels: Iterable[str], trained: Trained, *, place: str) -> None:
    """Raise where too many ensembles are formed of the models that each noise level has."""
    for sigma in {sigma for _, sigma in trained}:
        have = {label: len(trained.get((label, sigma), ())) for label in labels}
        if (count := ensemble.count(have)) > MOST_SUBSETS:
            raise PydanticCustomError(
                "too_many_subsets",
                "{place}.subsets = '{kind}' forms {count} ensembles of '{text}', more than {most}; name fewer members",
                {
                    "place": place,
                    "kind": ensemble.subsets,
                    "count": count,
                    "text": ensemble.text,
                    "most": MOST_SUBSETS,
                },
            )


def _check_labels(
    ensemble: EnsembleGroup,
    wanted: Sequence[tuple[str, int]],
    trained: Trained,
    sigmas: tuple[float, ...],
    *,
    place: str,
) -> None:
    labels = {label for label, _ in trained}
    for label, count in wanted:
        if label not in labels:
            raise PydanticCustomError(
                "unknown_member",
                "{place}: no model is labelled '{label}'{hint}",
                {"place": place, "label": label, "hint": nearest(label, labels)},
            )
        for sigma in ensemble.sigmas(sigmas):
            have = len(trained.get((label, sigma), ()))
            if have < count and (ensemble.sigma is not None or have > 0):
                raise PydanticCustomError(
                    "too_many_members",
                    "{place}: '{label} x{count}' needs {count} models but sigma {sigma} has {have}; "
                    "add seeds to '{label}' or ask for fewer",
                    {"place": place, "label": label, "count": count, "sigma": sigma, "have": have},
                )


def _check_listed(ensemble: EnsembleGroup, ids: Sequence[str], trained: Trained, *, place: str) -> None:
    for one in parse_ids(ids):
        sigma = one.sigma_among({level for _, level in trained})
        if one.seed not in trained.get((one.label, sigma), ()) or ensemble.sigma not in (None, (sigma,)):
            raise PydanticCustomError(
                "unknown_model",
                "{place}: the study has no '{text}' at this noise level; see sigma and seeds of '{label}'",
                {"place": place, "text": one.text, "label": one.label},
            )
