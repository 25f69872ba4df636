"""Facts about decoding: a value is its share of what the file's depth can say, or the picture is refused."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rspipe.data.pictures import opened_picture
from rspipe.errors import DataError

LEVELS = np.arange(0, 256, 17, dtype=np.uint16).reshape(4, 4)
"""Grey levels of 8 bits; 257 times as much is the same share of 65,535."""


def encoded(values: NDArray[Any], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(rows: bytes, *, width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG file of rows, each behind the byte 0 that says that it is not filtered."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def sixteen_bit_colour() -> bytes:
    rows = b"".join(b"\0" + b"".join(struct.pack(">HHH", *[257 * int(level)] * 3) for level in row) for row in LEVELS)
    return png_of(rows, width=4, height=4, bits=16, colour=2)


def pgm(*, largest: int) -> bytes:
    """Grey levels out of `largest`, two bytes each."""
    values = np.rint(LEVELS / 255 * largest).astype(">u2")
    return f"P5 4 4 {largest}\n".encode() + values.tobytes()


def tiff(values: bytes, *, bits: int, kind: int, white: int = 1) -> bytes:
    """A grey TIFF file of 4 x 4 pixels; kind is 1 for whole numbers, 2 with a sign, 3 for floating-point ones.

    White is the largest value, or 0.
    """
    tags = {256: 4, 257: 4, 258: bits, 259: 1, 262: white, 273: 8, 277: 1, 278: 4, 279: len(values), 339: kind}
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + struct.pack("<H", len(tags)) + listed + bytes(4)


@pytest.mark.parametrize(
    "data",
    [
        encoded(LEVELS.astype(np.uint8), "PNG"),
        encoded(257 * LEVELS, "PNG"),
        encoded(257 * LEVELS, "TIFF"),
        tiff((257 * LEVELS).astype("<u2").tobytes(), bits=16, kind=1),
        tiff((255 - LEVELS).astype(np.uint8).tobytes(), bits=8, kind=1, white=0),
        tiff((65535 - 257 * LEVELS).astype("<u2").tobytes(), bits=16, kind=1, white=0),
        sixteen_bit_colour(),
        pgm(largest=65535),
    ],
    ids=[
        *("8-bit PNG", "16-bit PNG", "16-bit TIFF of Pillow", "16-bit TIFF", "8-bit TIFF, white is 0"),
        *("16-bit TIFF, white is 0", "16-bit colour PNG", "16-bit PGM"),
    ],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_levels_are_the_same_share_whatever_the_depth(data: bytes, mode: Any) -> None:
    values = np.atleast_3d(np.asarray(opened_picture(data, mode=mode, name="x")))
    assert values.dtype == np.uint8
    for channel in np.moveaxis(values, -1, 0):
        assert np.array_equal(channel, LEVELS)


def test_a_depth_that_a_file_states_is_scaled_by_it() -> None:
    """10 bits of a PGM file: whole levels of 8 bits up to half a level of rounding."""
    values = np.asarray(opened_picture(pgm(largest=1023), mode="L", name="x")).astype(int)
    assert abs(values - LEVELS).max() <= 1


@pytest.mark.parametrize("value", [0, 1, 128, 129, 32768, 65406, 65407, 65535])
def test_sixteen_bits_are_rounded_to_the_nearest_of_eight(value: int) -> None:
    picture = opened_picture(encoded(np.full((2, 2), value, np.uint16), "PNG"), mode="L", name="x")
    assert np.asarray(picture).tolist() == [[round(value * 255 / 65535)] * 2] * 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (encoded(np.full((4, 4), 0.5, np.float32), "TIFF"), "floating-point numbers of no known scale"),
        (tiff(np.full(16, 0.5, "<f4").tobytes(), bits=32, kind=3), "floating-point numbers of no known scale"),
        (encoded(np.full((4, 4), 1000, np.int32), "TIFF"), "32-bit numbers of no known scale"),
        (tiff(np.full(16, 1000, "<i2").tobytes(), bits=16, kind=2), "of no known scale"),
        (tiff(bytes(24), bits=12, kind=1), r"it has \(12,\) bits a channel"),
    ],
    ids=["float TIFF of Pillow", "float TIFF", "32-bit TIFF", "signed TIFF", "12-bit TIFF"],
)
def test_values_of_unknown_scale_are_refused_with_the_remedy(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=rf"^x: not a readable image: .*{told}; save it with 8 or 16 bits; replace it$"):
        opened_picture(data, mode="L", name="x")


def test_black_and_white_and_palettes_are_what_they_show() -> None:
    bits = np.array([[True, False], [False, True]])
    assert np.asarray(opened_picture(encoded(bits, "PNG"), mode="L", name="x")).tolist() == [[255, 0], [0, 255]]
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode=None)
    indexed = Image.new("P", (2, 2))
    indexed.putpalette([10, 20, 30, 200, 100, 50])
    indexed.paste(palette)
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG")
    pixels = np.asarray(opened_picture(buffer.getvalue(), mode="RGB", name="x"))
    assert pixels[0].tolist() == [[10, 20, 30], [200, 100, 50]]


BOMB = png_of(b"", width=20_000, height=20_000, bits=8, colour=0)
"""Its head says 400 million pixels."""


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", encoded(LEVELS.astype(np.uint8), "PNG")[:50], b"P5 4 \xff5 255\n" + bytes(20), BOMB],
    ids=["empty", "text", "cut off", "ValueError inside Pillow", "decompression bomb"],
)
def test_whatever_pillow_raises_is_one_line_with_the_name(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^cell 7: not a readable image: .*; replace it$") as caught:
        opened_picture(data, mode="RGB", name="cell 7")
    assert "object at 0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_of_400_megapixels_in_a_few_kilobytes_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    assert buffer.tell() < 100_000
    with pytest.raises(DataError, match=r"bomb\.png: not a readable image: .*400000000 pixels.* exceeds limit"):
        opened_picture(buffer.getvalue(), mode="L", name="bomb.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_once_as_its_tag_says_where_that_is_asked_for(orientation: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (3, 5), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    file = io.BytesIO()
    picture.save(file, kind, exif=exif)
    # As the hub's reader does it; Pillow turns TIFF pictures when it loads them.
    loaded = Image.open(file)
    loaded.load()
    shown = ImageOps.exif_transpose(loaded)
    assert shown.size == ((3, 5) if orientation > 4 else (5, 3))
    upright, lying = (
        np.asarray(opened_picture(file.getvalue(), mode="L", name="x", upright=asked)) for asked in (True, False)
    )
    assert np.array_equal(upright, np.asarray(shown))
    assert np.array_equal(lying, np.asarray(picture if kind == "PNG" else shown))
