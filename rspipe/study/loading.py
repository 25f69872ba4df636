"""A study file (TOML) says everything that determines a study's numbers; here it becomes specs."""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from rspipe.data.spec import DigitsData
from rspipe.errors import StudyError, nearest, nearest_name, one_line
from rspipe.networks.architectures import ARCHITECTURES, PROGRAMS, allow_code_in
from rspipe.networks.checkpoints import file_digest
from rspipe.networks.precision import Precision, fastest_precision
from rspipe.networks.spec import NO_FILE, Architecture, of_study_file
from rspipe.study.bounds import check_bounds, parsed_toml
from rspipe.study.config import SHARED, StudyConfig
from rspipe.study.mistakes import listed, mistakes_in, renamed, unknown_keys, with_nearest_names
from rspipe.training.spec import LABEL, TrainingSpec


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
            if "label" not in entry and section == "models":
                filled["label"] = _default_label(method)
            merged.append(filled)
        config[section] = merged
    return config


def _default_label(method: object) -> str:
    """Return the name of a method, or any label where that is none, which is a mistake of the method alone."""
    name = method.get("name") if isinstance(method, dict) else None
    return name if isinstance(name, str) and re.fullmatch(LABEL, name) else "unnamed"


def _override(config: dict[str, Any], assignment: str) -> None:
    """Apply one `dotted.key=value` to a parsed study file; list items are addressed by position."""
    key, sign, text = assignment.partition("=")
    if not sign or not key:
        raise StudyError(f"override {assignment!r} is not of the form key=value, e.g. certify.n=1000")
    try:
        value = parsed_toml(f"value = {text}")["value"]
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


def _with_digests(config: dict[str, Any], folder: Path) -> list[str]:
    """Let every checkpoint of a parsed study file name its file, from a folder on, and the SHA-256 of it.

    Returns what is wrong with the files.
    """
    mistakes = []
    entries = config.get("models")
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        checkpoint = entry.get("checkpoint") if isinstance(entry, dict) else None
        if not isinstance(checkpoint, dict):
            continue
        place = f"models[{index}].checkpoint"
        complete = {**checkpoint, "sha256": NO_FILE}
        if not isinstance(checkpoint.get("file"), str) or not checkpoint["file"]:
            mistakes.append(f"{place}.file is missing; name the checkpoint")
            complete["file"] = ""
        for file, sha256 in (("file", "sha256"), ("denoiser", "denoiser_sha256")):
            if not (isinstance(checkpoint.get(file), str) and checkpoint[file]):
                continue
            try:
                complete[file], complete[sha256] = _with_digest(
                    checkpoint, folder, file=file, sha256=sha256, place=place
                )
            except StudyError as error:
                mistakes.append(str(error))
        entry["checkpoint"] = complete
    return mistakes


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


def _with_log_paths(config: dict[str, Any], folder: Path) -> None:
    """Let every published log of a parsed study file be named by its path from a folder on."""
    entries = config.get("published")
    for entry in entries if isinstance(entries, list) else []:
        logs = entry.get("logs") if isinstance(entry, dict) else None
        texts = [logs] if isinstance(logs, str) else logs
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            entry["logs"] = [str((folder / text).resolve()) for text in texts]


def load_study(
    path: Path | str, *, overrides: Iterable[str] = (), allow_code: bool = False, auto: Precision | None = None
) -> StudyConfig:
    """Return the study that a TOML file describes, with `dotted.key=value` overrides applied.

    Args:
        path: Of the file.
        overrides: In their order.
        allow_code: Whether an architecture may be `module:function`, of a module that is installed or lies beside the
            study file. Otherwise a study file is data alone, and nothing that it names is imported.
        auto: What `certify.precision = "auto"`, the default of a study file, stands for; the precision that is faster
            on this machine's CPU by default. A study is what it stands for, not the word.

    Raises:
        StudyError: The file is missing, is not TOML, or says something impossible; the message names place,
            value and remedy.
    """
    path = Path(path)
    return study_of_text(study_text(path), path=path, overrides=overrides, allow_code=allow_code, auto=auto)


