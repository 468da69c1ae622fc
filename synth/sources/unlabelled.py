"""A folder of pictures and nothing else: for engine=teacher, which says what is in them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from synth.errors import SettingsError, SourceError
from synth.scene import Scene
from synth.sources.fault import Fault, PictureFault
from synth.sources.index import as_text, is_text, look_alikes, split_of
from synth.sources.options import VAL_FRACTION, FolderOptions, check_options, described
from synth.sources.pictures import SUFFIXES, PictureFolder, upright

_PICTURES_OF = {"train": "train", "val": "val", "unseen": "val"}


def pictures_fingerprint(options: FolderOptions) -> dict:
    """Return the options and a digest of the pictures' names and sizes in bytes."""
    root = Path(options.path)
    listing = [(file, (root / file).lstat().st_size) for file in _files(options)]
    return {**described(options), "listing_sha256": hashlib.sha256(json.dumps(listing).encode()).hexdigest()}


class PicturesSource:
    """The pictures of one split of a folder, in the order of their names; no scene has any object.

    Splits are "train", "val", "unseen" and "all", as of annotated folders. What cannot be read is quarantined.
    """

    name = "pictures"

    def __init__(self, options: FolderOptions, split: str = "all") -> None:
        check_options(self.name, options, ())
        if split not in (*_PICTURES_OF, "all"):
            raise SettingsError(
                f"source=pictures cannot make split={split!r}", why="its splits are train, val, unseen and all",
                fix="split=train, split=val or split=all",
            )  # fmt: skip
        self.root = Path(options.path)
        self._folder, self._licence = PictureFolder(self.root), options.licence
        wanted, share = _PICTURES_OF.get(split), options.val_fraction
        share = VAL_FRACTION if share is None else share
        files = _files(options)
        named = [f for f in files if is_text(f)]
        group = dict(look_alikes(named, self._folder.read)) if options.look_alikes else {}
        self._pictures = [f for f in named if wanted in (None, split_of(group.get(f, f), share))]
        self.faults = [Fault("file name that is not Unicode", as_text(f)) for f in files if not is_text(f)]

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


def _files(options: FolderOptions) -> list[str]:
    """Names of all picture files under the folder, relative to it; links are not followed into other folders."""
    check_options("pictures", options, ())
    root = Path(options.path)
    if not root.is_dir():
        raise SourceError(
            f"no folder at {root}", why="source=pictures reads a folder of picture files", fix="correct folder.path"
        )
    return sorted(
        os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
        for folder, _, names in os.walk(root)
        for name in names
        if os.path.splitext(name)[1].lower() in SUFFIXES
    )
