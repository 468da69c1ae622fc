"""Which byte of a file was changed, found without the original.

sha256 says that a file is not what it was, not where. So the manifest also keeps a checksum of every block that can
point: Adler-32 (RFC 1950) is the sum of bytes and the sum of bytes times their distance to the end, modulo a prime.
When one byte changed by d at distance n from the end, the two sums change by d and n * d, and their quotient is n. With
that byte put back the file's sha256 must come true again, which proves place and value; when it does not, more than one
byte of a block changed, and the block is what can be said (our choice of method).
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

BLOCK = 2**15  # bytes; below Adler's prime, so that a quotient names one byte
PRIME = 65521
SHOWN = 5  # places that are named of one file


@dataclass(frozen=True)
class FileHash:
    """sha256 of a file, its length in bytes, and the Adler-32 of each block as eight hex digits, joined."""

    sha256: str
    size: int
    blocks: str

    @classmethod
    def of(cls, path: Path) -> FileHash:
        digest, blocks, size = hashlib.sha256(), [], 0
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                blocks.append(f"{zlib.adler32(block):08x}")
                size += len(block)
        return cls(digest.hexdigest(), size, "".join(blocks))


@dataclass(frozen=True)
class Change:
    """One place where a file is not what it was: bytes `start` to `stop`; `was` when one byte changed, proven."""

    start: int
    stop: int
    was: int | None = None


def where(path: Path, before: FileHash, now: FileHash) -> list[Change]:
    """The changed places of a file whose sha256 is not what it was; one over its end where its length changed."""
    if now.size != before.size:
        common = math.ceil(min(now.size, before.size) / BLOCK) * 8
        first = next((k for k in range(0, common, 8) if now.blocks[k : k + 8] != before.blocks[k : k + 8]), common)
        return [Change(first // 8 * BLOCK, max(now.size, before.size))]
    changes = []
    with path.open("rb") as file:
        for k in range(len(now.blocks) // 8):
            old, new = (int(blocks[8 * k : 8 * k + 8], 16) for blocks in (before.blocks, now.blocks))
            if old != new:
                file.seek(k * BLOCK)
                changes.append(_in_block(file.read(BLOCK), k * BLOCK, old, new))
    return changes if _restored(path, changes) == before.sha256 else [_whole_block(c, now.size) for c in changes]


def describe(path: Path, changes: list[Change]) -> list[str]:
    """The places in words: offset in the file and, in safetensors, tensor, offset and element."""
    if not changes:
        return ["its sha256 changed, and no block's checksum did: many bytes were changed to deceive"]
    header = _header(path) if path.suffix == ".safetensors" else None
    said = [_said(path, change, header) for change in changes[:SHOWN]]
    return said + ([f"and {len(changes) - SHOWN} more places"] if len(changes) > SHOWN else [])


def tensors_at(path: Path, changes: list[Change]) -> list[dict]:
    """{"tensor", "offset"} of the first bytes of each change that lie in a tensor; nothing for other files."""
    header = _header(path) if path.suffix == ".safetensors" else None
    found = (_tensor(header, change.start) for change in changes) if header else ()
    return [{"tensor": name, "offset": offset} for name, offset, _ in filter(None, found)]


def _in_block(block: bytes, start: int, old: int, new: int) -> Change:
    """The one byte whose change explains both sums, else the whole block."""
    by = ((new & 0xFFFF) - (old & 0xFFFF)) % PRIME
    weighted = ((new >> 16) - (old >> 16)) % PRIME
    signed = by if by < 256 else by - PRIME
    if by and -256 < signed:
        from_end = weighted * pow(by, -1, PRIME) % PRIME
        place = len(block) - from_end
        if 0 <= place < len(block) and 0 <= block[place] - signed <= 255:
            return Change(start + place, start + place + 1, was=block[place] - signed)
    return Change(start, start + len(block))


def _restored(path: Path, changes: list[Change]) -> str:
    """sha256 of the file with every changed byte put back."""
    back = {change.start: change.was for change in changes if change.was is not None}
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, path.stat().st_size, BLOCK):
            block = bytearray(file.read(BLOCK))
            for place in [place for place in back if start <= place < start + len(block)]:
                block[place - start] = back[place]
            digest.update(block)
    return digest.hexdigest()


def _whole_block(change: Change, size: int) -> Change:
    start = change.start // BLOCK * BLOCK
    return Change(start, min(start + BLOCK, size))


def _said(path: Path, change: Change, header: tuple[int, dict] | None) -> str:
    if change.was is not None:
        with path.open("rb") as file:
            file.seek(change.start)
            now = file.read(1)[0]
        place = f"byte {change.start} is 0x{now:02x} and was 0x{change.was:02x}"
    else:
        place = f"in bytes {change.start} to {change.stop - 1}"
    if header is None:
        return place
    found = _tensor(header, change.start)
    if found is None:
        if change.was is None and (after := _tensor(header, change.stop - 1)):
            return f"{place}: up to tensor {after[0]}"
        return f"{place}: in the header"
    name, offset, entry = found
    if change.was is None:
        last = _tensor(header, change.stop - 1)
        to = "" if last is None or last[0] == name else f" to tensor {last[0]}"
        return f"{place}: tensor {name}, from offset {offset}{to}"
    return f"{place}: tensor {name}, offset {offset}{_element(entry, offset)}"


def _element(entry: dict, offset: int) -> str:
    count = math.prod(entry["shape"])
    start, stop = entry["data_offsets"]
    if not count or (stop - start) % count:
        return ""
    flat, index = offset // ((stop - start) // count), []
    for length in reversed(entry["shape"]):
        flat, here = divmod(flat, length)
        index.insert(0, here)
    return f", element {index}"


def _header(path: Path) -> tuple[int, dict] | None:
    """(where data begins, header) of a safetensors file; None when it can no longer be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                return None
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return (8 + length, header) if all("data_offsets" in entry for entry in header.values()) else None
    except (ValueError, struct.error, OSError, AttributeError, TypeError):
        return None


def _tensor(header: tuple[int, dict], place: int) -> tuple[str, int, dict] | None:
    """(name, offset in it, its entry) of the tensor that a byte of the file lies in."""
    data, entries = header
    for name, entry in entries.items():
        start, stop = entry["data_offsets"]
        if data + start <= place < data + stop:
            return name, place - data - start, entry
    return None
