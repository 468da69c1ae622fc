"""Pictures that a dataset only names: read from their folder, turned as their boxes lie, never from outside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from lynx_moe.errors import RecordError

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # as synth: others start programs (EPS)
_SIXTEEN_BIT = ("PNG", "PPM")  # what Pillow reads as mode "I" of these has 16 bits


def open_linked(root: Path | None, name: str, size: tuple[int, int]) -> Image.Image:
    """The picture `name` below `root`, in the frame whose (width, height) is `size`, in RGB.

    As synth stores pictures: upright where the size says so, else as the file holds it; alpha is laid on white.

    Raises:
        RecordError: there is no root, the path leaves it, or the picture is missing, has another size or pixels of
            no known range.
        OSError: it cannot be decoded.
    """
    path = _path(root, name)
    with Image.open(path, formats=_FORMATS) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if size not in (upright.size, image.size):
        raise RecordError(
            f"{path} is {upright.size[0]} x {upright.size[1]} pixels, its boxes are of {size[0]} x {size[1]}",
            why="the picture was changed after the data were made", fix="make the data again",
        )  # fmt: skip
    chosen = upright if size == upright.size else image
    if chosen.mode in ("I", "F") and image.format not in _SIXTEEN_BIT:
        raise RecordError(
            f"{path} has pixels without a known range", why=f"it is a {image.format} file of mode {chosen.mode}",
            fix="save it with 8 or 16 bits a channel, or make the data with images=embed, which leaves it out",
        )  # fmt: skip
    return eight_bit(chosen)


def linked_bytes(root: Path | None, name: str) -> bytes:
    """The picture's file as it is, undecoded; raises RecordError as `open_linked` does."""
    return _path(root, name).read_bytes()


def _path(root: Path | None, name: str) -> Path:
    if root is None:
        raise RecordError(
            f"nobody says where the picture {name!r} is",
            why="the data names pictures instead of holding them, and its manifest has no pictures_root",
            fix="load_records(..., pictures_root=FOLDER)",
        )
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise RecordError(
            f"the picture {name!r} lies outside {root}", why="only pictures below this folder are read",
            fix="copy the picture into the folder and make the data again",
        )  # fmt: skip
    if not path.is_file():
        raise RecordError(
            f"no picture {path}", why="the data names pictures instead of holding them, and this one is gone",
            fix="load_records(..., pictures_root=FOLDER) when the pictures moved",
        )  # fmt: skip
    return path


def eight_bit(image: Image.Image) -> Image.Image:
    """The picture in RGB: 16 bit scaled to 8 where Pillow would cut, alpha laid on white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
