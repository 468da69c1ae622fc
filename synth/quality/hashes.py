"""What a picture looks like, as 64 bits: equal or nearly equal for the same picture resized, re-encoded or brightened.

The perceptual hash of the literature (pHash): shrink to 32 x 32 greys, take the cosine transform, keep which of the
lowest frequencies lie above their median. The mean is left out, so brightness and contrast do not count. A mirrored,
turned or strongly cropped picture has another hash.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from synth.sources.pictures import FORMATS

BITS = 64
_SIDE = 32
_FLAT = 1.0  # grey levels: frequencies fainter than this are noise of the encoder, not what the picture shows
_STEPS, _STEP = 8, 2  # places of a row that are compared with the next one; grey levels a step must rise by
UNREADABLE = Exception  # what Pillow raises for a bad file: OSError, SyntaxError, struct.error, IndexError and more


def _cosines() -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) of ``_SIDE`` values, as a matrix."""
    k, n = np.arange(_SIDE)[:, None], np.arange(_SIDE)[None, :]
    matrix = np.sqrt(2 / _SIDE) * np.cos(np.pi * k * (2 * n + 1) / (2 * _SIDE))
    matrix[0] /= np.sqrt(2)
    return matrix


_DCT = _cosines()
_LOWEST = sorted(((u, v) for u in range(_SIDE) for v in range(_SIDE)), key=lambda at: (at[0] + at[1], at))[1 : BITS + 1]
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_LOWEST, strict=True))


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture looks: ``near`` is what `picture_hashes` says, ``exact`` the sha256 of its upright RGB pixels."""

    near: tuple[int, int]
    exact: str


def look_of(data: bytes) -> Look:
    """Return the look of an encoded picture, turned upright; raises one of ``UNREADABLE`` for bytes that are none."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    digest = hashlib.sha256(f"{upright.width}x{upright.height}\0".encode())
    digest.update(upright.tobytes())
    return Look(picture_hashes(upright), digest.hexdigest())


def picture_hash(image: Image.Image) -> int:
    """Return the 64-bit perceptual hash of an upright picture; compare two with ``distance``."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    frequencies = (_DCT @ np.asarray(grey, np.float64) @ _DCT.T)[_ROWS, _COLUMNS]
    frequencies[np.abs(frequencies) < _FLAT] = 0.0
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def picture_hashes(image: Image.Image) -> tuple[int, int]:
    """Return two hashes of 64 bits that a changed copy has to be near in both: the perceptual one, and the second look.

    Of plain grounds with few things on them two now and then have all lowest frequencies alike. The second look tells
    them apart: whether it gets lighter from place to place (the difference hash), by more than an encoder's noise.
    """
    grey = image.convert("L").resize((_STEPS + 1, _STEPS), Image.Resampling.LANCZOS, reducing_gap=3.0)
    steps = np.diff(np.asarray(grey, np.int32), axis=1) > _STEP
    return picture_hash(image), int.from_bytes(np.packbits(steps).tobytes(), "big")


def distance(one: int, other: int) -> int:
    """Return in how many of their 64 bits two hashes differ."""
    return (one ^ other).bit_count()
