"""Arrays in a file: the layouts that people save, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rspipe.data.sources import load_dataset
from rspipe.data.spec import TensorData
from rspipe.data.splits import Dataset
from rspipe.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def loaded(folder: Path, content: Any, name: str, **more: Any) -> Dataset:
    """Write content to a file by its ending, and read it as the test part of a data set."""
    if name.endswith(".npz"):
        np.savez(folder / name, **content)
    else:
        torch.save(content, folder / name)
    return load_dataset(TensorData(name="tensors", title="t", folder=str(folder), test=name, **more))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npz", {"images": PIXELS, "labels": LABELS}),
        ("b.npz", {"x": PIXELS.transpose(0, 2, 3, 1), "y": LABELS.astype(np.int32)}),
        ("b2.npz", {"x": PIXELS, "y": LABELS.astype(np.uint16)}),
        ("b3.npz", {"x": (PIXELS / np.float32(255)).astype(">f4"), "y": LABELS.astype(">i8")}),
        ("c.npz", {"images": PIXELS / np.float32(255), "labels": LABELS}),
        ("d.pt", {"data": torch.from_numpy(PIXELS), "targets": torch.from_numpy(LABELS)}),
        ("e.pt", (torch.from_numpy(PIXELS).double() / 255, torch.from_numpy(LABELS))),
    ],
)
def test_every_usual_layout_gives_the_same_images(tmp_path: Path, name: str, content: Any) -> None:
    data = loaded(tmp_path, content, name)
    torch.testing.assert_close(data.test.images, torch.from_numpy(PIXELS).float() / 255)
    assert data.test.labels.tolist() == LABELS.tolist()
    assert (data.classes, len(data.train), data.sample_shape) == (3, 0, (3, 5, 4))


def test_other_pixels_or_labels_make_it_another_test_part(tmp_path: Path) -> None:
    changed = PIXELS.copy()
    changed[0, 0, 0, 0] ^= 1
    parts = [(PIXELS, LABELS), (changed, LABELS), (PIXELS, LABELS[::-1].copy())]
    found = [
        loaded(tmp_path, {"images": images, "labels": labels}, f"{at}.npz").test.identity()
        for at, (images, labels) in enumerate([*parts, parts[0]])
    ]
    assert len({*found}) == 3
    assert found[0] == found[3]


def test_grey_images_need_no_channel_and_a_training_part_is_split(tmp_path: Path) -> None:
    torch.save({"images": torch.zeros(9, 5, 4), "labels": torch.zeros(9, dtype=torch.int64)}, tmp_path / "train.pt")
    content = {"images": np.zeros((4, 5, 4), np.uint8), "labels": np.arange(4)}
    data = loaded(tmp_path, content, "test.npz", train="train.pt", validation=2, calibration=3, classes=10)
    assert (len(data.train), len(data.validation), len(data.calibration), data.classes) == (4, 2, 3, 10)
    assert data.sample_shape == (1, 5, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", {"images": PIXELS * 1.0, "labels": LABELS}, r"pixels span 0 to 255, outside \[0, 1\]; scale them"),
        ("b.npz", {"images": PIXELS.astype(np.int64), "labels": LABELS}, "images are torch.int64; save bytes"),
        ("c.npz", {"images": PIXELS[0, 0], "labels": LABELS}, r"images have shape \[5, 4\]"),
        ("d.npz", {"images": PIXELS, "labels": LABELS[:4]}, r"labels are torch.int64 \[4\] for 6 images"),
        ("e.npz", {"images": PIXELS, "labels": LABELS - 1}, "labels span -1 to 1, outside"),
        ("f.npz", {"pictures": PIXELS, "labels": LABELS}, "holds pictures, labels; call the arrays 'images' and 'lab"),
        ("g.npz", {"images": PIXELS, "labels": np.array(["a"] * 6, dtype=object)}, "no file of numpy.savez"),
        ("g2.npz", {"images": PIXELS, "labels": np.array(["a"] * 6)}, "labels are no array of numbers"),
        ("g3.pt", {"images": [torch.zeros(3, 5, 4)] * 6, "labels": LABELS.tolist()}, "images are no array of numbers"),
        ("h.pt", torch.zeros(3), "holds a Tensor; save images and labels"),
        ("i.pt", {"images": torch.full((1, 1, 2, 2), torch.nan), "labels": torch.zeros(1).long()}, "outside"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        loaded(tmp_path, content, name)
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz: no such file"):
        load_dataset(TensorData(name="tensors", title="t", folder=str(tmp_path), test="nowhere.npz"))


@pytest.mark.parametrize("link", [False, True])
def test_a_file_of_both_parts_is_refused(tmp_path: Path, link: bool) -> None:
    if link:
        (tmp_path / "train.npz").symlink_to(tmp_path / "a.npz")
    content = {"images": PIXELS, "labels": LABELS}
    with pytest.raises(DataError, match=r"\.npz: is both data\.train and data\.test, and test images would be"):
        loaded(tmp_path, content, "a.npz", train="train.npz" if link else "a.npz")


def test_parts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=PIXELS[:, :1], labels=LABELS)
    with pytest.raises(DataError, match=r"images of train are 1x5x4, those of test 3x5x4; save them in one size"):
        loaded(tmp_path, {"images": PIXELS, "labels": LABELS}, "a.npz", train="train.npz")
