"""Section: the settings of the study and of its methods, and the environment."""

import json
from typing import Any

from rspipe.report.results import Results
from rspipe.report.section import Section
from rspipe.report.tables import Cell, Table, flattened
from rspipe.study.config import StudyConfig


def setting_table(content: dict[str, Any]) -> Table:
    """Return nested JSON-like content as rows of a dotted name and a value."""
    return Table.of({"parameter": Cell(key), "value": Cell(value)} for key, value in flattened(content).items())


def method_table(study: StudyConfig) -> Table:
    """Return every parameter of every entry that trains models: one row each, one column per entry."""
    entries = {
        f"{group.label}, σ {', '.join(f'{sigma:g}' for sigma in group.sigma)}": flattened(group.model_dump(mode="json"))
        for group in study.groups
    }
    names = dict.fromkeys(name for entry in entries.values() for name in entry if name not in ("label", "sigma"))
    ordered = sorted(names, key=lambda name: name.startswith("space."))
    return Table.of(
        {"parameter": Cell(name)} | {head: Cell(entry.get(name, "–")) for head, entry in entries.items()}
        for name in ordered
    )


def section(results: Results) -> Section:
    """Return the section."""
    study = results.study.model_dump(mode="json")
    shared = {key: study[key] for key in ("data", "certify", "weigh", "radii", "baseline")}
    content = {
        "methods": method_table(results.study),
        "shared": setting_table(shared),
        "environment": setting_table(dict(results.environment)),
        "study": json.dumps(study, indent=1, ensure_ascii=False),
    }
    known = [
        f"{name} {value}" for name in ("commit", "rspipe", "torch", "cpu") if (value := results.environment.get(name))
    ]
    return Section("parameters", content, finding=", ".join(known))