def study_text(path: Path) -> str:
    """Return the text of a study file.

    Raises:
        StudyError: The file is missing, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise StudyError(f"{path}: no such study file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: not a readable TOML file: {error}") from error


def study_of_text(
    text: str, *, path: Path, overrides: Iterable[str] = (), allow_code: bool = False, auto: Precision | None = None
) -> StudyConfig:
    """Return the study that the text of a study file describes, as `load_study` does.

    Args:
        text: TOML.
        path: That it has, or would have: relative paths in it start from its folder, and messages name it.
        overrides: As in `load_study`.
        allow_code: As in `load_study`.
        auto: As in `load_study`.

    Raises:
        StudyError: As in `load_study`.
    """
    try:
        config = parsed_toml(text)
    except (tomllib.TOMLDecodeError, StudyError) as error:
        raise StudyError(f"{path}: not a readable TOML file: {one_line(error)}") from error
    return study_of_content(config, path=path, overrides=overrides, allow_code=allow_code, auto=auto)


def study_of_content(
    config: dict[str, Any],
    *,
    path: Path,
    overrides: Iterable[str] = (),
    allow_code: bool = False,
    auto: Precision | None = None,
) -> StudyConfig:
    """Return the study that a parsed study file describes, as `study_of_text` does; `config` changes."""
    # An override of a key of the default data set needs no [data] in the file.
    config.setdefault("data", {"name": DigitsData().name})
    if allow_code:
        allow_code_in(path.parent)
    for assignment in overrides:
        _override(config, assignment)
    try:
        check_bounds(config)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error
    context = of_study_file(allow_code=allow_code)
    config, of_names = with_nearest_names(config)
    certify = config.setdefault("certify", {})
    if isinstance(certify, dict) and certify.get("precision", "auto") == "auto":
        # Of a network that is a file there is no other form.
        of_file = any(one in PROGRAMS for one in _architectures(config))
        certify["precision"] = "float32" if of_file else auto or fastest_precision(torch.device("cpu"))
    config, of_shared = _without_wrong_shared(config, context)
    of_files = _with_digests(config, path.parent)
    _with_log_paths(config, path.parent)
    study, mistakes = _validated(_inherit(config), context)
    if mistakes := [*of_names, *of_shared, *of_files, *mistakes]:
        raise StudyError(f"{path}: {listed(mistakes)}")
    assert study is not None
    if study.data.name != "digits" and not Path(study.data.folder).is_absolute():
        folder = str((path.parent / study.data.folder).resolve())
        study = study.model_copy(update={"data": study.data.model_copy(update={"folder": folder})})
    # Resolving finds what no single entry shows. Not before the folder is known: a copy keeps what is cached.
    _ = (study.model_specs, study.search_specs, study.ensemble_specs(study.model_specs))
    return study


def _architectures(config: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what entries of models name as their architectures, right or wrong."""
    entries = config.get("models")
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict):
            yield entry.get("architecture", config.get("architecture"))


def _without_wrong_shared(config: dict[str, Any], context: dict[str, bool]) -> tuple[dict[str, Any], list[str]]:
    """Return a file whose shared settings are valid, and what was wrong with them: not to be said of every entry."""
    mistakes: list[str] = []
    valid = (*StudyConfig.model_fields, *SHARED)
    for key in [key for key in config if key not in valid]:
        mistakes.append(f"unknown key {key!r}{nearest(key, valid)}")
        config = renamed(config, (key,), nearest_name(key, valid))
    while "training" in config:
        try:
            TrainingSpec.model_validate(config["training"])
            break
        except ValidationError as error:
            mistakes += mistakes_in(error, within=("training",))
            wrong = unknown_keys(error) or {one["loc"]: None for one in error.errors()}
            for location, meant in wrong.items():
                config = renamed(config, ("training", *location), meant)
    if "architecture" in config:
        try:
            TypeAdapter(Architecture).validate_python(config["architecture"], context=context)
        except ValidationError as error:
            mistakes += mistakes_in(error, within=("architecture",))
            # Any will do: this is no study.
            config = {**config, "architecture": next(iter(ARCHITECTURES))}
    return config, mistakes


_RELATED = {"name", "models", "search", "ensembles", "baseline", "published", "claims"}
"""Parts of a file that others refer to, or that refer to others."""


def _validated(content: dict[str, Any], context: dict[str, bool]) -> tuple[StudyConfig | None, list[str]]:
    """Return what a parsed file describes, and all that is wrong with it: a study where that is nothing.

    What entries say of each other is looked at where each of them is right by itself.
    """
    mistakes: list[str] = []
    while True:
        try:
            return StudyConfig.model_validate(content, context=context), mistakes
        except ValidationError as error:
            # Unknown keys hide whatever else is wrong with their tables.
            wrong = unknown_keys(error)
            mistakes += mistakes_in(error, only_unknown_keys=bool(wrong))
            if not wrong:
                sections = {one["loc"][0] for one in error.errors() if one["loc"]}
                if not sections or sections & _RELATED:
                    return None, mistakes
                wrong = {(section,): None for section in sections}
            before = content
            for location, meant in wrong.items():
                content = renamed(content, location, meant)
            if content == before:
                # It is wrong with what is made of the file, not with a part of it.
                return None, mistakes
