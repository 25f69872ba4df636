"""Which tensors of a file are a network's parameters: the set whose names are the network's behind a common prefix."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rspipe.errors import ModelError
from rspipe.networks.checkpoint_files import few
from rspipe.networks.normalization import MeanStd

Parameters = dict[str, Tensor]

_DEPTH = 4

_COUNTER = "num_batches_tracked"
"""Checkpoints of before PyTorch 0.4.1 have no such counters, and nothing reads them."""

_MEAN = re.compile(r"mean|means|mu")

_STD = re.compile(r"std|stds|stdev|sd|sds|sigma")


@dataclass(frozen=True)
class Fitting:
    """The parameters of a network in a file."""

    place: str
    """Where they are: keys of dictionaries and the prefix of the names, between dots; empty for the whole file."""
    parameters: Parameters
    """By the network's names."""
    beside: Parameters
    """All else that lies in the same dictionary, by the file's names without the prefix."""


def fitting_parameters(
    content: Any,
    own: Mapping[str, Tensor],
    *,
    path: Path,
    purpose: str,
    wanted: str | None,
    published: Mapping[str, str],
) -> Fitting:
    """Return the set of tensors in a file that are all parameters of a network, of the same shapes.

    Args:
        content: Of the file.
        own: The network's parameters and buffers.
        path: Of the file, for messages.
        purpose: The network in words, for messages.
        wanted: The place of the set to take, where several fit, or a part of it.
        published: Our names of layers by those in published checkpoints.

    Raises:
        ModelError: There is none, or several that differ.
    """
    sets = [*tensors_in(content)]
    if not sets:
        kind = (
            f"a dict of {few([str(key) for key in content])}" if isinstance(content, dict) else type(content).__name__
        )
        raise ModelError(f"{path}: holds {kind}, and no state dict at any depth; save the state dict alone")
    readings = [one for place, tensors in sets for one in _readings(place, tensors, own, published)]
    if not readings:
        places = [place or "the file itself" for place, _ in sets]
        raise ModelError(
            f"{path}: does not fit {purpose}: no name in {few(places)} is one of the network's, e.g. "
            f"{few([*sets[0][1]])}; {_ANOTHER}"
        )
    complete = [one for one in readings if not _problems(own, one)]
    if not complete:
        closest = max(readings, key=lambda one: _closeness(own, one))
        raise ModelError(
            f"{path}: does not fit {purpose}: {'; '.join(_problems(own, closest))}; {_verdict(own, closest)}"
        )
    if wanted is not None:
        chosen = _named(complete, wanted)
        if not chosen:
            raise ModelError(f"{path}: parameters = {wanted!r} is in none of the places that fit, {_places(complete)}")
        complete = chosen
    first, *others = complete
    if any(
        not torch.equal(other.parameters[name], value)
        for other in others
        for name, value in first.parameters.items()
        if name in other.parameters
    ):
        raise ModelError(
            f"{path}: holds {len(complete)} different sets of parameters that fit, {_places(complete)}; "
            "say which, e.g. parameters = 'ema'"
        )
    return first


def _named(fitting: Sequence[Fitting], wanted: str) -> list[Fitting]:
    """Return the sets that a text names: those at this place, else those with a part called so, else with it in one.

    "state_dict" is not "state_dict_ema" where there is one of each, and "ema" is.
    """
    parts = {one.place: one.place.split(".") for one in fitting}
    places = [place for place in parts if place == wanted]
    places = places or [place for place in parts if wanted in parts[place]]
    places = places or [place for place in parts if any(wanted in part for part in parts[place])]
    return [one for one in fitting if one.place in places]


_ANOTHER = "the checkpoint is of another architecture, depth or number of classes"


def _places(fitting: Sequence[Fitting]) -> str:
    return few([f"'{one.place or 'the file itself'}'" for one in fitting])


def tensors_in(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, Parameters]]:
    """Yield every dictionary in the content of a file that holds tensors by name, with its place."""
    if not isinstance(content, dict) or depth > _DEPTH:
        return
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if tensors:
        yield place, tensors
    for name, value in content.items():
        yield from tensors_in(value, f"{place}.{name}" if place else str(name), depth + 1)


