"""Facts about Parquet files as the Hugging Face hub writes them: structs, other columns, several files, any sizes."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms

from rspipe.data import parquet
from rspipe.data.spec import ParquetData
from rspipe.errors import DataError
from tests.data.test_sources import folder_spec, fresh, jpeg, noise_pictures, png, write

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_structs_of_bytes_and_path_are_pictures(folder: Path) -> None:
    """As the hub's image feature is stored; the path is a name alone."""
    plain = fresh(folder_spec(folder)).test
    cells = [{"bytes": png(p), "path": None if k % 2 else f"{k}.png"} for k, p in enumerate(noise_pictures(4, seed=1))]
    table = pa.table({"image": pa.array(cells, STRUCT), "label": pa.array([2, 1, 0, 1], pa.int8())})
    pq.write_table(table, folder / "test.parquet")
    again = fresh(folder_spec(folder)).test
    assert torch.equal(again.images, plain.images)
    assert torch.equal(again.labels, plain.labels)


def test_columns_may_have_any_name(folder: Path) -> None:
    plain = fresh(folder_spec(folder)).test
    cells = pa.array([{"bytes": png(p), "path": None} for p in noise_pictures(4, seed=1)], STRUCT)
    table = pa.table({"img": cells, "fine_label": [2, 1, 0, 1], "coarse_label": [0, 0, 0, 0]})
    pq.write_table(table, folder / "test.parquet")
    named = folder_spec(folder, train=None, image_column="img", label_column="fine_label")
    assert torch.equal(fresh(named).test.images, plain.images)
    assert torch.equal(fresh(named).test.labels, plain.labels)
    with pytest.raises(DataError, match=r"has no column 'image'.*img.*; set data\.image_column"):
        fresh(folder_spec(folder, train=None))
    with pytest.raises(DataError, match=r"has no column 'label'; did you mean 'fine_label'\?; set data\.label_column"):
        fresh(folder_spec(folder, train=None, image_column="img"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 12 images for training and 4 for testing, of known pixels."""
    write(tmp_path / "train.parquet", [png(p) for p in noise_pictures(12, seed=0)], [k % 3 for k in range(12)])
    write(tmp_path / "test.parquet", [png(p) for p in noise_pictures(4, seed=1)], [2, 1, 0, 1])
    return tmp_path


@pytest.mark.parametrize("names", ["train-*.parquet", ("train-0-of-11.parquet", "train-[1-9]*.parquet"), "**/train-*"])
def test_several_files_follow_each_other_in_the_order_of_their_numbers(folder: Path, names: Any) -> None:
    for part in range(11):
        rows = [png(np.full((5, 4, 3), part, np.uint8)), png(np.full((5, 4, 3), 100 + part, np.uint8))]
        write(folder / f"train-{part}-of-11.parquet", rows, [part % 3, (part + 1) % 3])
    data = fresh(folder_spec(folder, train=None, test=names))
    assert (data.test.images[:, 0, 0, 0] * 255).round().int().tolist() == [
        level for part in range(11) for level in (part, 100 + part)
    ]
    assert data.test.labels.tolist() == [label for part in range(11) for label in (part % 3, (part + 1) % 3)]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("valid-*.parquet", r"valid-\*\.parquet: matches no file; set data\.folder"),
        (("test.parquet", "nowhere.parquet"), r"nowhere\.parquet: no such file"),
        (("test.parquet", "te*.parquet"), r"test\.parquet: is named twice; its images would count twice"),
    ],
)
def test_files_that_are_not_there_or_named_twice_are_named(folder: Path, names: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        fresh(folder_spec(folder, test=names))


@pytest.mark.parametrize("how", ["name", "pattern", "link", "hard link"])
def test_a_file_of_both_parts_is_refused(folder: Path, how: str) -> None:
    test = folder / "again.parquet"
    if how == "link":
        test.symlink_to(folder / "train.parquet")
    elif how == "hard link":
        os.link(folder / "train.parquet", test)
    names = {"name": "train.parquet", "pattern": "tr*.parquet"}.get(how, "again.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: is a file of both data\.train and data\.test, and"):
        fresh(folder_spec(folder, test=names))


def test_another_file_of_the_same_folder_is_not_the_same(folder: Path) -> None:
    shutil.copy(folder / "test.parquet", folder / "other.parquet")
    assert len(fresh(folder_spec(folder, test=("test.parquet", "other.parquet"))).test) == 8


def test_pictures_of_any_size_are_brought_to_one(tmp_path: Path) -> None:
    cells = []
    for number in range(4):
        jpeg(tmp_path / f"{number}.jpg", 30 + 7 * number, 40 - 5 * number, seed=number)
        cells.append((tmp_path / f"{number}.jpg").read_bytes())
    write(tmp_path / "test.parquet", cells, [0, 1, 2, 0])
    spec = folder_spec(tmp_path, train=None, size=16, resize=20)
    middle = transforms.Compose([transforms.Resize(20), transforms.CenterCrop(16), transforms.ToTensor()])
    images = fresh(spec).test.images
    assert images.shape == (4, 3, 16, 16)
    for number, image in enumerate(images):
        with Image.open(tmp_path / f"{number}.jpg") as picture:
            assert torch.equal(image, middle(picture))
    with pytest.raises(DataError, match=r"row 1: is 37x35 pixels, but the first image is 30x40; set data\.size"):
        fresh(folder_spec(tmp_path, train=None))


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ({"bytes": None, "path": "x.png"}, r"row 1: holds only the path 'x\.png'; write the bytes of a PNG"),
        ({"bytes": None, "path": None}, "row 1: holds NoneType instead of an encoded picture"),
        ({"bytes": b"P5 4 \xff5 255\n" + bytes(20), "path": None}, "row 1: not a readable image: .*; replace it"),
    ],
)
def test_a_cell_that_holds_no_picture_is_named_by_its_file_and_row(folder: Path, cell: Any, told: str) -> None:
    good = {"bytes": png(noise_pictures(1, seed=0)[0]), "path": None}
    pq.write_table(pa.table({"image": pa.array([good, cell], STRUCT), "label": [0, 1]}), folder / "more.parquet")
    with pytest.raises(DataError, match=rf"more\.parquet: {told}"):
        fresh(folder_spec(folder, test=("test.parquet", "more.parquet")))


def test_the_test_part_is_read_first(folder: Path) -> None:
    """Its mistakes are seen before minutes of decoding."""
    write(folder / "train.parquet", [b"broken"], [0])
    write(folder / "test.parquet", [b"broken"], [0])
    with pytest.raises(DataError, match=r"test\.parquet: row 0"):
        fresh(folder_spec(folder))


def test_more_pictures_than_fit_into_memory_are_refused_before_they_are_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LARGEST", 4 * 4 * 3 * 5 * 4)
    assert len(fresh(folder_spec(folder, train=None)).test) == 4
    with pytest.raises(DataError, match=r"12 images of 3x5x4 would take 0 GiB as one tensor; set a smaller data\.size"):
        fresh(folder_spec(folder))


def test_parts_of_different_sizes_are_refused(folder: Path) -> None:
    write(folder / "test.parquet", [png(np.zeros((6, 4, 3), np.uint8))], [0])
    with pytest.raises(DataError, match=r"images of train are 3x5x4, those of test 3x6x4; set data\.size"):
        fresh(folder_spec(folder))


def test_new_settings_leave_the_identity_as_it_was(folder: Path) -> None:
    """Their defaults are no part of it, whatever else they are."""
    spec = folder_spec(folder)
    same = folder_spec(folder, image_column="image", label_column="label", size=None, resize=None)
    assert spec.digest == same.digest
    others = [{"image_column": "img"}, {"label_column": "y"}, {"size": 4}, {"size": 4, "resize": 5}, {"train": None}]
    assert len({spec.digest, *(folder_spec(folder, **other).digest for other in others)}) == 6
    for other in others:
        made = folder_spec(folder, **other)
        assert ParquetData.model_validate({**made.model_dump(mode="json"), "folder": str(folder)}) == made


def test_parquet_of_the_data_folder_in_parts_is_the_whole(shared_data: Path, tmp_path: Path) -> None:
    table = pq.read_table(shared_data / "cifar10-mini-test.parquet", columns=["image", "label"])
    for part, begin in enumerate(range(0, 500, 45)):
        pq.write_table(table.slice(begin, 45), tmp_path / f"test-{part}.parquet")
    whole = fresh(folder_spec(shared_data, train=None, test="cifar10-mini-test.parquet", classes=10)).test
    parts = fresh(folder_spec(tmp_path, train=None, test="test-*.parquet", classes=10)).test
    assert torch.equal(whole.images, parts.images)
    assert torch.equal(whole.labels, parts.labels)


def test_imagenet_pictures_of_the_data_folder_are_brought_to_one_size(shared_data: Path) -> None:
    test = "imagenet-sample-250.parquet"
    data = fresh(folder_spec(shared_data, train=None, test=test, classes=1000, size=224, resize=256))
    assert data.test.images.shape == (250, 3, 224, 224)
    assert data.test.labels.tolist() == list(range(0, 1000, 4))
