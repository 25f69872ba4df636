"""Count images of a run directory again, from its models, and compare with the counts that are stored.

The other half of check_run.py, which proves radii from counts: `python pipelines/check_run.py RUN --recount 5`. It
imports rspipe, and needs the images of the study. Counts are the same bit for bit on the same kind of CPU with the same
packages; elsewhere a few samples that lie on a decision boundary may fall on another class.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from rspipe.data.sources import load_dataset
from rspipe.errors import RspipeError, StoreError, printable
from rspipe.execution.worker import set_deterministic
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
        text = first_difference(run, images)
    except RspipeError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    if text is not None:
        sys.exit(f"{run}: {text}")
    print(f"{run}: {images} images, counted again for every classifier, have the same counts")


def first_difference(run: Path, images: int) -> str | None:
    """Return the first count that comes out otherwise, in words; None where all are the same.

    Args:
        run: A run directory.
        images: How many test images, evenly spaced over those of the study, are counted for every classifier.

    Raises:
        StoreError: Networks are code that nobody allowed to run.
        DataError: The images are not where they were.
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
    keys = certification_keys(study, results.models, results.ensembles)
    candidates = candidates_of(results.models, results.ensembles)
    table = store.counts(["classifier", "key", "example", *COMPARED])
    assert table is not None
    stored = {(row["classifier"], row["key"], row["example"]): row for row in table.to_pylist()}
    split = data.test.chosen(study.certify.images)
    places = np.unique(np.linspace(0, len(split) - 1, min(images, len(split))).round().astype(int)).tolist()
    for sigma in sorted({one.sigma for one in candidates}):
        here = [one for one in candidates if one.sigma == sigma]
        members = tuple(dict.fromkeys(member for one in here for member in one.members))
        networks = [
            load_network(
                store, one, classes=data.classes, device=torch.device("cpu"), precision=study.certify.precision
            )
            for one in members
        ]
        classifiers, ours = tuple(classifier_among(one, members) for one in here), tuple(keys[one.id] for one in here)
        count = CountPass(sigma, members, classifiers, ours, study.certify, data.classes)
        for place in places:
            example, label = int(split.index[place]), int(split.labels[place])
            rows = count.run(networks, split.images[place], label, example, limit=BatchLimit()).to_pylist()
            for row in rows:
                known = stored.get((row["classifier"], row["key"], example))
                if known is None:
                    return f"{row['classifier']} has no counts at image {example}"
                for name in COMPARED:
                    if known[name] != row[name]:
                        return (
                            f"{name} of {row['classifier']} at image {example} is {row[name]} when counted again, "
                            f"and {known[name]} in the run directory"
                        )
    return None
