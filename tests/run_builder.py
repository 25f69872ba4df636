"""A finished run directory, made in this process without a cluster."""

from pathlib import Path

import torch

from rspipe.data.sources import load_dataset
from rspipe.smoothing.classifiers import BatchLimit
from rspipe.stages.certify import _works
from rspipe.stages.train import train_one
from rspipe.storage.classifiers import candidates_of, certification_keys, load_network
from rspipe.storage.counts import SCHEMA
from rspipe.storage.opening import open_store
from rspipe.study.loading import load_study


def finished_run(run_dir: Path, text: str, *, allow_code: bool = False) -> Path:
    """Train and certify the models of a study of one noise level; return the run directory.

    The study file lies beside it, as do the files that it names.
    """
    (run_dir.parent / "study.toml").write_text(text)
    study = load_study(run_dir.parent / "study.toml", allow_code=allow_code)
    data = load_dataset(study.data)
    split = data.test.chosen(study.certify.images)
    with open_store(run_dir, study, source=text, environment={"commit": "none"}) as store:
        models = [train_one(store, spec, data) for spec in study.model_specs]
        store.save_images_to_certify(len(split))
        keys = certification_keys(study, models, [])
        (work,) = _works(candidates_of(models, []), split, set(), study, keys=keys, classes=data.classes)
        device = torch.device("cpu")
        networks = [load_network(store, one.id, classes=data.classes, device=device) for one in models]
        for image, label, example in zip(split.images, split.labels.tolist(), split.index.tolist(), strict=True):
            rows = work.sampling.run(networks, image, label, example, limit=BatchLimit())
            store.save_counts(rows.select(SCHEMA.names))
    return run_dir
