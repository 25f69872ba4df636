"""Finished run directories, made in this process without a cluster."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import torch

from rspipe.data.sources import load_dataset
from rspipe.execution.resources import Cluster, Resources
from rspipe.search.trials import trial_parameters
from rspipe.smoothing.classifiers import BatchLimit
from rspipe.stages import certify, search, weigh
from rspipe.stages.choose import choose_cascades
from rspipe.stages.passes import Work
from rspipe.stages.report import finished_candidates, finished_ensembles, known_models, read_results
from rspipe.stages.train import train_one
from rspipe.stages.trials import open_trials, run_trial
from rspipe.storage.classifiers import load_network
from rspipe.storage.opening import open_store
from rspipe.storage.store import Store
from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study

CPU = torch.device("cpu")

EVERYTHING = """
name = "small"
data = { name = "digits", validation = 20, test = 580 }
architecture = "digits_cnn"
training = { epochs = 1, batch_size = 64, lr = 0.05 }

[[models]]
method = { name = "gaussian" }
sigma = [0.25, 0.5]
seeds = [0, 1]

[[search]]
label = "tuned"
method = { name = "gaussian" }
sigma = 0.25
seeds = [0]
trials = 2
n = 50
space = { "training.lr" = { low = 0.02, high = 0.1 } }

[[ensembles]]
members = "gaussian x2"

[[cascades]]
classifiers = "gaussian"

[[cascades]]
classifiers = ["gaussian", "gaussian x2 (uniform)"]
choose = "radius"

[weigh]
images = 4
draws = 10

[certify]
n0 = 20
n = 200
images = 5
"""
"""A study with every stage, in a second."""


def finished_run(run_dir: Path, text: str, *, allow_code: bool = False) -> Path:
    """Run a study of no search; return the run directory. The study file lies beside it, as do the files it names."""
    (run_dir.parent / "study.toml").write_text(text)
    study = load_study(run_dir.parent / "study.toml", allow_code=allow_code)
    return run_alone(run_dir, study, text=text)


def run_alone(run_dir: Path, study: StudyConfig, *, text: str = "") -> Path:
    """Run all stages of a study in this process, or what is missing of them; return the run directory.

    The stages' own code runs, but for Ray's: what it hands to workers is called here.
    """
    data, nowhere = load_dataset(study.data), Cluster("nowhere", (), Resources())
    with open_store(run_dir, study, source=text, environment={"commit": "none"}) as store:
        for one in study.search_specs:
            for index in open_trials(store, one):
                store.save_trial(run_trial(store, one, index, trial_parameters(one)[index], device=CPU))
            if store.search_result(one.id, trials=one.trials) is None:
                search._conclude(store, one)
        for spec in known_models(store, study):
            train_one(store, spec, data)
        with patch.object(weigh, "visit", visit_here), patch.object(certify, "visit", visit_here):
            specs = finished_ensembles(store, study)
            alone = finished_candidates(store, study)
            weigh.weigh_ensembles(store, study, specs, alone=alone, cluster=nowhere, on_progress=_ignore)
            choose_cascades(store, study)
            results = read_results(store, study)
            certify.certify_classifiers(
                store, study, results.models, results.ensembles, cluster=nowhere, on_progress=_ignore
            )
    return run_dir


def visit_here(
    store: Store, works: Sequence[Work], *, classes: int, cluster: Any, on_block: Callable[[pa.Table], None]
) -> None:
    """Do what `rspipe.stages.passes.visit` does, an image at a time, without actors."""
    for which, work in enumerate(works):
        split, precision = work.split, work.sampling.precision
        members = [
            load_network(store, one, classes=classes, device=CPU, precision=precision) for one in work.sampling.members
        ]
        for image, label, example in zip(split.images, split.labels.tolist(), split.index.tolist(), strict=True):
            rows = work.sampling.run(members, image, label, example, limit=BatchLimit())
            on_block(rows.append_column("work", pa.array([which] * rows.num_rows, pa.int64())))


def _ignore(_: object) -> None:
    pass
