"""A study file (TOML) says everything that determines a study's numbers; here it becomes specs."""

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rspipe.data.spec import DataSpec, DigitsData
from rspipe.errors import StudyError, nearest
from rspipe.networks.architectures import allow_code_in
from rspipe.networks.checkpoints import file_digest
from rspipe.networks.spec import NO_CODE
from rspipe.search.spec import AlgorithmSpec
from rspipe.smoothing.sampling import RULES
from rspipe.study.config import SHARED, StudyConfig
from rspipe.training.methods import MethodSpec
from rspipe.training.spec import TrainingSpec


def _inherit(config: dict[str, Any]) -> dict[str, Any]:
    """Return the file with `[training]` and `architecture` merged into each entry that trains models."""
    config = dict(config)
    shared = {key: config.pop(key) for key in SHARED if key in config}
    for section in ("models", "search"):
        entries = config.get(section)
        if not isinstance(entries, list):
            continue
        merged = []
        for entry in entries:
            if not isinstance(entry, dict):
                merged.append(entry)
                continue
            if "checkpoint" in entry:
                merged.append({key: value for key, value in shared.items() if key != "training"} | entry)
                continue
            method, own, inherited = entry.get("method"), entry.get("training", {}), shared.get("training", {})
            both = isinstance(own, dict) and isinstance(inherited, dict)
            filled = {**shared, **entry, "training": {**inherited, **own} if both else own or inherited}
            if "label" not in entry and section == "models" and isinstance(method, dict) and "name" in method:
                filled["label"] = method["name"]
            merged.append(filled)
        config[section] = merged
    return config