def _readings(
    place: str, tensors: Parameters, own: Mapping[str, Tensor], published: Mapping[str, str]
) -> Iterator[Fitting]:
    """Yield what the tensors of a dictionary are to a network, for every prefix with which some are its own."""
    layer = {ours: theirs for theirs, ours in published.items()}
    for inner in _prefixes_of_all(own):
        bare = {name.removeprefix(inner): name for name in own}
        for renamed in ({}, layer) if layer else ({},):
            names = {_renamed(name, renamed): full for name, full in bare.items()}
            prefixes = Counter(
                key[: len(key) - len(suffix)] for key in tensors for suffix in _suffixes(key) if suffix in names
            )
            for prefix, _ in prefixes.most_common(6):
                given = {full: tensors[prefix + name] for name, full in names.items() if prefix + name in tensors}
                used = {prefix + name for name in names}
                beside = {key.removeprefix(prefix): value for key, value in tensors.items() if key not in used}
                yield Fitting(".".join(filter(None, (place, prefix.rstrip(".")))), given, beside)


def _prefixes_of_all(names: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes that all names have, the empty one first: "", "1.", ..."""
    prefixes, first = [""], next(iter(names), "")
    while (longer := first[: first.find(".", len(prefixes[-1])) + 1]) not in ("", prefixes[-1]):
        if not all(name.startswith(longer) for name in names):
            break
        prefixes.append(longer)
    return prefixes


def _suffixes(key: str) -> Iterator[str]:
    """Yield a dotted name, and what is left of it as its first parts are taken off."""
    while True:
        yield key
        _, dot, key = key.partition(".")
        if not dot:
            return


def _renamed(name: str, layers: Mapping[str, str]) -> str:
    first, dot, rest = name.partition(".")
    return layers.get(first, first) + dot + rest


def _problems(own: Mapping[str, Tensor], one: Fitting) -> list[str]:
    """Return in words why tensors are not the parameters of a network."""
    lacks = [name for name in own if name not in one.parameters and not name.endswith(_COUNTER)]
    shapes = [
        f"{name} is {_kind(value)} instead of {_kind(own[name])}"
        for name, value in one.parameters.items()
        if _kind(value) != _kind(own[name])
    ]
    problems = {"it lacks": lacks, "it has besides": _foreign(own, one), "in it": shapes}
    return [f"{how} {few(items)}" for how, items in problems.items() if items]


def _foreign(own: Mapping[str, Tensor], one: Fitting) -> list[str]:
    """Return the names beside the parameters that show another network: more layers where it has some.

    Counters and numbers, a mean or deviation of pixels, and whole modules of another name (auxiliary heads) show none.
    """
    modules = {
        _kind_of_module(name) for prefix in _prefixes_of_all(own) for name in (n.removeprefix(prefix) for n in own)
    }
    return [
        name
        for name, value in one.beside.items()
        if value.numel() > 1 and _kind_of_module(name) in modules and not _of_pixels(name, value, _MEAN, _STD)
    ]


def _kind_of_module(name: str) -> str:
    return name.partition(".")[0].rstrip("0123456789")


def _verdict(own: Mapping[str, Tensor], one: Fitting) -> str:
    shapes = any(_kind(value) != _kind(own[name]) for name, value in one.parameters.items())
    if shapes or 2 * len(one.parameters) < len(own) or _foreign(own, one):
        return _ANOTHER
    return "all else fits: the file is incomplete, or of a variant of the architecture"


def _closeness(own: Mapping[str, Tensor], one: Fitting) -> tuple[int, int]:
    alike = sum(_kind(value) == _kind(own[name]) for name, value in one.parameters.items())
    return len(one.parameters) - len(_foreign(own, one)), alike


def _kind(value: Tensor) -> str:
    return f"{'' if value.is_floating_point() else f'{value.dtype} '}{list(value.shape)}"


def _of_pixels(name: str, value: Tensor, *patterns: re.Pattern[str]) -> bool:
    """Return whether a tensor holds a number per channel, and a pattern is a word of the last part of its name."""
    words = re.split(r"[._]", name.rpartition(".")[2])
    named = any(pattern.fullmatch(word) for pattern in patterns for word in words)
    return named and value.is_floating_point() and value.numel() in (1, 3)


def stored_normalization(beside: Mapping[str, Tensor]) -> MeanStd | None:
    """Return the mean and standard deviation that lie beside a network, of pixels in [0, 1]; None unless there is one.

    Their names end in "mean" and "std" or the like, and they hold a number per channel, for pixels to 255 or to 1.
    """
    means, stds = (
        {tuple(value.flatten().tolist()) for name, value in beside.items() if _of_pixels(name, value, pattern)}
        for pattern in (_MEAN, _STD)
    )
    if len(means) != 1 or len(stds) != 1:
        return None
    (mean,), (std,) = means, stds
    unit = 255.0 if max(*std, *map(abs, mean)) > 2 else 1.0
    mean, std = (tuple(round(number / unit, 6) for number in values) for values in (mean, std))
    return (mean, std) if len(mean) == len(std) and min(std) > 0 else None
