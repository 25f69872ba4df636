"""Count images of a run directory again, from its models, and compare with the counts that are stored.

The other half of check_run.py, which proves radii from counts: `python pipelines/check_run.py RUN --recount 5`. It
imports rspipe, and needs the images of the study. Each image is counted on the kind of device that counted it: a GPU
draws other noise than a CPU, or than a GPU of another model. Counts are the same bit for bit on the same kind of CPU,
or on the same model of GPU, with the same packages; on another CPU a few samples that lie on a decision boundary may
fall on another class.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rspipe.data.sources import load_dataset
from rspipe.errors import ClusterError, RspipeError, StoreError, printable
from rspipe.execution.worker import device_text, set_deterministic
from rspipe.networks.architectures import CODE_FOLDERS, code_in, code_is_allowed
from rspipe.smoothing.classifiers import BatchLimit
from rspipe.stages.passes import CountPass
from rspipe.stages.report import read_results
from rspipe.storage.classifiers import candidates_of, certification_keys, classifier_among, load_network
from rspipe.storage.opening import read_study
from rspipe.storage.store import Store

COMPARED = ("label", "selection", "pilot", "estimation", "stop", "marks", "prefix", "noise")


def compare(run: Path, images: int) -> None:
    """Say that counts are the same; end with status 1 at the first difference, with 2 where nothing can be counted."""
    try:
        counted, text = first_difference(run, images)
    except RspipeError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    if text is not None:
        sys.exit(f"{run}: {text}")
    print(f"{run}: counted again for every classifier, images with the same counts as before: {counted}")


def first_difference(run: Path, images: int) -> tuple[int, str | None]:
    """Return how many images are counted, and the first count that is another, in words; None where all are the same.

    Args:
        run: A run directory.
        images: How many test images, evenly spaced over those of the study, are counted for every classifier; all of
            them where there are fewer.

    Raises:
        StoreError: Networks are code that nobody allowed to run.
        DataError: The images are not where they were.
        ClusterError: Images were counted on a GPU, and there is none.
    """
    set_deterministic(threads=1)
    store = Store(run)
    study = read_study(store)
    results = read_results(store, study)
    for model in results.models:
        if (source := code_in(str(model.spec["architecture"]))) and not code_is_allowed():
            raise StoreError(
                f"{run}: a network runs code of {source}; if you trust it and this run directory, name its folder in "
                f"{CODE_FOLDERS}, e.g. {CODE_FOLDERS}=."
            )
    data = load_dataset(study.data)
    store.check_test_part(data.test.identity())
    keys = certification_keys(study, results.models, results.ensembles)
    candidates = candidates_of(results.models, results.ensembles)
    table = store.counts(["classifier", "key", "example", "device", *COMPARED])
    assert table is not None
    stored = {(row["classifier"], row["key"], row["example"]): row for row in table.to_pylist()}
    split = data.test.chosen(study.certify.images)
    places = np.unique(np.linspace(0, len(split) - 1, min(images, len(split))).round().astype(int)).tolist()
    for sigma in sorted({one.sigma for one in candidates}):
        here = [one for one in candidates if one.sigma == sigma]
        members = tuple(dict.fromkeys(member for one in here for member in one.members))
        classifiers, ours = tuple(classifier_among(one, members) for one in here), tuple(keys[one.id] for one in here)
        count = CountPass(sigma, members, classifiers, ours, study.certify, data.classes)
        networks, devices = dict[str, list[nn.Module]](), dict[str, torch.device]()
        for place in places:
            example, label = int(split.index[place]), int(split.labels[place])
            known = {one.id: stored.get((one.id, key, example)) for one, key in zip(here, ours, strict=True)}
            for name, row in known.items():
                if row is None:
                    return len(places), f"{name} has no counts at image {example}"
            # Resumed on another machine, it may be a GPU for some classifiers of an image and a CPU for others.
            for kind in sorted({_kind(row) for row in known.values()}):
                if kind not in networks:
                    devices[kind] = _device(kind, run)
                    precision, on = study.certify.precision, devices[kind]
                    networks[kind] = [
                        load_network(store, one, classes=data.classes, device=on, precision=precision)
                        for one in members
                    ]
                image = split.images[place].to(devices[kind])
                for row in count.run(networks[kind], image, label, example, limit=BatchLimit()).to_pylist():
                    before = known[row["classifier"]]
                    if _kind(before) == kind and (difference := _difference(before, row)):
                        return len(places), difference
    return len(places), None


def _kind(row: dict[str, Any]) -> str:
    """Return the kind of device that counted a row; of a GPU it says which."""
    return str(row["device"])


def _device(kind: str, run: Path) -> torch.device:
    """Return a device of this kind, whose noise is that of the counts."""
    if kind == "cpu":
        return torch.device(kind)
    here = device_text(torch.device("cuda")) if torch.cuda.is_available() else "no GPU"
    if here != kind:
        raise ClusterError(
            f"{run} was counted on a GPU ({kind}), whose noise others do not draw; here is {here}: count it again there"
        )
    return torch.device("cuda")


def _difference(before: dict[str, Any], row: dict[str, Any]) -> str:
    """Return the first count of a row that is another one than before, in words; empty where all are the same."""
    for name in COMPARED:
        if before[name] != row[name]:
            return (
                f"{name} of {row['classifier']} at image {row['example']} is {row[name]} when counted again, "
                f"and {before[name]} in the run directory"
            )
    return ""
