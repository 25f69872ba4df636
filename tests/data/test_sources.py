"""Images in [0, 1] and their splits: from scikit-learn, Parquet files, torchvision's archives and folders of files."""

import hashlib
import io
import os
import pickle
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import transforms

from rspipe.arrays import IntArray
from rspipe.data import files as image_files
from rspipe.data.files import FileSplit, as_images, decoded_here
from rspipe.data.sources import load_dataset
from rspipe.data.spec import DataSpec, DigitsData, ParquetData
from rspipe.data.splits import Dataset, Split, check_images
from rspipe.errors import DataError
from rspipe.spec import ImageChoice, ImageRange, number_chosen
from rspipe.training.randomness import augmented, crop_flip

PARTS = ("train", "validation", "calibration", "test")


def fresh(spec: DataSpec) -> Dataset:
    """Load without the cache."""
    data: Dataset = load_dataset.__wrapped__(spec)
    return data


def parts(data: Dataset) -> dict[str, Split]:
    return {name: getattr(data, name) for name in PARTS}


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def noise_pictures(count: int, *, seed: int, shape: tuple[int, ...] = (5, 4, 3)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write(path: Path, images: Sequence[Any], labels: Sequence[Any]) -> None:
    pq.write_table(pa.table({"image": list(images), "label": list(labels)}), path)


def folder_spec(folder: Path, **changes: Any) -> ParquetData:
    content = {"title": "noise", "train": "train.parquet", "test": "test.parquet", "validation": 3, "calibration": 2}
    return ParquetData(name="parquet", folder=str(folder), **{**content, "classes": 3, **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 12 images for training and 4 for testing, of known pixels."""
    write(tmp_path / "train.parquet", [png(p) for p in noise_pictures(12, seed=0)], [k % 3 for k in range(12)])
    write(tmp_path / "test.parquet", [png(p) for p in noise_pictures(4, seed=1)], [2, 1, 0, 1])
    return tmp_path


def test_digits_are_split_into_disjoint_parts_that_use_every_image_once() -> None:
    data = fresh(DigitsData())
    assert sorted(torch.cat([split.index for split in parts(data).values()]).tolist()) == list(range(1797))


def test_digits_parts_have_the_sizes_asked_for() -> None:
    data = fresh(DigitsData(validation=10, calibration=20, test=30))
    assert {name: len(split) for name, split in parts(data).items()} == {
        "train": 1737,
        "validation": 10,
        "calibration": 20,
        "test": 30,
    }


@pytest.mark.parametrize("part", PARTS)
def test_digits_are_those_of_scikit_learn_on_a_scale_of_zero_to_one(part: str) -> None:
    split, source = parts(fresh(DigitsData()))[part], load_digits()
    assert (split.images.dtype, split.labels.dtype) == (torch.float32, torch.int64)
    np.testing.assert_array_equal(split.images[:, 0].numpy() * 16, source.images[split.index.numpy()])
    np.testing.assert_array_equal(split.labels.numpy(), source.target[split.index.numpy()])
    assert (float(split.images.min()), float(split.images.max())) == (0.0, 1.0)


def test_the_split_of_the_digits_is_fixed_by_its_seed() -> None:
    first, again, other = (parts(fresh(DigitsData(seed=seed))) for seed in (0, 0, 1))
    for part in PARTS:
        assert torch.equal(first[part].index, again[part].index)
        assert not torch.equal(first[part].index[:100], other[part].index[:100])


def test_the_test_digits_do_not_depend_on_the_sizes_of_the_other_parts() -> None:
    one, other = fresh(DigitsData()), fresh(DigitsData(validation=5, calibration=5))
    assert torch.equal(one.test.index, other.test.index)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_digits_holds_every_class(part: str) -> None:
    assert len(parts(fresh(DigitsData()))[part].labels.unique()) == 10


def test_a_data_set_is_loaded_once() -> None:
    assert load_dataset(DigitsData(seed=5)) is load_dataset(DigitsData(seed=5))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"test": 1797}, r"data\.test = 1797 leaves no training image of 1797; lower it"),
        (
            {"validation": 1000, "calibration": 397},
            "validation = 1000 and calibration = 397 leave no training image of 1397; lower them",
        ),
    ],
)
def test_parts_that_leave_nothing_to_train_on_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fresh(DigitsData(**sizes))  # type: ignore[arg-type]


def test_a_single_image_may_be_left_to_train_on() -> None:
    assert len(fresh(DigitsData(validation=1000, calibration=396)).train) == 1


def line(count: int) -> Split:
    return Split(torch.arange(float(count)).view(-1, 1, 1, 1), torch.arange(count) % 3, torch.arange(count) + 100)


@pytest.mark.parametrize(
    ("have", "ask", "expected"),
    [
        (10, 10, list(range(10))),
        (10, 5, [0, 2, 4, 6, 8]),
        (10, 3, [0, 3, 6]),
        (10, 1, [0]),
        (7, 6, [0, 1, 2, 3, 4, 5]),
        (10_000, 500, list(range(0, 10_000, 20))),
    ],
)
def test_evenly_spaced_images_start_at_the_first(have: int, ask: int, expected: list[int]) -> None:
    few = line(have).evenly_spaced(ask)
    assert few.images.flatten().tolist() == expected
    assert few.labels.tolist() == [k % 3 for k in expected]
    assert few.index.tolist() == [k + 100 for k in expected]


def test_all_images_are_taken_when_no_number_is_asked_for() -> None:
    split = line(4)
    assert split.evenly_spaced(None) is split


def test_more_images_than_there_are_are_refused() -> None:
    with pytest.raises(DataError, match="11 images are asked for but the split has 10; lower the number"):
        line(10).evenly_spaced(11)


def numbered(numbers: Sequence[int]) -> Split:
    """A split of images whose pixel is their number in the source."""
    index = torch.tensor(numbers)
    return Split(index.float().view(-1, 1, 1, 1), index % 3, index)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, list(range(100))),
        (4, [0, 25, 50, 75]),
        (ImageRange(), list(range(100))),
        (ImageRange(skip=20), [0, 20, 40, 60, 80]),
        (ImageRange(skip=20, first=3), [0, 20, 40]),
        (ImageRange(first=7), list(range(7))),
        (ImageRange(start=50, first=50), list(range(50, 100))),
        (ImageRange(start=3, skip=40), [3, 43, 83]),
        ((0, 17, 99), [0, 17, 99]),
    ],
)
def test_images_are_chosen_as_papers_say_it(choice: ImageChoice | None, expected: list[int]) -> None:
    chosen = numbered(range(100)).chosen(choice)
    assert chosen.index.tolist() == chosen.images.flatten().tolist() == expected
    assert chosen.labels.tolist() == [number % 3 for number in expected]
    if choice is not None and number_chosen(choice) is not None:
        assert number_chosen(choice) == len(expected)


def test_ranges_and_lists_go_by_the_numbers_of_images_whichever_are_held_out() -> None:
    split = numbered([0, 1, 20, 25, 40, 41, 60])
    assert split.chosen(ImageRange(skip=20)).index.tolist() == [0, 20, 40, 60]
    assert split.chosen(ImageRange(start=1, first=3)).index.tolist() == [1, 20, 25]
    with pytest.raises(
        DataError,
        match="image 21 is asked for, and is none of the 7 of the split, whose numbers end at 60; 54 are missing",
    ):
        split.chosen((0, 21))


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (
            ImageRange(start=100),
            "1 images from number 100 on in steps of 1 are asked for, but the split has 0; its last",
        ),
        (ImageRange(skip=20, first=6), "6 images from number 0 on in steps of 20 .* has 5; its last one is number 99"),
        ((3, 100), "image 100 is asked for, and is none of the 100 of the split, whose numbers end at 99$"),
        (101, "101 images are asked for but the split has 100"),
    ],
)
def test_images_that_are_not_there_are_named(choice: ImageChoice, told: str) -> None:
    with pytest.raises(DataError, match=told):
        numbered(range(100)).chosen(choice)


def test_parquet_images_are_their_decoded_pixels_over_255_channel_first(folder: Path) -> None:
    data = fresh(folder_spec(folder))
    pixels = noise_pictures(4, seed=1).transpose(0, 3, 1, 2)
    assert data.test.images.shape == (4, 3, 5, 4)
    assert torch.equal(data.test.images, torch.from_numpy(pixels.astype(np.float32) / 255))
    assert data.test.labels.tolist() == [2, 1, 0, 1]
    assert data.test.index.tolist() == [0, 1, 2, 3]


def test_the_training_file_is_split_into_disjoint_parts_that_use_every_image_once(folder: Path) -> None:
    data, pixels = fresh(folder_spec(folder)), noise_pictures(12, seed=0).transpose(0, 3, 1, 2)
    held = [data.train, data.validation, data.calibration]
    assert [len(split) for split in held] == [7, 3, 2]
    assert sorted(torch.cat([split.index for split in held]).tolist()) == list(range(12))
    for split in held:
        assert np.array_equal(np.rint(split.images.numpy() * 255), pixels[split.index.numpy()])
        assert split.labels.tolist() == [k % 3 for k in split.index.tolist()]


def test_the_split_of_a_training_file_is_fixed_by_its_seed(folder: Path) -> None:
    first, again, other = (fresh(folder_spec(folder, seed=seed)).train.index for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_data_set_carries_its_title_classes_and_augmentation(folder: Path) -> None:
    data = fresh(folder_spec(folder, augment="crop_flip"))
    assert (data.name, data.classes, data.augment) == ("noise", 3, "crop_flip")


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    pixels = noise_pictures(4, seed=0, shape=(5, 4))
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, [png(p) for p in pixels], [0, 1, 2, 0])
    data = fresh(folder_spec(tmp_path, mode="L", validation=1, calibration=1))
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(pixels.astype(np.float32) / 255))


def test_grey_images_become_three_equal_channels_in_a_coloured_data_set(tmp_path: Path) -> None:
    for name in ("train.parquet", "test.parquet"):
        write(tmp_path / name, [png(p) for p in noise_pictures(4, seed=0, shape=(5, 4))], [0, 1, 2, 0])
    images = fresh(folder_spec(tmp_path, validation=1, calibration=1)).test.images
    assert images.shape == (4, 3, 5, 4)
    assert torch.equal(images[:, 0], images[:, 2])


def test_a_missing_folder_is_named_with_its_key_in_the_study_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.folder = '.*nowhere' is no folder; create it or point data\.folder"):
        fresh(folder_spec(tmp_path / "nowhere"))


def test_a_missing_file_is_named_with_the_remedy(folder: Path) -> None:
    with pytest.raises(DataError, match=r"tset\.parquet: no such file; set data\.folder"):
        fresh(folder_spec(folder, test="tset.parquet"))


def test_a_file_that_is_no_parquet_is_refused(folder: Path) -> None:
    (folder / "test.parquet").write_text("image,label")
    with pytest.raises(DataError, match=r"test\.parquet: not a readable Parquet file: "):
        fresh(folder_spec(folder))


def test_a_file_without_labels_is_refused(folder: Path) -> None:
    pq.write_table(pa.table({"image": [b""]}), folder / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet: has no column 'label'; .*; set data\.label_column"):
        fresh(folder_spec(folder))


def test_a_file_with_two_columns_of_one_name_is_refused(folder: Path) -> None:
    table = pa.table([[b""], [0], [1]], names=["image", "label", "label"])
    pq.write_table(table, folder / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet: has 2 columns 'label'; rename or drop the others"):
        fresh(folder_spec(folder))


@pytest.mark.parametrize("broken", [b"not an image", png(np.zeros((5, 4, 3), np.uint8))[:40]])
def test_an_image_that_cannot_be_decoded_is_named_by_its_row(folder: Path, broken: bytes | None) -> None:
    good = png(np.zeros((5, 4, 3), np.uint8))
    write(folder / "test.parquet", [good, broken, good], [0, 1, 2])
    with pytest.raises(DataError, match=r"test\.parquet: row 1: not a readable image: .*; replace it$"):
        fresh(folder_spec(folder))


def test_images_of_different_sizes_are_refused(folder: Path) -> None:
    write(folder / "test.parquet", [png(np.zeros((size, 4, 3), np.uint8)) for size in (5, 6)], [0, 1])
    with pytest.raises(DataError, match=r"row 1: is 4x6 pixels, but the first image is 4x5; set data\.size to bring"):
        fresh(folder_spec(folder))


def test_a_file_without_rows_is_refused(folder: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), folder / "test.parquet"
    )
    with pytest.raises(DataError, match=r"test\.parquet: has no rows; leave it out"):
        fresh(folder_spec(folder))


@pytest.mark.parametrize(("labels", "span"), [([0, 3], "0 to 3"), ([-1, 2], "-1 to 2")])
def test_labels_outside_of_the_classes_are_refused(folder: Path, labels: list[int], span: str) -> None:
    write(folder / "test.parquet", [png(np.zeros((5, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(DataError, match=rf"labels span {span}, outside data\.classes = 3"):
        fresh(folder_spec(folder))


@pytest.mark.parametrize("labels", [[0, None], ["0", "1"], [0.0, 1.5]])
def test_labels_that_are_no_whole_numbers_are_refused(folder: Path, labels: list[Any]) -> None:
    write(folder / "test.parquet", [png(np.zeros((5, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(DataError, match=r"labels in column 'label' must be whole numbers .* or set data\.label_column"):
        fresh(folder_spec(folder))


def test_parts_that_leave_nothing_of_a_training_file_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="validation = 8 and calibration = 4 leave no training image of 12"):
        fresh(folder_spec(folder, validation=8, calibration=4))


def tiny(images: Tensor, labels: Sequence[int] = (0, 1, 2)) -> Split:
    """Images numbered from 100."""
    return Split(images, torch.tensor(labels), torch.arange(len(labels)) + 100)


def test_images_between_zero_and_one_with_labels_of_the_data_may_be_certified() -> None:
    images = torch.rand(3, 1, 2, 2)
    images[0, 0, 0] = torch.tensor([0.0, 1.0])
    with pytest.raises(DataError):
        check_images(tiny(images + 1e-6), classes=3)
    check_images(tiny(images), classes=3)
    check_images(fresh(DigitsData()).test, classes=10)
    check_images(tiny(torch.zeros(0, 1, 2, 2), ()), classes=3)


@pytest.mark.parametrize(
    ("value", "span"),
    [
        (-0.001, "-0.001 to 0.5"),
        (1.001, "0.5 to 1.001"),
        (255.0, "0.5 to 255"),
        (float("inf"), "0.5 to inf"),
        (float("nan"), "nan to nan"),
    ],
)
@pytest.mark.parametrize("which", [0, 2])
def test_an_image_outside_of_zero_and_one_is_named(value: float, span: str, which: int) -> None:
    images = torch.full((3, 1, 2, 2), 0.5)
    images[which, 0, 1, 0] = value
    with pytest.raises(DataError, match=rf"image {100 + which} has values from {span}, outside \[0, 1\]; scale"):
        check_images(tiny(images), classes=3)


def test_the_first_of_several_images_is_named() -> None:
    images = torch.full((3, 1, 2, 2), 0.5)
    images[1:] = 2.0
    with pytest.raises(DataError, match=r"^image 101 has values from 2 to 2, outside"):
        check_images(tiny(images), classes=3)


@pytest.mark.parametrize("label", [-1, 3])
def test_an_image_with_a_label_outside_of_the_classes_is_named(label: int) -> None:
    with pytest.raises(DataError, match=rf"image 101 has label {label}, outside the 3 classes; mend the labels or"):
        check_images(tiny(torch.zeros(3, 1, 2, 2), (0, label, 2)), classes=3)


def test_cifar10_comes_from_the_data_folder_in_the_official_order(shared_data: Path) -> None:
    spec = folder_spec(
        shared_data,
        train="cifar10-mini-train.parquet",
        test="cifar10-test-first1000-lossless.parquet",
        classes=10,
        validation=200,
        calibration=200,
    )
    data = fresh(spec)
    assert [len(split) for split in parts(data).values()] == [1600, 200, 200, 1000]
    assert data.test.images.shape == (1000, 3, 32, 32)
    # Cat, ship, ship, plane, frog, frog, car, frog, cat, car: the first test images of CIFAR-10.
    assert data.test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    # Mean and standard deviation of the red, green and blue pixels of CIFAR-10.
    mean, std = data.test.images.mean((0, 2, 3)), data.test.images.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]), rtol=0, atol=0.02)
    torch.testing.assert_close(std, torch.tensor([0.2470, 0.2435, 0.2616]), rtol=0, atol=0.02)


def test_mnist_comes_from_the_data_folder_in_the_official_order(shared_data: Path) -> None:
    spec = folder_spec(shared_data, train=None, test="mnist-test.parquet", classes=10, mode="L", title="MNIST")
    data = fresh(spec)
    assert data.test.images.shape == (10_000, 1, 28, 28)
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert float(data.test.images.mean()) == pytest.approx(0.1325, abs=1e-3)


# What torchvision reads. `SETS` writes each set's files, small, with pixels and labels of known value.


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(head + array.tobytes())


Part = tuple[NDArray[np.uint8], IntArray]
"""Images [image, channel, height, width] and labels."""


def made_up(count: int, *, channels: int, side: int, seed: int) -> Part:
    return noise_pictures(count, seed=seed, shape=(channels, side, side)), np.arange(count) * 7 % 10


def write_mnist(folder: Path, name: str) -> dict[str, Part]:
    parts = {part: made_up(count, channels=1, side=28, seed=count) for part, count in (("train", 23), ("test", 11))}
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        pixels, labels = parts[part]
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels[:, 0])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels.astype(np.uint8))
    return parts


class OldDtype:
    """Pickles as NumPy 1 pickled a dtype, with 0 for False; such are the batches of CIFAR-10."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, ("u1", 0, 1)


def write_cifar10(folder: Path) -> dict[str, Part]:
    parts = {part: made_up(count, channels=3, side=32, seed=count) for part, count in (("train", 25), ("test", 11))}
    (folder / "cifar-10-batches-py").mkdir()

    def dump(name: str, content: dict[str, Any]) -> None:
        (folder / "cifar-10-batches-py" / name).write_bytes(pickle.dumps({**content, "dtype": OldDtype()}))

    pixels, labels = parts["train"]
    for batch in range(5):
        rows = slice(5 * batch, 5 * batch + 5)
        dump(f"data_batch_{batch + 1}", {"data": pixels[rows].reshape(5, -1), "labels": labels[rows].tolist()})
    dump("test_batch", {"data": parts["test"][0].reshape(11, -1), "labels": parts["test"][1].tolist()})
    dump("batches.meta", {"label_names": [str(digit) for digit in range(10)]})
    return parts


def write_cifar100(folder: Path) -> dict[str, Part]:
    pixels = {part: made_up(count, channels=3, side=32, seed=count)[0] for part, count in (("train", 23), ("test", 11))}
    parts = {part: (images, np.arange(len(images)) * 17 % 100) for part, images in pixels.items()}
    (folder / "cifar-100-python").mkdir()
    for part, (images, labels) in parts.items():
        content = {"data": images.reshape(len(images), -1), "fine_labels": labels.tolist(), "coarse_labels": [0] * 99}
        (folder / "cifar-100-python" / part).write_bytes(pickle.dumps(content))
    meta = {"fine_label_names": [str(label) for label in range(100)]}
    (folder / "cifar-100-python" / "meta").write_bytes(pickle.dumps(meta))
    return parts


def write_svhn(folder: Path) -> dict[str, Part]:
    counts = {"train": 23, "test": 11, "extra": 7}
    parts = {part: made_up(count, channels=3, side=32, seed=count) for part, count in counts.items()}
    for part, (pixels, labels) in parts.items():
        # The digit 0 is labelled 10, and the images come last.
        y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": y})
    return parts


SETS: dict[str, Callable[[Path], dict[str, Part]]] = {
    "mnist": lambda folder: write_mnist(folder, "MNIST"),
    "fashion_mnist": lambda folder: write_mnist(folder, "FashionMNIST"),
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
}
TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "svhn": "SVHN",
}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function by which torchvision takes the files that lie in a folder for the true ones."""

    def trust(folder: Path) -> None:
        svhn = torchvision.datasets.SVHN
        for cifar in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
            batches = folder / cifar.base_folder
            if not batches.is_dir():
                continue
            for listed in ("train_list", "test_list"):
                monkeypatch.setattr(cifar, listed, [[name, md5(batches / name)] for name, _ in getattr(cifar, listed)])
            monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(batches / cifar.meta["filename"])})
        listing = {
            part: [url, name, md5(folder / name) if (folder / name).is_file() else old]
            for part, (url, name, old) in svhn.split_list.items()
        }
        monkeypatch.setattr(svhn, "split_list", listing)

    return trust


def spec_of(**content: Any) -> DataSpec:
    spec: DataSpec = TypeAdapter(DataSpec).validate_python(content)
    return spec


def small(name: str, folder: Path, **changes: Any) -> DataSpec:
    return spec_of(**{"name": name, "folder": str(folder), "validation": 3, "calibration": 2, **changes})


def message(spec: DataSpec) -> str:
    """Load in vain; the error must be one line."""
    with pytest.raises(DataError) as caught:
        fresh(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_holds(split: Split, part: Part) -> None:
    pixels, labels = part
    assert (split.images.dtype, split.labels.dtype, split.index.dtype) == (torch.float32, torch.int64, torch.int64)
    assert torch.equal(split.images, torch.from_numpy(pixels[split.index.numpy()].astype(np.float32) / 255))
    assert split.labels.tolist() == labels[split.index.numpy()].tolist()


@pytest.mark.parametrize("name", SETS)
def test_torchvisions_images_are_their_pixels_over_255_with_their_labels(
    name: str, tmp_path: Path, trusted: Callable[[Path], None]
) -> None:
    written = SETS[name](tmp_path)
    trusted(tmp_path)
    data = fresh(small(name, tmp_path))
    classes = 100 if name == "cifar100" else 10
    assert (data.name, data.classes) == (TITLES[name], classes)
    assert data.test.index.tolist() == list(range(11))
    for part, split in parts(data).items():
        assert_holds(split, written["test" if part == "test" else "train"])
        check_images(split, classes=classes)


def test_the_digit_zero_of_svhn_has_label_zero_though_its_file_says_ten(
    tmp_path: Path, trusted: Callable[[Path], None]
) -> None:
    write_svhn(tmp_path)
    trusted(tmp_path)
    assert fresh(small("svhn", tmp_path)).test.labels[:11].tolist() == [0, 7, 4, 1, 8, 5, 2, 9, 6, 3, 0]


def test_the_extra_part_of_svhn_follows_the_training_part_when_asked_for(
    tmp_path: Path, trusted: Callable[[Path], None]
) -> None:
    written = write_svhn(tmp_path)
    trusted(tmp_path)
    data = fresh(small("svhn", tmp_path, extra=True))
    both = tuple(np.concatenate([one, other]) for one, other in zip(written["train"], written["extra"], strict=True))
    held = [data.train, data.validation, data.calibration]
    assert sorted(torch.cat([split.index for split in held]).tolist()) == list(range(30))
    for split in held:
        assert_holds(split, (both[0], both[1]))
    assert_holds(data.test, written["test"])


@pytest.mark.parametrize(
    ("name", "augment"),
    [
        ("mnist", "none"),
        ("fashion_mnist", "none"),
        ("cifar10", "crop_flip"),
        ("cifar100", "crop_flip"),
        ("svhn", "crop_flip"),
    ],
)
def test_colour_sets_are_cropped_and_flipped_unless_told_otherwise(
    name: str, augment: str, tmp_path: Path, trusted: Callable[[Path], None]
) -> None:
    SETS[name](tmp_path)
    trusted(tmp_path)
    assert fresh(small(name, tmp_path)).augment == augment
    assert fresh(small(name, tmp_path, augment="none")).augment == "none"


def pictures(folder: Path, part: str, counts: dict[str, int], *, seed: int = 0, side: int = 6) -> list[Part]:
    """Write class folders of PNG files; return their pixels, one class after the other."""
    written = []
    for label, (name, count) in enumerate(sorted(counts.items())):
        (folder / part / name).mkdir(parents=True)
        pixels = noise_pictures(count, seed=seed + label, shape=(3, side, side))
        for number, picture in enumerate(pixels):
            (folder / part / name / f"{number}.png").write_bytes(png(picture.transpose(1, 2, 0)))
        written.append((pixels, np.full(count, label)))
    return written


def joined(written: list[Part]) -> Part:
    return np.concatenate([pixels for pixels, _ in written]), np.concatenate([labels for _, labels in written])


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Part]:
    """Twelve pictures to train on and five to test with, of two classes, 6x6 pixels, in `tmp_path`."""
    return {
        "train": joined(pictures(tmp_path, "train", {"cat": 7, "ant": 5})),
        "test": joined(pictures(tmp_path, "test", {"cat": 3, "ant": 2}, seed=9)),
    }


def tree_spec(folder: Path, **changes: Any) -> DataSpec:
    return small("image_folder", folder, title=changes.pop("title", "animals"), **changes)


def test_image_folders_are_their_pixels_over_255_with_classes_in_the_order_of_names(
    tmp_path: Path, tree: dict[str, Part]
) -> None:
    data = fresh(tree_spec(tmp_path, classes=2))
    assert (data.name, data.classes, data.augment) == ("animals", 2, "none")
    assert data.test.labels.tolist() == [0, 0, 1, 1, 1]
    for part, split in parts(data).items():
        assert_holds(split, tree["test" if part == "test" else "train"])
        check_images(split, classes=2)


@given(sizes=st.tuples(st.integers(1, 11), st.integers(1, 11)), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", [*SETS, "image_folder"])
def test_train_validation_and_calibration_are_disjoint_use_every_image_and_are_fixed_by_the_seed(
    name: str,
    tmp_path_factory: pytest.TempPathFactory,
    trusted: Callable[[Path], None],
    sizes: tuple[int, int],
    seed: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"splits-{name}"
    if not folder.is_dir():
        folder.mkdir()
        if name == "image_folder":
            pictures(folder, "train", {"a": 13, "b": 10})
            pictures(folder, "test", {"a": 1, "b": 1})
        else:
            SETS[name](folder)
    trusted(folder)
    changes: dict[str, Any] = {"title": "t"} if name == "image_folder" else {}
    images = 25 if name == "cifar10" else 23
    specs = [
        small(name, folder, validation=sizes[0], calibration=sizes[1], seed=other, **changes)
        for other in (seed, seed, seed ^ 1)
    ]
    first, again, other = (fresh(spec) for spec in specs)
    assert (len(first.validation), len(first.calibration)) == sizes
    held = [first.train, first.validation, first.calibration]
    assert sorted(torch.cat([split.index for split in held]).tolist()) == list(range(images))
    for part in PARTS:
        assert torch.equal(parts(first)[part].index, parts(again)[part].index)
    assert torch.equal(first.test.index, other.test.index)


@pytest.mark.parametrize("name", [*SETS, "image_folder", "imagenet", "tiny_imagenet"])
def test_the_parts_of_a_set_change_with_the_seed_and_its_folder_and_download_are_no_part_of_its_identity(
    name: str,
) -> None:
    changes: dict[str, Any] = {"title": "t"} if name == "image_folder" else {}
    one, elsewhere, other = (
        spec_of(name=name, folder=folder, seed=seed, **changes) for folder, seed in (("a", 0), ("b", 0), ("a", 1))
    )
    assert one.digest == elsewhere.digest
    assert one.digest != other.digest
    if name in SETS:
        assert spec_of(name=name, folder="a", download=True).digest == one.digest


def test_no_two_kinds_share_an_identity() -> None:
    specs = [spec_of(name=name, folder="x") for name in (*SETS, "imagenet", "tiny_imagenet")]
    specs += [spec_of(name="svhn", folder="x", extra=True), spec_of(name="image_folder", title="MNIST", folder="x")]
    assert len({spec.digest for spec in specs}) == 9


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("fashion_mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_a_missing_archive_is_one_line_with_a_command_that_fetches_it(
    name: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's here"
    text = message(small(name, folder))
    assert text.startswith(f"{folder / missing}: no such file; set data.download = true or fetch it with: python -c ")
    command = shlex.split(text.partition("with: ")[2])
    assert command[:2] == ["python", "-c"]
    # The command is run here with the classes of torchvision replaced: it must ask each for a download of that folder.
    calls: list[tuple[str, dict[str, Any]]] = []
    kind = TITLES[name].replace("-", "")
    monkeypatch.setattr(torchvision.datasets, kind, lambda root, **options: calls.append((root, options)))
    exec(command[2], {})
    wanted = [{"split": part} for part in ("train", "test")] if name == "svhn" else [{}]
    assert calls == [(str(folder), {**options, "download": True}) for options in wanted]


def test_a_file_that_is_missing_among_others_is_named(tmp_path: Path, trusted: Callable[[Path], None]) -> None:
    write_cifar10(tmp_path)
    trusted(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
    assert "test_batch: no such file" in message(small("cifar10", tmp_path))


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_fetched_unless_asked_for(
    name: str, tmp_path: Path, trusted: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(torchvision.datasets, TITLES[name].replace("-", ""))
    fetched = []

    def fetch(self: Any) -> None:
        fetched.append(self.root)
        if len(fetched) == 1:
            SETS[name](tmp_path)
            trusted(tmp_path)
            # torchvision has read the md5 of this part before.
            self.file_md5 = ""

    monkeypatch.setattr(kind, "download", fetch)
    message(small(name, tmp_path))
    assert not fetched
    if name == "svhn":
        write_svhn(tmp_path)
        trusted(tmp_path)
        fetched.append(str(tmp_path))
    assert len(fresh(small(name, tmp_path, download=True)).test) == 11
    assert set(fetched) == {str(tmp_path)}


def test_a_fetch_that_fails_is_one_line_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("Error downloading x:\nTried y, got:\n<no route>\n")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", fail)
    text = message(small("mnist", tmp_path, download=True))
    assert "train-images-idx3-ubyte: cannot be fetched: Error downloading x: Tried y, got: <no route>; where it" in text
    assert "MNIST(" in text


@pytest.mark.parametrize(
    ("name", "file"), [("cifar10", "cifar-10-batches-py/data_batch_3"), ("svhn", "test_32x32.mat")]
)
def test_a_file_that_is_not_the_one_torchvision_knows_is_named_and_not_read(
    name: str, file: str, tmp_path: Path, trusted: Callable[[Path], None]
) -> None:
    SETS[name](tmp_path)
    trusted(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes() + b" ")
    text = message(small(name, tmp_path))
    assert text.startswith(f"{tmp_path / file}: is damaged (the ")
    assert f"from torchvision.datasets import {TITLES[name].replace('-', '')};" in text


def test_a_cut_idx_file_is_refused_with_its_folder_and_part(tmp_path: Path) -> None:
    write_mnist(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    for cut in (5000, 12, 3, 0):
        file.write_bytes(file.read_bytes()[:cut])
        text = message(small("mnist", tmp_path))
        assert text.startswith(f"{file.parent}: is damaged (the test part of MNIST: ")


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((4, 28, 28), np.uint8), np.array([0, 1, 2], np.uint8)),
        (np.zeros((3, 28, 28), np.uint8), np.array([0, 1, 10], np.uint8)),
        (np.zeros((3, 28, 27), np.uint8), np.array([0, 1, 2], np.uint8)),
    ],
)
def test_idx_files_that_do_not_fit_each_other_are_refused(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_mnist(tmp_path, "MNIST")
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte", images)
    write_idx(tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", labels)
    assert "is damaged (the test part of MNIST: " in message(small("mnist", tmp_path))


# Image folders and ImageNet.


def jpeg(path: Path, width: int, height: int, *, seed: int = 0) -> None:
    """Write a smooth picture."""
    coarse = Image.fromarray(noise_pictures(1, seed=seed, shape=(4, 4, 3))[0])
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.fixture
def landscape(tmp_path: Path) -> Path:
    """A folder of JPEG files of many sizes, two classes, for training and testing."""
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                jpeg(tmp_path / part / name / f"{number}.jpg", 30 + 7 * number, 40 - 5 * number, seed=number)
    return tmp_path


def test_pictures_of_any_size_are_resized_and_cut_as_torchvision_does(landscape: Path) -> None:
    spec = tree_spec(landscape, size=16, resize=20, validation=1, calibration=1)
    test = fresh(spec).test
    middle = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16), transforms.ToTensor()])
    assert test.images.shape == (8, 3, 16, 16)
    for number, image in enumerate(test.images):
        with Image.open(landscape / "val" / "ab"[number // 4] / f"{number % 4}.jpg") as picture:
            assert torch.equal(image, middle(picture))


def test_the_shorter_side_becomes_the_size_when_no_other_is_given(landscape: Path) -> None:
    one = fresh(tree_spec(landscape, size=16, validation=1, calibration=1)).test.images
    other = fresh(tree_spec(landscape, size=16, resize=16, validation=1, calibration=1)).test.images
    assert torch.equal(one, other)


def test_pictures_of_different_sizes_need_a_size(landscape: Path) -> None:
    test = fresh(tree_spec(landscape, validation=1, calibration=1)).test
    with pytest.raises(
        DataError, match=r"a/0\.jpg|a/1\.jpg: is 37x35 pixels, but the first image is 30x40; set data\.size"
    ):
        _ = test.images


def test_val_is_the_test_part_where_there_is_no_test_and_another_may_be_named(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("val", 1), ("other", 3)):
        pictures(tmp_path, part, {"a": count, "b": count})
    assert len(fresh(tree_spec(tmp_path)).test) == 2
    assert len(fresh(tree_spec(tmp_path, test="other")).test) == 6
    pictures(tmp_path, "test", {"a": 2, "b": 2})
    assert len(fresh(tree_spec(tmp_path)).test) == 4


def test_grey_folders_have_one_channel(tmp_path: Path, tree: dict[str, Part]) -> None:
    images = fresh(tree_spec(tmp_path, mode="L")).test.images
    assert images.shape == (5, 1, 6, 6)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    grey = (torch.from_numpy(tree["test"][0]).float() * weights).sum(1, keepdim=True) / 255
    # Pillow rounds to whole grey levels.
    torch.testing.assert_close(images, grey, rtol=0, atol=1.001 / 255)


def test_only_the_files_that_are_asked_for_are_opened(tmp_path: Path, tree: dict[str, Part]) -> None:
    data = fresh(tree_spec(tmp_path))
    for file in (tmp_path / "test").rglob("*.png"):
        if file != tmp_path / "test" / "cat" / "0.png":
            file.write_bytes(b"broken")
    assert isinstance(data.test, FileSplit)
    pixels = torch.from_numpy(tree["test"][0][2:3].astype(np.float32) / 255)
    assert torch.equal(data.test.batch(torch.tensor([2])), pixels)
    assert torch.equal(data.test.at(torch.tensor([2])).images, pixels)
    assert "test/ant/0.png" not in repr(data.test)
    with pytest.raises(DataError, match=r"test/ant/0\.png: not a readable image: .*; replace it"):
        _ = data.test.images


@pytest.mark.parametrize("broken", [b"", b"no image", png(np.zeros((6, 6, 3), np.uint8))[:40]])
def test_an_unreadable_file_is_named_by_its_path(broken: bytes, tmp_path: Path, tree: dict[str, Part]) -> None:
    file = tmp_path / "test" / "cat" / "1.png"
    file.write_bytes(broken)
    with pytest.raises(DataError, match=rf"^{re.escape(str(file))}: not a readable image: "):
        _ = fresh(tree_spec(tmp_path)).test.images


def test_evenly_spaced_files_are_those_of_evenly_spaced_tensors(tmp_path: Path, tree: dict[str, Part]) -> None:
    data = fresh(tree_spec(tmp_path))
    for split in (data.test, data.train):
        whole = Split(split.images, split.labels, split.index)
        few, expected = split.evenly_spaced(3), whole.evenly_spaced(3)
        assert isinstance(few, FileSplit)
        for one, other in ((few.images, expected.images), (few.labels, expected.labels), (few.index, expected.index)):
            assert torch.equal(one, other)
        positions = torch.tensor([3, 0, 3])
        assert torch.equal(split.batch(positions), whole.batch(positions))
        assert torch.equal(split.to(torch.device("cpu")).batch(positions), whole.batch(positions))


def test_more_files_than_fit_into_memory_are_not_made_one_tensor(
    tmp_path: Path, tree: dict[str, Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = fresh(tree_spec(tmp_path)).test
    monkeypatch.setattr(image_files, "LARGEST", 4 * 3 * 6 * 6 * 4)
    assert test.evenly_spaced(4).images.shape == (4, 3, 6, 6)
    with pytest.raises(DataError, match=r"5 images of 3x6x6 would take 0 GiB as one tensor; ask for fewer images"):
        _ = test.images


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train": "nowhere"}, "nowhere: no such folder; create it or point data.folder elsewhere"),
        ({"test": "tset"}, "tset: no such folder; create it or point data.folder elsewhere"),
        (
            {"test": "odd/cat"},
            "odd/cat: has 1 pictures and no class folders; sort them into a folder per class, or",
        ),
        ({"classes": 3}, "train: has 2 class folders instead of 3; mend data.classes"),
        ({"test": "odd"}, "odd: classes differ from those of train: 'ant' is in one of them alone; both must"),
        ({"test": "empty"}, "empty/ant: has no picture; each class needs one (.jpg, "),
        (
            {"test": "train"},
            "train: lies in the training part or holds it, and test pictures would be trained on",
        ),
        ({"test": "train/cat"}, "train/cat: lies in the training part or holds it"),
        ({"test": "."}, "lies in the training part or holds it"),
    ],
)
def test_folders_that_do_not_fit_are_named(
    change: dict[str, Any], expected: str, tmp_path: Path, tree: dict[str, Part]
) -> None:
    pictures(tmp_path, "odd", {"cat": 1, "dog": 1})
    pictures(tmp_path, "empty", {"cat": 1, "ant": 0})
    assert expected in message(tree_spec(tmp_path, **change))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"resize": 20}, "resize = 20 is the shorter side before the crop to size = None"),
        ({"size": 32, "resize": 20}, "resize = 20 is the shorter side before the crop to size = 32"),
        ({"augment": "resized_crop_flip"}, "augment = 'resized_crop_flip' needs a size; set data.size"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        spec_of(name="image_folder", title="t", folder="x", **change)


def training_batch(data: Dataset, positions: Tensor, *, seed: int) -> Tensor:
    """Return the images of one training step."""
    if isinstance(data.train, FileSplit):
        images = as_images(next(decoded_here(data.train, [(positions, seed)])))
    else:
        images = data.train.batch(positions)
    return augmented(data, images, generator=torch.Generator().manual_seed(seed))


def test_random_parts_of_pictures_depend_on_the_seed_alone(landscape: Path) -> None:
    data = fresh(tree_spec(landscape, size=16, augment="resized_crop_flip", validation=1, calibration=1))
    positions = torch.tensor([0, 4, 2])
    first, again, other = (training_batch(data, positions, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (3, 3, 16, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    check_images(Split(first, torch.zeros(3, dtype=torch.int64), positions), classes=1)
    # What is held out and tested with is cut out of the middle.
    assert torch.equal(data.validation.batch(torch.tensor([0])), data.validation.images)


def test_training_images_that_are_random_parts_cannot_be_had_as_one_tensor(landscape: Path) -> None:
    data = fresh(tree_spec(landscape, size=16, augment="resized_crop_flip", validation=1, calibration=1))
    for split in (data.train, data.train.evenly_spaced(2), data.train.to(torch.device("cpu"))):
        with pytest.raises(DataError, match=r"cuts training images out anew each time, so they are no tensor"):
            _ = split.images
    assert data.test.images.shape == (8, 3, 16, 16)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    tries=st.lists(st.tuples(*[st.floats(0, 1, exclude_max=True)] * 4), min_size=0, max_size=4),
)
def test_a_random_part_lies_in_the_picture_and_has_a_fair_share_of_it(
    width: int, height: int, tries: list[tuple[float, ...]]
) -> None:
    left, top, right, bottom = image_files._random_box(width, height, tries)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    # Sides are rounded to whole pixels, and never below one.
    sides = right - left, bottom - top
    assert sides[0] <= (sides[1] + 0.5) * 4 / 3 + 0.5 or sides[1] == 1
    assert sides[1] <= (sides[0] + 0.5) * 4 / 3 + 0.5 or sides[0] == 1


def test_random_parts_cover_the_picture_half_of_them_flipped(tmp_path: Path) -> None:
    # Brightness tells where a pixel came from: it grows to the right.
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for number in range(3):
            (tmp_path / part / "a" / f"{number}.png").write_bytes(png(np.ascontiguousarray(ramp)))
    data = fresh(tree_spec(tmp_path, size=8, augment="resized_crop_flip", validation=1, calibration=1))
    draws = 400
    batch = training_batch(data, torch.zeros(draws, dtype=torch.int64), seed=0)[:, 0].mean(1) * 255
    flipped = batch[:, 0] > batch[:, -1]
    # Five standard errors of a share of one half.
    assert abs(float(flipped.double().mean()) - 0.5) < 5 * 0.5 / draws**0.5
    low, high = batch.min(1).values, batch.max(1).values
    assert float(low.min()) < 10
    assert float(high.max()) > 190
    # A part's width is sqrt(area * aspect), between .2 and 1 of the side; its outermost pixels average an eighth of it.
    widths = (high - low) * 8 / 7 / 200
    assert 0.2 < float(widths.min()) < 0.4
    assert 0.9 < float(widths.max()) <= 1.01
    # The place is uniform: the middles of parts lie around the middle.
    assert abs(float(((low + high) / 2).mean()) - 99.5) < 5 * 30 / draws**0.5


def test_other_training_batches_are_crops_of_tensors_or_the_tensors_themselves(
    tmp_path: Path, tree: dict[str, Part]
) -> None:
    positions = torch.tensor([5, 1])
    for augment in ("none", "crop_flip"):
        data = fresh(tree_spec(tmp_path, augment=augment))
        plain = replace(data, train=Split(data.train.images, data.train.labels, data.train.index))
        batches = [training_batch(d, positions, seed=3) for d in (data, plain)]
        expected = data.train.images[positions]
        if augment == "crop_flip":
            expected = crop_flip(expected, generator=torch.Generator().manual_seed(3))
        assert torch.equal(batches[0], expected)
        assert torch.equal(batches[1], expected)


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand classes with two pictures to train on and one to test with, all the same three files."""
    folder = tmp_path_factory.mktemp("imagenet")
    for number in range(3):
        jpeg(folder / f"{number}.jpg", 300 + 10 * number, 280, seed=number)
    for label in range(1000):
        for part, numbers in (("train", (0, 1)), ("val", (2,))):
            (folder / part / f"n{label:08d}").mkdir(parents=True)
            for number in numbers:
                os.link(folder / f"{number}.jpg", folder / part / f"n{label:08d}" / f"{number}.jpg")
    return folder


def test_imagenet_has_1000_classes_and_is_tested_with_the_middle_of_its_validation_images(imagenet: Path) -> None:
    data = fresh(small("imagenet", imagenet))
    assert (data.name, data.classes, data.augment) == ("ImageNet", 1000, "resized_crop_flip")
    assert [len(split) for split in parts(data).values()] == [1995, 3, 2, 1000]
    held = [data.train, data.validation, data.calibration]
    assert sorted(torch.cat([split.index for split in held]).tolist()) == list(range(2000))
    few = data.test.evenly_spaced(2)
    assert few.labels.tolist() == [0, 500]
    middle = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()])
    with Image.open(imagenet / "2.jpg") as picture:
        assert torch.equal(few.images, middle(picture).expand(2, 3, 224, 224))
    assert training_batch(data, torch.tensor([7]), seed=0).shape == (1, 3, 224, 224)


