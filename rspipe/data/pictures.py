"""Pictures: decoded from files or bytes to 8 bits a channel, whatever their depth, and brought to one size."""

import io
from typing import Any, Literal

import numpy as np

from rspipe.errors import DataError, first_line

Mode = Literal["L", "RGB"]
"""Grey or colour."""

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
"""Tag of TIFF files."""

_ORIENTATION, _TURNS = 274, {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Tag of EXIF, and Pillow's number of the turn (`PIL.Image.Transpose`) that puts a picture of its value upright."""


def opened_picture(source: str | bytes, *, mode: Mode, name: str, upright: bool = False) -> Any:
    """Return a picture that is decoded, grey or in colour, with 8 bits a channel.

    16 bits are scaled to 8, as Pillow itself does in colour. Pillow would cut grey ones off at 255 instead.

    Args:
        source: Path of a file, or its content.
        mode: "L" or "RGB".
        name: What messages call it.
        upright: Whether to turn it as its EXIF tag says. The hub's reader of Parquet files does, torchvision's of
            folders does not.

    Raises:
        DataError: It cannot be read, or its file does not say how large its values can be.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            # Pillow turns TIFF pictures itself, and forgets their tag.
            picture.load()
            turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1)) if upright else None
            converted = _eight_bits(picture).convert(mode)
            return converted if turn is None else converted.transpose(turn)
    except MemoryError:
        raise
    except Exception as error:
        # A damaged file can raise anything inside Pillow, which names the object in memory where it has no path.
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "no picture of a known format" if unknown else first_line(error)
        raise DataError(f"{name}: not a readable image: {reason}; replace it") from error


def _eight_bits(picture: Any) -> Any:
    """Return a picture of 8 bits a channel, scaled by its depth.

    Raises:
        ValueError: Its file does not say how large its values can be.
    """
    from PIL import Image

    mode, remedy = str(picture.mode), "save it with 8 or 16 bits"
    if mode == "F" or mode.startswith("F;"):
        raise ValueError(f"its values are floating-point numbers of no known scale; {remedy}")
    if not mode.startswith("I"):
        return picture
    # Pillow before 11 opens 16 grey bits of PNG, and every version those of PGM scaled to 16, as 32.
    if mode == "I" and picture.format not in ("PNG", "PPM"):
        raise ValueError(f"its values are 32-bit numbers of no known scale; {remedy}")
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, 16)
    if bits not in (16, (16,)):
        raise ValueError(f"it has {bits} bits a channel; {remedy}")
    values = np.asarray(picture).astype(np.float64)
    if getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
        # White is 0, as in X-rays: Pillow turns 8 bits round, and not 16.
        values = 65535 - values
    return Image.fromarray(np.rint(values * (255 / 65535)).astype(np.uint8))


def fitted(picture: Any, *, width: int, height: int, resize: int | None, name: str) -> Any:
    """Return the middle of a picture whose shorter side was brought to `resize` pixels, or the picture as it is.

    Raises:
        DataError: It is taken as it is (`resize` is None), and has another size.
    """
    from torchvision.transforms import functional

    if resize is not None:
        return functional.center_crop(functional.resize(picture, resize), [height, width])
    if picture.size != (width, height):
        raise DataError(
            f"{name}: is {picture.width}x{picture.height} pixels, but the first image is {width}x{height}; "
            "set data.size to bring all to one size"
        )
    return picture


def channels_first(picture: Any) -> Any:
    """Return the bytes of a picture, uint8 [channel, height, width]."""
    return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)
