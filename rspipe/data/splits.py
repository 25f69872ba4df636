"""Images in [0, 1] with labels, and how a training part is split."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rspipe.arrays import IntArray
from rspipe.data.spec import FileAugmentation, HeldOutData
from rspipe.errors import DataError
from rspipe.spec import ImageChoice

SplitName = Literal["train", "validation", "calibration", "test"]


@dataclass(frozen=True)
class Split:
    """Images with labels."""

    images: Tensor
    """[image, channel, height, width], float32 in [0, 1]."""
    labels: Tensor
    """[image], int64."""
    index: Tensor
    """[image], position of each image in its source (the training or the test part), int64."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at `positions`, on the device of the labels."""
        return self.images[positions]

    def at(self, positions: Tensor) -> "Split":
        """Return the images at `positions` as a split."""
        return Split(self.images[positions].contiguous(), self.labels[positions], self.index[positions])

    def to(self, device: torch.device) -> "Split":
        """Return the split with images and labels on a device; the index stays where it is."""
        return Split(self.images.to(device), self.labels.to(device), self.index)

    def identity(self) -> str:
        """Return a hash of number, labels and pixels of the images."""
        return _digest(self.labels.cpu().numpy().astype("<i8"), self.images.cpu().contiguous().numpy())

    def evenly_spaced(self, images: int | None) -> "Split":
        """Return `images` images evenly spaced over the split; all when None.

        Raises:
            DataError: The split has fewer.
        """
        if images is None:
            return self
        if images > len(self):
            raise DataError(f"{images} images are asked for but the split has {len(self)}; lower the number")
        return self.at(torch.arange(images) * len(self) // images)

    def chosen(self, images: ImageChoice | None) -> "Split":
        """Return some images of the split, ranges and lists by their numbers in the source; all when None.

        Raises:
            DataError: There are not as many, or none of such a number.
        """
        if images is None or isinstance(images, int):
            return self.evenly_spaced(images)
        last = int(self.index.max()) if len(self) else -1
        missing_before = last + 1 - len(self)
        others = f"; {missing_before:,} are missing before, as where data.calibration_from holds some out"
        others = others if missing_before > 0 else ""
        if isinstance(images, tuple):
            wanted = torch.isin(self.index, torch.tensor(images))
            if (missing := sorted({*images} - {*self.index[wanted].tolist()})) != []:
                raise DataError(
                    f"image {missing[0]} is asked for, and is none of the {len(self)} of the split, whose numbers end "
                    f"at {last}{others}"
                )
            return self.at(wanted.nonzero().flatten())
        beyond = self.index - images.start
        positions = ((beyond >= 0) & (beyond % images.skip == 0)).nonzero().flatten()
        if len(positions) < (least := images.first or 1):
            raise DataError(
                f"{least} images from number {images.start} on in steps of {images.skip} are asked for, but the split "
                f"has {len(positions)}; its last one is number {last}{others}"
            )
        return self.at(positions[: images.first])


@dataclass(frozen=True)
class Dataset:
    """The four splits of a data set, disjoint.

    Train, validation and calibration are parts of its training part; without one they are empty, but for calibration
    images that are held out of the test part.
    """

    name: str
    classes: int
    augment: FileAugmentation
    train: Split
    validation: Split
    calibration: Split
    test: Split
    notes: tuple[str, ...] = ()
    """Notes for its user: files that were left out, or how classes are numbered."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        # Who trains or searches does not look at test images; a test part may be all there is.
        part = self.train if len(self.train) else self.test
        return tuple(part.batch(torch.zeros(1, dtype=torch.int64)).shape[1:])


def _digest(*parts: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.data)
    return digest.hexdigest()


def whole_split(images: Tensor, labels: Tensor) -> Split:
    return Split(images, labels, torch.arange(len(labels)))


def chosen(whole: Split, positions: IntArray) -> Split:
    return whole.at(torch.from_numpy(np.sort(positions)))


def held_out(whole: Split, order: IntArray, *, validation: int, calibration: int) -> dict[SplitName, Split]:
    """Split the training part: the first images in `order` are held out."""
    if validation + calibration >= len(order):
        raise DataError(
            f"validation = {validation} and calibration = {calibration} leave no training image of {len(order)}; "
            "lower them"
        )
    cuts = np.split(order, [validation, validation + calibration])
    return {
        "validation": chosen(whole, cuts[0]),
        "calibration": chosen(whole, cuts[1]),
        "train": chosen(whole, cuts[2]),
    }


def parts_of(train: Split | None, test: Split, spec: HeldOutData) -> dict[SplitName, Split]:
    """Return the four splits of a data set that comes as a test part, and mostly a training part, as a spec says.

    Raises:
        DataError: So many images cannot be held out.
    """
    from_test = spec.calibration_from == "test"
    if train is None:
        nothing = test.at(torch.zeros(0, dtype=torch.int64))
        parts: dict[SplitName, Split] = {"train": nothing, "validation": nothing, "calibration": nothing}
    else:
        order = np.random.default_rng(spec.seed).permutation(len(train))
        calibration = 0 if from_test else spec.calibration
        parts = held_out(train, order, validation=spec.validation, calibration=calibration)
    if from_test:
        if spec.calibration >= len(test):
            raise DataError(
                f"data.calibration = {spec.calibration} leaves no test image of {len(test)}; lower it, since "
                "data.calibration_from = 'test'"
            )
        order = np.random.default_rng(spec.seed).permutation(len(test))
        parts["calibration"] = chosen(test, order[: spec.calibration])
        test = chosen(test, order[spec.calibration :])
    return {**parts, "test": test}


def check_images(split: Split, *, classes: int) -> None:
    """Raise DataError for an image outside [0, 1] or a label outside the classes: radii would mean nothing."""
    pixels = split.images.flatten(1)
    # Written so that a NaN fails, too.
    outside = ~((pixels >= 0) & (pixels <= 1)).all(1)
    if bool(outside.any()):
        which = int(outside.nonzero()[0])
        low, high = float(pixels[which].min()), float(pixels[which].max())
        raise DataError(
            f"image {int(split.index[which])} has values from {low:g} to {high:g}, outside [0, 1]; "
            "scale the images, and leave normalization to the network's first layer"
        )
    strange = (split.labels < 0) | (split.labels >= classes)
    if bool(strange.any()):
        which = int(strange.nonzero()[0])
        raise DataError(
            f"image {int(split.index[which])} has label {int(split.labels[which])}, outside the {classes} classes; "
            "mend the labels or data.classes"
        )