def test_another_folder_is_not_taken_for_imagenet(tmp_path: Path, tree: dict[str, Part]) -> None:
    (tmp_path / "test").rename(tmp_path / "val")
    text = message(small("imagenet", tmp_path))
    assert "train: has 2 class folders instead of 1000; other sets are data.name = 'image_folder'" in text


def test_missing_imagenet_is_one_line_that_says_what_to_put_where(tmp_path: Path) -> None:
    text = message(small("imagenet", tmp_path))
    assert text.startswith(
        f"{tmp_path / 'train'}: no such folder; put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar "
    )
    command = shlex.split(text.partition("with: ")[2])
    assert command[2].startswith("from torchvision.datasets import ImageNet; [ImageNet(")
    # torchvision's own class says that the archives are missing.
    with pytest.raises(RuntimeError, match=r"ILSVRC2012_devkit_t12\.tar\.gz is not present"):
        exec(command[2], {})


def test_imagenet_cannot_be_asked_for_a_download() -> None:
    with pytest.raises(ValidationError, match="unknown key 'download'"):
        spec_of(name="imagenet", folder="x", download=True)


def test_tiny_imagenet_comes_from_files_as_from_parquet(shared_data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(shared_data / "tiny-imagenet-200-val.parquet").slice(0, 400).to_pylist()
    wnids = sorted({row["wnid"] for row in rows})
    for row in rows:
        for part in ("train", "val"):
            (tmp_path / part / row["wnid"]).mkdir(parents=True, exist_ok=True)
            (tmp_path / part / row["wnid"] / f"{row['idx']:05d}.jpg").write_bytes(row["image"])
    data = fresh(tree_spec(tmp_path, title="Tiny-ImageNet", classes=len(wnids)))
    assert data.test.images.shape == (400, 3, 64, 64)
    ordered = sorted(rows, key=lambda row: (row["wnid"], row["idx"]))
    assert data.test.labels.tolist() == [wnids.index(row["wnid"]) for row in ordered]
    write(tmp_path / "test.parquet", [row["image"] for row in ordered], data.test.labels.tolist())
    same = folder_spec(tmp_path, train=None, classes=len(wnids))
    assert torch.equal(fresh(same).test.images, data.test.images)


def test_true_mnist_comes_from_torchvisions_files_as_from_parquet(shared_data: Path, tmp_path: Path) -> None:
    rows = pq.read_table(shared_data / "mnist-test.parquet")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(cell))) for cell in rows["image"].to_pylist()])
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix in ("train", "t10k"):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", rows["label"].to_numpy().astype(np.uint8))
    # The published checksums of the unpacked files.
    assert md5(raw / "t10k-images-idx3-ubyte") == "2646ac647ad5339dbf082846283269ea"
    assert md5(raw / "t10k-labels-idx1-ubyte") == "27ae3e4e09519cfbb04c329615203637"
    test = fresh(small("mnist", tmp_path)).test
    assert torch.equal(test.images[:, 0], torch.from_numpy(pixels.astype(np.float32) / 255))
    assert test.labels.tolist() == rows["label"].to_pylist()
