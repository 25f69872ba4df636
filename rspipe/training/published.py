"""A published checkpoint as a model of a study: loaded where others are trained."""

import platform
import time
from pathlib import Path

from torch import nn

from rspipe.data.splits import Dataset
from rspipe.errors import ModelError
from rspipe.networks.architectures import check_input
from rspipe.networks.checkpoints import check_clean_accuracy, load_checkpoint
from rspipe.training.fitting import Fit
from rspipe.training.methods.checkpoint import Checkpoint, file_digest
from rspipe.training.spec import ModelSpec

_CHECKED_IMAGES = 1000


def published_network(spec: ModelSpec, data: Dataset) -> nn.Module:
    """Return the network of a model that is a checkpoint, in eval mode on the CPU.

    Raises:
        ModelError: The file is missing here, is not the one that the study was made with, or does not fit.
    """
    source = spec.method
    if not isinstance(source, Checkpoint):
        raise ValueError(f"{spec.id} is trained; use rspipe.training.fitting.fit")
    path = Path(source.file)
    try:
        digest = file_digest(path)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read on {platform.node()} ({error.strerror}); put it where all nodes see it"
        ) from error
    if digest != source.sha256:
        raise ModelError(f"{path}: has changed since the study was made; put back the file with {source.sha256}")
    network = load_checkpoint(
        path, architecture=spec.architecture, classes=data.classes, normalization=source.normalization
    )
    check_input(network, data.sample_shape, architecture=spec.architecture, classes=data.classes)
    return network


def loaded(spec: ModelSpec, data: Dataset) -> Fit:
    """Return what takes the place of training where a model is a checkpoint (`rspipe.methods.Checkpoint`).

    Raises:
        ModelError: As `published_network`, or it is not as accurate on test images as was published.
    """
    began = time.monotonic()
    network = published_network(spec, data).to(data.test.labels.device)
    source = spec.method
    if isinstance(source, Checkpoint) and source.clean_accuracy is not None:
        seen = data.test.evenly_spaced(min(_CHECKED_IMAGES, len(data.test)))
        try:
            check_clean_accuracy(
                network, seen.images, seen.labels, expected=source.clean_accuracy, tolerance=source.tolerance
            )
        except ModelError as error:
            raise ModelError(f"{source.file}: {error}") from error
    return Fit(network, "finished", "", (), time.monotonic() - began, 0)
