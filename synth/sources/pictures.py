"""Opening foreign pictures: read right or refused with a reason, and never from outside the folder.

What comes out is upright, 8 bit, grey or RGB, whatever went in: no reader can turn a picture under its boxes later.
"""

from __future__ import annotations

import io
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from synth.sources.fault import PictureFault
from synth.sources.metadata import without_metadata

SUFFIXES = (".jpg", ".png", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe", ".ppm", ".pgm")
# Formats that Pillow decodes by itself (JPEG includes MPO); others start programs (EPS) or are no photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_KEPT_AS_IS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = (5, 6, 7, 8)  # orientations that swap width and height
_FILMS = ("GIF", "PNG", "WEBP")  # several frames are a film; in MPO and TIFF the first is the picture

_DRIVE = re.compile(r"[A-Za-z]:")

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Pictures that lie as files below ``root``; every method raises ``PictureFault`` for a bad file."""

    root: Path

    def require(self, file: str) -> None:
        """Refuse a picture that is missing or lies elsewhere; its pixels are not touched."""
        locate(self.root, file)

    def size(self, file: str) -> Size:
        """Return (width, height) as shown, from the header alone."""
        return size_of(locate(self.root, file), file)

    def read(self, file: str) -> bytes:
        """Return the encoded picture."""
        try:
            return locate(self.root, file).read_bytes()
        except OSError:
            raise PictureFault("unreadable picture", file) from None


def locate(root: Path, file: str) -> Path:
    """Return where the picture lies; raises ``PictureFault`` when it is missing or the path leads out of the folder."""
    safe_name(file)
    path = os.path.join(root, file)
    try:
        found = os.lstat(path)
        if not _folder_inside(str(root), os.path.dirname(path)):
            raise PictureFault("path leaves the folder", file)
        if stat.S_ISLNK(found.st_mode):
            if not Path(path).resolve().is_relative_to(Path(root).resolve()):
                raise PictureFault("path leaves the folder", file)
            found = os.stat(path)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: a circle of links
        raise PictureFault("missing picture", file) from None
    if not stat.S_ISREG(found.st_mode):
        raise PictureFault("missing picture", file)
    return Path(path)


def safe_name(file: str) -> None:
    """Raise ``PictureFault`` for a name that is no path below a folder on every system."""
    parts = file.replace("\\", "/").split("/")
    if not file or "\0" in file or ".." in parts or parts[0] == "" or _DRIVE.match(file):
        raise PictureFault("path leaves the folder", file)


@lru_cache(maxsize=4096)
def _folder_inside(root: str, folder: str) -> bool:
    return Path(folder).resolve().is_relative_to(Path(root).resolve())


def size_of(source: Path | io.BytesIO, file: str) -> Size:
    """Return width and height as the picture is shown, from the file's header alone; raises ``PictureFault``."""
    with _refusing(file), Image.open(source, formats=FORMATS) as image:
        # Pillow turns a TIFF by itself, and tells the turned size.
        turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION, 1) in _TURNED
        return (image.height, image.width) if turned else image.size


def upright(data: bytes, stated: Size, file: str) -> tuple[bytes, str]:
    """Return the picture in the frame of its boxes, and its extension by content.

    Args:
        stated: (width, height) that the boxes refer to: those of the picture as shown, or as it lies in the file.

    Plain RGB and grey JPEG, PNG and WebP come back as they are, but for their metadata; the rest as PNG, alpha laid on
    white, 16 bit scaled to 8. Raises ``PictureFault`` for what cannot be decoded whole, is a film, or has another size
    than stated.
    """
    with _refusing(file):
        image = _decoded(data, file)
        shown = ImageOps.exif_transpose(image)
        if stated not in (shown.size, image.size):
            raise PictureFault("size differs from the annotation", file)
        plain = image.getexif().get(_ORIENTATION, 1) == 1 and "transparency" not in image.info
        if plain and image.format in _KEPT_AS_IS and image.mode in ("RGB", "L"):
            with suppress(ValueError):  # laid out as no writer should: what stands between its pixels is not known
                return without_metadata(data, image.format), _KEPT_AS_IS[image.format]
        chosen = eight_bit(shown if stated == shown.size else image, image.format, file)
        buffer = io.BytesIO()
        chosen.save(buffer, "PNG")
        return buffer.getvalue(), "png"


def as_shown(data: bytes, file: str) -> Image.Image:
    """Return the picture upright, in 8 bit RGB; raises ``PictureFault`` for what cannot be decoded, or is a film."""
    with _refusing(file):
        image = _decoded(data, file)
        return eight_bit(ImageOps.exif_transpose(image), image.format, file)


def _decoded(data: bytes, file: str) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.format in _FILMS and getattr(image, "n_frames", 1) > 1:
        raise PictureFault("animated picture", file)
    image.load()
    return image


def eight_bit(image: Image.Image, form: str | None, file: str) -> Image.Image:
    """Return the picture of a file of that format in RGB with nothing else in it: no alpha, no palette, no EXIF."""
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        # Pillow would cut everything above 255; a 16 bit picture is scaled instead.
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise PictureFault("pixels without a known range", file)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())


class _refusing:
    """Turns whatever Pillow raises on a bad file into a ``PictureFault``.

    Everything: decoders of foreign bytes raise OSError, ValueError, SyntaxError, struct.error, IndexError and more.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, problem: BaseException | None, _: object) -> None:
        if isinstance(problem, Image.DecompressionBombError):
            raise PictureFault("picture too large", self.file) from None
        if isinstance(problem, FileNotFoundError):
            raise PictureFault("missing picture", self.file) from None
        if isinstance(problem, Exception) and not isinstance(problem, PictureFault):
            raise PictureFault("unreadable picture", self.file) from None
