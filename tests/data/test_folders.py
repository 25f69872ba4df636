"""Facts about folders of pictures: what is a class, what is a picture, and what of both is left out."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rspipe.data.files import check_pictures
from rspipe.data.spec import DataSpec
from rspipe.errors import DataError
from tests.data.test_sources import fresh, message, noise_pictures, pictures, png, small


def animals(folder: Path, **changes: Any) -> DataSpec:
    return small("image_folder", folder, title="animals", **{"validation": 1, "calibration": 1, **changes})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three pictures of each of two classes to train on and to test with."""
    for part in ("train", "test"):
        pictures(tmp_path, part, {"a": 3, "b": 3})
    return tmp_path


@pytest.mark.parametrize(
    "place",
    [
        ".ipynb_checkpoints/x.png",
        "__MACOSX/a/x.png",
        ".Trash-1000/files/x.png",
        "a/.ipynb_checkpoints/x.png",
        "a/__pycache__/x.png",
        "a/._0.png",
        "a/.thumbnails/large/x.png",
    ],
)
def test_what_a_system_or_a_notebook_left_is_neither_a_class_nor_a_picture(tree: Path, place: str) -> None:
    for part in ("train", "test"):
        copy = tree / part / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tree / "test" / "a" / "0.png", copy)
    data = fresh(animals(tree))
    assert (data.classes, data.test.labels.tolist()) == (2, [0, 0, 0, 1, 1, 1])
    assert len(data.train) + len(data.validation) + len(data.calibration) == 6
    assert len(data.notes) == 2
    for note, part in zip(data.notes, ("train", "test"), strict=True):
        assert f"{part}: left out 1 that are hidden ({place.split('/', maxsplit=1)[0]}" in note


def test_what_is_no_picture_is_left_out_counted_and_named(tree: Path) -> None:
    for name in ("readme.txt", "a/list.csv", "b/deep/1.npy", "loose.png"):
        (tree / "train" / name).parent.mkdir(exist_ok=True)
        (tree / "train" / name).write_bytes(b"")
    (note,) = fresh(animals(tree)).notes
    assert note.endswith("left out 4 that are no pictures of a class (loose.png, readme.txt, a/list.csv, ...)")


def test_pictures_that_are_added_or_renamed_make_it_another_test_part(tree: Path) -> None:
    def identity() -> str:
        return fresh(animals(tree)).test.identity()

    before = identity()
    shutil.copy(tree / "test" / "b" / "0.png", tree / "test" / "a" / "00.png")
    added = identity()
    (tree / "test" / "a" / "00.png").unlink()
    assert before == identity() != added
    (tree / "test" / "a" / "0.png").rename(tree / "test" / "a" / "7.png")
    assert identity() != before
    (tree / "test" / "a" / "7.png").rename(tree / "test" / "a" / "0.png")
    (tree / "test" / "a" / "0.png").write_bytes((tree / "test" / "a" / "0.png").read_bytes() + b" ")
    assert identity() != before


def test_a_folder_that_is_linked_into_itself_is_walked_once(tree: Path) -> None:
    before = len(fresh(animals(tree)).test)
    (tree / "test" / "a" / "loop").symlink_to(tree / "test" / "a")
    assert len(fresh(animals(tree)).test) == before


def test_a_data_set_without_anything_to_leave_out_has_no_notes(tree: Path) -> None:
    assert fresh(animals(tree)).notes == ()


def test_class_folders_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for number in range(12):
            (tmp_path / part / str(number)).mkdir(parents=True)
            (tmp_path / part / str(number) / "0.png").write_bytes(png(np.full((4, 4, 3), 20 * number, np.uint8)))
    data = fresh(animals(tmp_path))
    assert data.test.labels.tolist() == list(range(12))
    assert (data.test.images[:, 0, 0, 0] * 255 / 20).round().int().tolist() == list(range(12))
    assert data.notes == ()


