"""A checkpoint as a model of a study: it is loaded where others are trained."""

import platform
import time
from pathlib import Path

from torch import nn

from rspipe.data.splits import Dataset
from rspipe.errors import ModelError
from rspipe.networks.architectures import check_input
from rspipe.networks.checkpoints import check_clean_accuracy, file_digest, load_checkpoint
from rspipe.training.fitting import Fit
from rspipe.training.spec import LoadedModelSpec

_CHECKED_IMAGES = 1000


def published_network(spec: LoadedModelSpec, data: Dataset) -> nn.Module:
    """Return the network of a checkpoint, in eval mode on the CPU.

    Raises:
        ModelError: The file is missing here, is not the one that the study was made with, or does not fit.
    """
    checkpoint = spec.checkpoint
    path = Path(checkpoint.file)
    try:
        digest = file_digest(path)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read on {platform.node()} ({error.strerror}); put it where all nodes see it"
        ) from error
    if digest != checkpoint.sha256:
        raise ModelError(f"{path}: has changed since the study was made; put back the file with {checkpoint.sha256}")
    network = load_checkpoint(
        path, architecture=spec.architecture, classes=data.classes, normalization=checkpoint.normalization
    )
    check_input(network, data.sample_shape, architecture=spec.architecture, classes=data.classes)
    return network


def load_published_model(spec: LoadedModelSpec, data: Dataset) -> Fit:
    """Return a checkpoint's network, on the device of the data, as the result of a training that took no step.

    Raises:
        ModelError: As `published_network`, or it is not as accurate on test images as was published.
    """
    began = time.monotonic()
    checkpoint, network = spec.checkpoint, published_network(spec, data).to(data.test.labels.device)
    if checkpoint.clean_accuracy is not None:
        checked = data.test.evenly_spaced(min(_CHECKED_IMAGES, len(data.test)))
        try:
            check_clean_accuracy(
                network,
                checked.images,
                checked.labels,
                expected=checkpoint.clean_accuracy,
                tolerance=checkpoint.tolerance,
            )
        except ModelError as error:
            raise ModelError(f"{checkpoint.file}: {error}") from error
    return Fit(network, "finished", "", (), time.monotonic() - began, 0)
