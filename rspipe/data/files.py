"""Images that are files: decoded when they are asked for, to one shape."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rspipe.data.pictures import Mode, channels_first, fitted, opened_picture
from rspipe.data.splits import Split
from rspipe.errors import DataError

_STATED = 200
"""Files of a split whose size is looked at, about: each may lie on a slow file system."""

LARGEST = 8 * 2**30
"""Bytes that the images of a split may take as one tensor when they are decoded from files."""


@dataclass(frozen=True)
class ImageFiles:
    """Image files that are decoded when they are asked for, all to one shape."""

    paths: tuple[str, ...]
    shape: tuple[int, int, int]
    """Channels, height and width of the decoded images."""
    resize: int | None
    """Shorter side of a picture before its middle is cut out; None where images are taken as they are."""

    def decode(self, positions: Sequence[int]) -> Tensor:
        """Return images [position, channel, height, width], float32 in [0, 1], without augmentation.

        Raises:
            DataError: A file is unreadable or, where images are taken as they are, of another size than the first.
        """
        return as_images(self.pixels(positions))

    def pixels(self, positions: Sequence[int]) -> Tensor:
        """Return what `decode` does as bytes: uint8 [position, channel, height, width]."""
        return self._stacked((self._middle(self.paths[position]) for position in positions), count=len(positions))

    def random_pixels(self, positions: Sequence[int], *, seed: int) -> Tensor:
        """Return random parts of the pictures, half of them flipped: uint8 [position, channel, height, width].

        A part has .08 to 1 of the picture's area and an aspect ratio of 3/4 to 4/3, as is usual for ImageNet.

        Raises:
            DataError: A file is unreadable.
        """
        from PIL import Image

        generator = torch.Generator().manual_seed(seed)
        draws = torch.rand((len(positions), 10, 4), generator=generator).tolist()
        flips = (torch.rand(len(positions), generator=generator) < 0.5).tolist()
        _, height, width = self.shape

        def part(position: int, tries: Sequence[Sequence[float]], flip: bool) -> Any:
            picture = opened_picture(self.paths[position], mode=self._mode, name=self.paths[position])
            box = _random_box(picture.width, picture.height, tries)
            cut = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
            return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else cut

        return self._stacked(map(part, positions, draws, flips), count=len(positions))

    @property
    def _mode(self) -> Mode:
        return "L" if self.shape[0] == 1 else "RGB"

    def _middle(self, path: str) -> Any:
        _, height, width = self.shape
        picture = opened_picture(path, mode=self._mode, name=path)
        return fitted(picture, width=width, height=height, resize=self.resize, name=path)

    def _stacked(self, images: Iterable[Any], *, count: int) -> Tensor:
        pixels = np.empty((count, *self.shape), np.uint8)
        for place, image in zip(pixels, images, strict=True):
            place[:] = channels_first(image)
        return torch.from_numpy(pixels)


def as_images(pixels: Tensor) -> Tensor:
    """Return bytes as float32 in [0, 1]."""
    return pixels.to(torch.float32).div_(255)


class FileSplit(Split):
    """A split whose images are files: `batch` decodes some, `images` all, once, where they fit into memory."""

    files: ImageFiles
    """Of the whole source: image i of the split is file `index[i]`."""
    at_random: bool
    """Whether images are random parts of the pictures, so that they have no pixels of their own."""

    def __init__(self, files: ImageFiles, labels: Tensor, index: Tensor, *, at_random: bool = False) -> None:
        # A split is frozen: what it holds is set here, once, but for the images.
        self.__dict__.update(files=files, labels=labels, index=index, at_random=at_random)

    def identity(self) -> str:
        """Return a hash of number, labels and names (with the last folder's) of the files, and of the sizes of some."""
        files = [Path(self.files.paths[at]) for at in self.index.tolist()]
        some = files[:: max(1, len(files) // _STATED)]
        names = ["/".join(file.parts[-2:]) for file in files]
        content = json.dumps([self.labels.tolist(), names, [file.stat().st_size for file in some if file.is_file()]])
        return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()

    @cached_property
    def images(self) -> Tensor:
        """[image, channel, height, width], float32 in [0, 1], on the device of the labels.

        Raises:
            DataError: A file is unreadable, there are too many, or images are random parts of the pictures.
        """
        if self.at_random:
            raise DataError(
                "data.augment = 'resized_crop_flip' cuts training images out anew each time, so they are no tensor; "
                "train from `training_pixels` or choose another data.augment"
            )
        size = 4 * len(self) * int(np.prod(self.files.shape))
        if size > LARGEST:
            raise DataError(
                f"{len(self)} images of {'x'.join(map(str, self.files.shape))} would take {size / 2**30:.0f} GiB "
                "as one tensor; ask for fewer images, a smaller data.size, or take them in batches"
            )
        return self.batch(torch.arange(len(self)))

    def __repr__(self) -> str:
        """Return a text for which nothing is decoded."""
        return f"FileSplit({len(self)} of {len(self.files.paths)} files)"

    def batch(self, positions: Tensor) -> Tensor:
        """Return the images at `positions`, decoded, on the device of the labels."""
        return self.files.decode(self.index[positions.to(self.index.device)].tolist()).to(self.labels.device)

    def some(self, positions: Tensor) -> ImageFiles:
        """Return the files of the images at `positions`, in this order."""
        chosen = self.index[positions.to(self.index.device)].tolist()
        return replace(self.files, paths=tuple(self.files.paths[which] for which in chosen))

    def at(self, positions: Tensor) -> "FileSplit":
        """Return the images at `positions` as a split, still to be decoded."""
        return FileSplit(self.files, self.labels[positions], self.index[positions], at_random=self.at_random)

    def to(self, device: torch.device) -> "FileSplit":
        """Return the split with labels, and the images once they are decoded, on a device."""
        return FileSplit(self.files, self.labels.to(device), self.index, at_random=self.at_random)


def check_pictures(split: Split) -> None:
    """Decode every picture of a split, one by one, to know that all can be; tensors are decoded already.

    Raises:
        DataError: Some cannot be; the message has the first one, and how many there are.
    """
    wrong = []
    for position in range(len(split)) if isinstance(split, FileSplit) else ():
        try:
            split.batch(torch.tensor([position]))
        except DataError as error:
            wrong.append(str(error))
    if wrong:
        raise DataError(wrong[0] + (f" (and {len(wrong) - 1:,} more of {len(split):,})" if len(wrong) > 1 else ""))


def _random_box(width: int, height: int, tries: Sequence[Sequence[float]]) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the first part that fits a picture, else of its middle.

    Each try is four numbers in [0, 1): they choose area, aspect ratio, and the place across and down.
    """
    for area, ratio, across, down in tries:
        wanted, aspect = width * height * (0.08 + 0.92 * area), (3 / 4) * (16 / 9) ** ratio
        part = round((wanted * aspect) ** 0.5), round((wanted / aspect) ** 0.5)
        if 0 < part[0] <= width and 0 < part[1] <= height:
            left, top = int(across * (width - part[0] + 1)), int(down * (height - part[1] + 1))
            return left, top, left + part[0], top + part[1]
    part = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - part[0]) // 2, (height - part[1]) // 2
    return left, top, left + part[0], top + part[1]


def training_pixels(files: ImageFiles, *, at_random: bool, seed: int) -> Tensor:
    """Return what a training step sees of its files: random parts, which the seed decides, or whole images.

    Returns:
        uint8 [file, channel, height, width].

    Raises:
        DataError: A file is unreadable.
    """
    positions = range(len(files.paths))
    return files.random_pixels(positions, seed=seed) if at_random else files.pixels(positions)


Step = tuple[Tensor, int]
"""Positions of the images of a training step, and the seed of what is random in decoding them."""

PixelSource = Callable[[FileSplit, Sequence[Step]], Iterator[Tensor]]
"""Yields `training_pixels` of every step of an epoch, in order."""


def decoded_here(split: FileSplit, steps: Sequence[Step]) -> Iterator[Tensor]:
    """Yield the pixels of every step, decoded one by one by who asks for them."""
    for positions, seed in steps:
        yield training_pixels(split.some(positions), at_random=split.at_random, seed=seed)
