"""A checkpoint as a model of a study: it is loaded where others are trained."""

import math
import platform
import time
from pathlib import Path

import numpy as np
from torch import nn

from rspipe.data.splits import Dataset
from rspipe.errors import ModelError
from rspipe.networks.architectures import check_input
from rspipe.networks.checkpoints import check_clean_accuracy, file_digest, load_checkpoint, normalization_doubt
from rspipe.training.fitting import Fit
from rspipe.training.spec import LoadedModelSpec

_CHECKED_IMAGES = 1000

_DOUBT_NUMBERS, _DOUBT_IMAGES = 5_000_000, (50, 200)
"""About so many pixels, of a number of images within bounds, are classified with the usual normalizations."""


def published_network(spec: LoadedModelSpec, data: Dataset) -> nn.Module:
    """Return the network of a checkpoint, in eval mode on the CPU.

    Raises:
        ModelError: The file is missing here, is not the one that the study was made with, or does not fit.
    """
    checkpoint = spec.checkpoint
    path = _unchanged(checkpoint.file, checkpoint.sha256)
    denoiser = checkpoint.denoiser_sha256 and _unchanged(checkpoint.denoiser, checkpoint.denoiser_sha256)
    network = load_checkpoint(
        path,
        architecture=spec.architecture,
        classes=data.classes,
        normalization=checkpoint.normalization,
        parameters=checkpoint.parameters,
        denoiser=denoiser,
    )
    check_input(network, data.sample_shape, architecture=spec.architecture, classes=data.classes)
    return network


def _unchanged(file: str, sha256: str) -> Path:
    """Return the path of a file that must be the one that the study was made with."""
    path = Path(file)
    try:
        digest = file_digest(path)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read on {platform.node()} ({error.strerror}); put it where all nodes see it"
        ) from error
    if digest != sha256:
        raise ModelError(f"{path}: has changed since the study was made; put back the file with {sha256}")
    return path


def load_published_model(spec: LoadedModelSpec, data: Dataset) -> Fit:
    """Return a checkpoint's network, on the device of the data, as the result of a training that took no step.

    Its message says where another normalization is clearly more accurate on some test images.

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
    number = int(np.clip(_DOUBT_NUMBERS // math.prod(data.sample_shape), *_DOUBT_IMAGES))
    some = data.test.evenly_spaced(min(number, len(data.test)))
    doubt = normalization_doubt(network, some.images, some.labels)
    return Fit(network, "finished", doubt, (), time.monotonic() - began, 0)
