"""Images in [0, 1] and their splits, from scikit-learn and from Parquet files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from rspipe.datasets import Dataset, Split, check_images, load_dataset
from rspipe.errors import DataError
from rspipe.spec import DigitsData, ParquetData

PARTS = ("train", "validation", "calibration", "test")


def fresh(spec: DigitsData | ParquetData) -> Dataset:
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
    with pytest.raises(DataError, match=r"test\.parquet: not a Parquet file with columns image and label"):
        fresh(folder_spec(folder))


def test_a_file_without_labels_is_refused(folder: Path) -> None:
    pq.write_table(pa.table({"image": [b""]}), folder / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet: not a Parquet file with columns image and label"):
        fresh(folder_spec(folder))


@pytest.mark.parametrize("broken", [b"not an image", png(np.zeros((5, 4, 3), np.uint8))[:40], None])
def test_an_image_that_cannot_be_decoded_is_named_by_its_row(folder: Path, broken: bytes | None) -> None:
    good = png(np.zeros((5, 4, 3), np.uint8))
    write(folder / "test.parquet", [good, broken, good], [0, 1, 2])
    with pytest.raises(DataError, match=r"test\.parquet: row 1 is not a readable image"):
        fresh(folder_spec(folder))


def test_images_of_different_sizes_are_refused(folder: Path) -> None:
    write(folder / "test.parquet", [png(np.zeros((size, 4, 3), np.uint8)) for size in (5, 6)], [0, 1])
    with pytest.raises(DataError, match=r"images differ in size: \[\(5, 4, 3\), \(6, 4, 3\)\]"):
        fresh(folder_spec(folder))


def test_a_file_without_rows_is_refused(folder: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}), folder / "test.parquet"
    )
    with pytest.raises(DataError, match=r"test\.parquet"):
        fresh(folder_spec(folder))


@pytest.mark.parametrize(("labels", "span"), [([0, 3], "0 to 3"), ([-1, 2], "-1 to 2")])
def test_labels_outside_of_the_classes_are_refused(folder: Path, labels: list[int], span: str) -> None:
    write(folder / "test.parquet", [png(np.zeros((5, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(DataError, match=rf"labels span {span}, outside data\.classes = 3"):
        fresh(folder_spec(folder))


@pytest.mark.parametrize("labels", [[0, None], ["0", "1"], [0.0, 1.5]])
def test_labels_that_are_no_whole_numbers_are_refused(folder: Path, labels: list[Any]) -> None:
    write(folder / "test.parquet", [png(np.zeros((5, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(DataError, match="labels must be whole numbers"):
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
    spec = folder_spec(
        shared_data, train="mnist-test.parquet", test="mnist-test.parquet", classes=10, mode="L", title="MNIST"
    )
    data = fresh(spec)
    assert data.test.images.shape == (10_000, 1, 28, 28)
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert float(data.test.images.mean()) == pytest.approx(0.1325, abs=1e-3)