def _override(config: dict[str, Any], assignment: str) -> None:
    """Apply one `dotted.key=value` to a parsed study file; list items are addressed by position."""
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise StudyError(f"override {assignment!r} is not of the form key=value, e.g. certify.n=1000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = key.strip().split(".")
    place: Any = config
    for parent in parents:
        if isinstance(place, list) and parent.isdigit() and int(parent) < len(place):
            place = place[int(parent)]
        elif isinstance(place, dict):
            if parent in ("rule", "algorithm") and isinstance(place.get(parent), str):
                # A rule or an algorithm may be given by its name alone; here it gets parameters beside it.
                place[parent] = {"name": place[parent]}
            place = place.setdefault(parent, {})
        else:
            raise StudyError(f"override {assignment!r}: there is no {parent!r} in the study file")
    if isinstance(place, list) and last.isdigit() and int(last) < len(place):
        place[int(last)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise StudyError(f"override {assignment!r}: there is no {last!r} in the study file")


def _with_digests(config: dict[str, Any], folder: Path) -> None:
    """Let every checkpoint of a parsed study file name its file, from a folder on, and the SHA-256 of it."""
    entries = config.get("models")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        checkpoint = entry.get("checkpoint") if isinstance(entry, dict) else None
        if not isinstance(checkpoint, dict):
            continue
        place = f"models[{index}].checkpoint"
        if not isinstance(checkpoint.get("file"), str) or not checkpoint["file"]:
            raise StudyError(f"{place}.file is missing; name the checkpoint")
        found = dict(checkpoint)
        for file, sha256 in (("file", "sha256"), ("denoiser", "denoiser_sha256")):
            if checkpoint.get(file):
                found[file], found[sha256] = _with_digest(checkpoint, folder, file=file, sha256=sha256, place=place)
        entry["checkpoint"] = found


def _with_digest(checkpoint: dict[str, Any], folder: Path, *, file: str, sha256: str, place: str) -> tuple[str, str]:
    """Return the path of a file of a checkpoint, from a folder on, and its SHA-256."""
    path = (folder / str(checkpoint[file])).resolve()
    try:
        digest = file_digest(path)
    except OSError as error:
        if sha256 not in checkpoint:
            raise StudyError(f"{place}.{file}: {path} cannot be read ({error.strerror}); correct it") from error
        # Whoever has to load it says so; a model that is loaded already needs no file.
        digest = str(checkpoint[sha256])
    if (named := checkpoint.get(sha256, digest)) != digest:
        raise StudyError(f"{place}.{sha256} = {named!r}, but {path} has {digest}; it is another file")
    return str(path), digest


_TAGS = {
    arg.model_fields["name"].annotation
    for union in (MethodSpec, DataSpec, AlgorithmSpec)
    for arg in get_args(get_args(union)[0])
}

_TAG_NAMES = {name for tag in _TAGS for name in get_args(tag)} | set(RULES)

_TAGGED = ("method", "data", "rule", "algorithm")


_UNION_TAGS = ("Range", "Choice", "Words", "Ids", "Number", "Numbers", "ModelGroup", "CheckpointGroup")
"""Names of alternatives that are no part of a study file."""


def _place(location: Sequence[str | int]) -> str:
    text = ""
    for position, part in enumerate(location):
        if isinstance(part, int):
            text += f"[{part}]"
        elif part in _TAG_NAMES and position and location[position - 1] in _TAGGED:
            continue
        elif part not in _UNION_TAGS:
            text += f".{part}" if text else part
    return text


def _one_line(error: ErrorDetails) -> str:
    place, value = _place(error["loc"]), error.get("input")
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        valid = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return f"{place}: unknown {place.rpartition('.')[2]} {context['tag']!r}{nearest(str(context['tag']), valid)}"
    if error["type"] == "union_tag_not_found":
        return f"{place}: needs a name, e.g. {place.rpartition('.')[2]}.name"
    if error["type"] == "value_error":
        # Raised by a rule that other callers need, too: its own words are enough.
        return f"{place}: {error['ctx']['error']}" if place else str(error["ctx"]["error"])
    if error["type"] == "missing":
        return f"{place} is missing"
    if isinstance(value, (int, float, str)):
        return f"{place} = {value!r}: {error['msg']}"
    return f"{place}: {error['msg']}" if place else error["msg"]


def _refusal(path: Path, error: ValidationError, *, within: str = "") -> StudyError:
    """Return the first of the errors as one line; `within` is the part of the file that was validated."""
    first, *others = error.errors()
    # A list whose only entry is wrong counts as empty, too.
    others = [one for one in others if (one["type"], one["loc"]) != ("too_short", first["loc"][: len(one["loc"])])]
    first["loc"] = (within, *first["loc"]) if within else first["loc"]
    more = f" (and {len(others)} more)" if others else ""
    return StudyError(f"{path}: {_one_line(first)}{more}")


def load_study(path: Path, *, overrides: Iterable[str] = (), allow_code: bool = False) -> StudyConfig:
    """Return the study that a TOML file describes, with `dotted.key=value` overrides applied.

    Args:
        path: Of the file.
        overrides: In their order.
        allow_code: Whether an architecture may be `module:function`, of a module that is installed or lies beside the
            study file. Otherwise a study file is data alone, and nothing that it names is imported.

    Raises:
        StudyError: The file is missing, is not TOML, or says something impossible; the message names place,
            value and remedy.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such study file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not a readable TOML file: {error}") from error
    return study_of_text(text, path=path, overrides=overrides, allow_code=allow_code)


def study_of_text(text: str, *, path: Path, overrides: Iterable[str] = (), allow_code: bool = False) -> StudyConfig:
    """Return the study that the text of a study file describes, as `load_study` does.

    Args:
        text: TOML.
        path: That it has, or would have: relative paths in it start from its folder, and messages name it.
        overrides: As in `load_study`.
        allow_code: As in `load_study`.

    Raises:
        StudyError: As in `load_study`.
    """
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path}: not a readable TOML file: {error}") from error
    # An override of a key of the default data set needs no [data] in the file.
    config.setdefault("data", {"name": DigitsData().name})
    if allow_code:
        allow_code_in(path.parent)
    for assignment in overrides:
        _override(config, assignment)
    if isinstance(shared := config.get("training"), dict):
        # By itself first: what is wrong with it is not to be said of every entry that inherits it.
        try:
            TrainingSpec.model_validate(shared)
        except ValidationError as error:
            raise _refusal(path, error, within="training") from error
    try:
        _with_digests(config, path.parent)
        study = StudyConfig.model_validate(_inherit(config), context=None if allow_code else NO_CODE)
        if study.data.name != "digits" and not Path(study.data.folder).is_absolute():
            folder = str((path.parent / study.data.folder).resolve())
            study = study.model_copy(update={"data": study.data.model_copy(update={"folder": folder})})
        # Resolving finds what no single entry shows. Not before the folder is known: a copy keeps what is cached.
        _ = (study.model_specs, study.search_specs, study.ensemble_specs(study.model_specs))
    except ValidationError as error:
        raise _refusal(path, error) from error
    return study
