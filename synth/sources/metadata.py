"""Encoded pictures without what they say of their maker: no EXIF, places, names, comments or previews.

Nothing is encoded anew: whole segments of the file are left out, and the pixels stay what they were.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

# What decides how pixels look: the JPEG version, colour profiles, and how Adobe says that colours are stored.
_JPEG_KEPT = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0", 0xEE: b"Adobe"}
_JPEG_SAYS = {*range(0xE0, 0xF0), 0xFE}  # application segments and comments
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
_SCAN, _END = 0xDA, 0xD9
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_PNG_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"cICP", b"pHYs"}
_WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP"}
_WEBP_SAYS = 0x08 | 0x04  # bits of VP8X that announce EXIF and XMP


def without_metadata(data: bytes, form: str) -> bytes:
    """Return a JPEG, PNG or WebP file (``form``) with nothing but its pixels and their colour space.

    What follows the picture's end is cut off: phones put second pictures, films and their own notes there. A file that
    has none of it comes back as it is. Raises ``ValueError`` where the segments cannot be told apart.
    """
    try:
        return _FORMS[form](data)
    except (IndexError, struct.error) as problem:
        raise ValueError(f"torn {form} file") from problem


def _jpeg(data: bytes) -> bytes:
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG file")
    kept, at = [data[:2]], 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        start = at
        while data[at] == 0xFF:  # any number of fill bytes
            at += 1
        marker, at = data[at], at + 1
        if marker == _END:
            return b"".join([*kept, data[start:at]])
        if marker not in _JPEG_BARE:
            (length,) = struct.unpack_from(">H", data, at)
            body, at = data[at + 2 : at + length], at + length
            if marker in _JPEG_SAYS and not body.startswith(_JPEG_KEPT.get(marker, b"\0no such")):
                continue
        if marker == _SCAN:
            found = _AFTER_SCAN.search(data, at)
            at = found.start() if found else len(data)
        kept.append(data[start:at])


def _png(data: bytes) -> bytes:
    kept, at = [data[:8]], 8
    while True:
        length, name = struct.unpack_from(">I4s", data, at)
        if name in _PNG_KEPT:
            kept.append(data[at : at + length + 12])
        at += length + 12
        if name == b"IEND":
            return b"".join(kept)


def _webp(data: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", data, 4)
    kept, at, end = [], 12, min(len(data), length + 8)
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        chunk = data[at : at + 8 + length + length % 2]
        at += len(chunk)
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_SAYS]) + chunk[9:]
        if name in _WEBP_KEPT:
            kept.append(chunk)
    body = b"".join(kept)
    return data[:4] + struct.pack("<I", len(body) + 4) + b"WEBP" + body


_FORMS: dict[str, Callable[[bytes], bytes]] = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp}
