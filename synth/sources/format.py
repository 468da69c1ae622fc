"""What a format is: how its folder is known, read and told from another; one instance in each reader's file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from synth.sources.annotation import Annotated, Vocabulary
from synth.sources.fault import Fault
from synth.sources.options import Folder
from synth.sources.pictures import SUFFIXES, Size

_LOOKED_AT = 1 << 20  # bytes of a file that are searched for its sign
Items = Iterator[Annotated | Fault | Vocabulary]


class Pictures(Protocol):
    """Where a format's pictures are; ``root`` None: not in files that could be linked to."""

    root: Path | None

    def require(self, file: str) -> None: ...

    def size(self, file: str) -> Size: ...

    def read(self, file: str) -> bytes: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A way to lay annotations beside pictures.

    Args:
        read: yields what a folder holds, in any order; the path is a folder for scratch files.
        pictures: opens the folder's pictures.
        digest: what tells these annotations from changed ones.
        expects: the files that are expected, for messages and documentation.
        signs: alternatives; each is glob patterns that must all match for the folder to be of this format.
        uses: options beside those that all formats use.
        holds: what a file of these names has near its beginning; tells files of one name apart.
        own_splits: the annotations may say which picture is of which split.
    """

    read: Callable[[Folder, Path], Items]
    pictures: Callable[[Folder], Pictures]
    digest: Callable[[Folder], str]
    expects: str
    signs: tuple[tuple[str, ...], ...]
    uses: tuple[str, ...] = ()
    own_splits: bool = False
    holds: bytes = b""

    def fits(self, path: Path) -> bool:
        """Whether the files of a folder look like this format."""
        return any(all(self._sign(path, pattern) for pattern in patterns) for patterns in self.signs)

    def _sign(self, path: Path, pattern: str) -> bool:
        first = next(path.glob(pattern), None)
        if first is None or not self.holds:
            return first is not None
        with open(first, "rb") as file:
            return self.holds in file.read(_LOOKED_AT)


def digest_of(files: Iterable[Path], root: Path) -> str:
    """Return a digest of the files' names, as seen from ``root``, and bytes; of pictures, of their names only."""
    total = hashlib.sha256()
    for path in files:
        total.update(os.fsencode(Path(os.path.relpath(path, root)).as_posix()) + b"\0")
        if path.suffix.lower() not in SUFFIXES:
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def below(folder: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the files with one of the suffixes in a folder and its folders, in order; linked folders are left out."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif os.path.splitext(entry.name)[1].lower() in suffixes:
                files.append(entry.name)
    yield from (folder / name for name in sorted(files))
    for name in sorted(folders):
        yield from below(folder / name, *suffixes)