def test_numbers_that_are_not_their_labels_are_noted(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pictures(tmp_path, part, {"1": 1, "2": 1, "10": 2})
    data = fresh(animals(tmp_path))
    assert data.test.labels.tolist() == [0, 1, 2, 2]
    assert data.notes[0].endswith("train: labels count the class folders, so that folder '1' is class 0")


def test_two_folders_of_the_same_number_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "test", {"1": 1, "01": 1})
    assert "class folders '01' and '1' are the same number; rename one" in message(animals(tmp_path))


def test_names_that_are_not_all_numbers_are_in_the_order_of_letters(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pictures(tmp_path, part, {"2": 1, "10": 1, "cat": 1})
    data = fresh(animals(tmp_path))
    assert [Path(path).parent.name for path in data.test.files.paths] == ["10", "2", "cat"]  # type: ignore[attr-defined]


def test_pictures_without_class_folders_get_the_remedy(tmp_path: Path) -> None:
    pictures(tmp_path, "train", {"a": 3, "b": 3})
    (tmp_path / "val").mkdir()
    for number, picture in enumerate(noise_pictures(3, seed=0)):
        (tmp_path / "val" / f"ILSVRC2012_val_{number:08d}.png").write_bytes(png(picture))
    text = message(animals(tmp_path))
    assert "val: has 3 pictures and no class folders; sort them into a folder per class" in text
    assert "data.name = 'parquet'" in text


# A test part alone.


@pytest.mark.parametrize(("part", "test"), [("test", None), ("val", None), ("other", "other"), (".", ".")])
def test_a_test_part_is_enough(tmp_path: Path, part: str, test: str | None) -> None:
    pictures(tmp_path, part, {"a": 3, "b": 2})
    data = fresh(animals(tmp_path, test=test, validation=1000, calibration=1000))
    assert [len(split) for split in (data.train, data.validation, data.calibration, data.test)] == [0, 0, 0, 5]
    assert data.sample_shape == (3, 6, 6)
    assert data.test.images.shape == (5, 3, 6, 6)


def test_a_class_of_a_test_part_may_be_called_train(tmp_path: Path) -> None:
    pictures(tmp_path, ".", {"bus": 2, "train": 3})
    data = fresh(animals(tmp_path, test="."))
    assert (len(data.train), data.test.labels.tolist()) == (0, [0, 0, 1, 1, 1])
    pictures(tmp_path, "train", {"bus": 1})
    assert "would be trained on" in message(animals(tmp_path, test="."))


def test_a_training_part_that_is_named_must_be_there(tmp_path: Path) -> None:
    pictures(tmp_path, "test", {"a": 3, "b": 2})
    assert "learn: no such folder" in message(animals(tmp_path, train="learn"))


def test_calibration_images_can_be_held_out_of_the_test_part(tmp_path: Path) -> None:
    pictures(tmp_path, "test", {"a": 5, "b": 5})
    data = fresh(animals(tmp_path, calibration=4, calibration_from="test"))
    assert (len(data.calibration), len(data.test), len(data.train)) == (4, 6, 0)
    # Images keep the numbers that they have in the whole test part.
    assert sorted([*data.calibration.index.tolist(), *data.test.index.tolist()]) == list(range(10))
    whole = fresh(animals(tmp_path)).test.images
    for split in (data.calibration, data.test):
        assert torch.equal(split.images, whole[split.index])
    again = fresh(animals(tmp_path, calibration=4, calibration_from="test"))
    assert torch.equal(again.calibration.index, data.calibration.index)
    assert "leaves no test image of 10" in message(animals(tmp_path, calibration=10, calibration_from="test"))


def test_a_training_part_gives_up_none_where_calibration_comes_from_the_test_part(tree: Path) -> None:
    data = fresh(animals(tree, calibration=2, calibration_from="test"))
    assert (len(data.train), len(data.validation), len(data.calibration), len(data.test)) == (5, 1, 2, 4)
    assert set(data.calibration.index.tolist()).isdisjoint(data.test.index.tolist())
    default = animals(tree)
    assert default.digest == animals(tree, calibration_from="train").digest
    assert default.digest != animals(tree, calibration_from="test").digest


# Unreadable pictures.


def test_unreadable_pictures_are_found_and_counted_without_the_others(tree: Path) -> None:
    data = fresh(animals(tree))
    check_pictures(data.test)
    for name in ("a/1.png", "b/0.png"):
        (tree / "test" / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"test/a/1\.png: not a readable image: .* \(and 1 more of 6\)$"):
        check_pictures(data.test)
    check_pictures(data.test.at(torch.tensor([0, 2, 4])))
    check_pictures(fresh(animals(tree)).train)


# Tiny-ImageNet.

WNIDS = [f"n{number:08d}" for number in range(200)]


def picture(level: int) -> bytes:
    return png(np.full((64, 64, 3), level, np.uint8))


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """Two pictures of each of its 200 classes to train on, and three to validate with, as it is published."""
    for label, wnid in enumerate(WNIDS):
        folder = tmp_path / "train" / wnid
        (folder / "images").mkdir(parents=True)
        (folder / f"{wnid}_boxes.txt").write_text("")
        for number in range(2):
            (folder / "images" / f"{wnid}_{number}.JPEG").write_bytes(picture(label))
    (tmp_path / "val" / "images").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "val" / "images" / f"val_{number}.JPEG").write_bytes(picture(number))
    lines = [f"val_{number}.JPEG\t{WNIDS[label]}\t0\t0\t62\t62\n" for number, label in enumerate((7, 0, 199))]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    return tmp_path


