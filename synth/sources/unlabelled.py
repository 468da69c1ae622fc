"""A folder of pictures and nothing else: for engine=teacher, which says what is in them."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from synth.errors import SettingsError, SourceError
from synth.scene import Scene
from synth.sources.coco import split_of
from synth.sources.fault import Fault, PictureFault
from synth.sources.pictures import SUFFIXES, PictureFolder, upright

_PICTURES_OF = {"train": "train", "val": "val", "unseen": "val"}


@dataclass(kw_only=True, slots=True)
class PicturesOptions:
    """Where unlabelled pictures are and how they are divided."""

    folder: str = field(default="", metadata={"help": "folder with pictures, folders in it included; needed"})
    val_fraction: float = field(default=0.1, metadata={"help": "share of pictures in split=val, 0 to 1, by file name"})
    licence: str = field(default="unknown", metadata={"help": "licence of the pictures"})

    def fingerprint(self) -> dict:
        """Return the options and a digest of the pictures' names and sizes in bytes."""
        root = Path(self.folder)
        listing = [(file, (root / file).lstat().st_size) for file in _files(self)]
        return {**asdict(self), "listing_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest()}


class PicturesSource:
    """The pictures of one split of a folder, in the order of their names; no scene has any object.

    Splits are those of source=coco: "train", "val", "unseen" and "all". What cannot be read is quarantined.
    """

    name = "pictures"

    def __init__(self, options: PicturesOptions, split: str = "all") -> None:
        if split not in (*_PICTURES_OF, "all") or not 0 <= options.val_fraction <= 1:
            raise SettingsError(
                f"source=pictures cannot make split={split!r} with pictures.val_fraction={options.val_fraction}",
                why="its splits are train, val, unseen and all, and the share of val is between 0 and 1",
                fix="split=train, split=val or split=all; pictures.val_fraction=0.1",
            )  # fmt: skip
        self._folder, self._licence = PictureFolder(Path(options.folder)), options.licence
        wanted = _PICTURES_OF.get(split)
        self._pictures = [f for f in _files(options) if wanted in (None, split_of(f, options.val_fraction))]
        self.faults: list[Fault] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index`` without objects; raises ``PictureFault`` where its header cannot be read."""
        file = self._pictures[index]
        width, height = self._folder.size(file)
        if width < 2 or height < 2:
            raise PictureFault("picture too small", file)
        return Scene(
            index=index, width=width, height=height, objects=[], complete=False, file=file, source=self.name,
            licence=self._licence, image_bytes=lambda: upright(self._folder.read(file), (width, height), file),
        )  # fmt: skip


def _files(options: PicturesOptions) -> list[str]:
    """Names of all picture files under the folder, relative to it; links are not followed into other folders."""
    if not options.folder:
        raise SettingsError(
            "source=pictures needs a folder", why="pictures.folder is empty", fix="pictures.folder=path/to/pictures"
        )
    root = Path(options.folder)
    if not root.is_dir():
        raise SourceError(
            f"no folder at {root}", why="source=pictures reads a folder of picture files", fix="correct pictures.folder"
        )
    return sorted(
        os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
        for folder, _, names in os.walk(root)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES
    )