def test_tiny_imagenet_is_read_as_it_is_published(tiny_imagenet: Path) -> None:
    data = fresh(small("tiny_imagenet", tiny_imagenet))
    assert (data.name, data.classes, data.augment, data.notes) == ("Tiny-ImageNet", 200, "crop_flip", ())
    assert [len(split) for split in (data.train, data.validation, data.calibration)] == [395, 3, 2]
    assert data.test.labels.tolist() == [7, 0, 199]
    assert data.test.images.shape == (3, 3, 64, 64)
    assert (data.test.images[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2]
    batch = data.validation
    assert (batch.images[:, 0, 5, 5] * 255).round().long().tolist() == batch.labels.tolist()


def test_tiny_imagenet_is_read_with_class_folders_and_without_a_training_part(tiny_imagenet: Path) -> None:
    shutil.rmtree(tiny_imagenet / "val")
    (tiny_imagenet / "train").rename(tiny_imagenet / "val")
    data = fresh(small("tiny_imagenet", tiny_imagenet))
    assert (len(data.train), len(data.test), data.classes) == (0, 400, 200)


def test_tiny_imagenet_as_a_folder_of_pictures_gets_the_remedy(tiny_imagenet: Path) -> None:
    text = message(animals(tiny_imagenet))
    assert "val: has its labels in val_annotations.txt, as Tiny-ImageNet is published; data.name = 'tiny_im" in text


def test_an_annotation_of_no_class_is_named_by_its_line(tiny_imagenet: Path) -> None:
    annotations = tiny_imagenet / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace(WNIDS[0], "n99"))
    text = message(small("tiny_imagenet", tiny_imagenet))
    assert "val_annotations.txt: line 2 names no class of the training part" in text


def test_another_folder_is_not_taken_for_tiny_imagenet(tree: Path) -> None:
    (tree / "test").rename(tree / "val")
    text = message(small("tiny_imagenet", tree))
    assert "has 2 class folders instead of 200; other sets are data.name = 'image_folder'" in text
    assert "val: no such folder; unpack tiny-imagenet-200.zip" in message(small("tiny_imagenet", tree / "nowhere"))


# Depth, through a folder.


def test_a_folder_of_16_bit_pictures_is_scaled_by_their_depth(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(buffer, "PNG")
    for name in ("a", "b"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(buffer.getvalue())
    images = fresh(animals(tmp_path, mode="L")).test.images
    assert images.unique().tolist() == pytest.approx([128 / 255])
