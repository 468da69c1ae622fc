"""A benchmark's pictures, named by its files: found inside their folder or counted, opened when asked about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image

from lynx_moe.data.linked import open_linked
from lynx_moe.errors import RecordError
from synth.sources.fault import PictureFault
from synth.sources.pictures import PictureFolder, Size


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture: its name in the folder, (width, height) of the frame of its boxes, and what decodes it."""

    file: str
    size: Size
    load: Callable[[], Image.Image] = field(repr=False, compare=False)


class PictureFiles:
    """Pictures below one folder; each that cannot be used is counted once in `faults`, by kind.

    Args:
        root: their folder. A name that leads out of it (absolute, "..", a link) is a fault.
        faults: where they are counted.
    """

    def __init__(self, root: Path, faults: Counter[str]):
        self._files = PictureFolder(root)
        self._faults = faults
        self._met: dict[str, Size | None] = {}

    @classmethod
    def below(cls, folder: Path, named: str, usual: Sequence[str], faults: Counter[str]) -> PictureFiles:
        """The pictures in `folder / named`, or in the first of the usual folders that is there.

        Raises:
            RecordError: none is.
        """
        tried = [folder / name for name in ((named,) if named else usual)]
        found = next((path for path in tried if path.is_dir()), None)
        if found is None:
            raise RecordError(
                f"no folder of pictures in {folder}",
                why=f"looked for {', '.join(map(str, tried))}",
                fix="images=FOLDER, relative to the benchmark's folder",
            )
        return cls(found, faults)

    def find(self, file: object, width: object = None, height: object = None) -> Picture | None:
        """The picture of that name, or None when it cannot be used.

        Only its header is read: it must be there and be a picture of (`width`, `height`), where the files tell both.
        """
        if not isinstance(file, str):
            self._faults["picture without a file name"] += 1
            return None
        if file not in self._met:
            self._met[file] = self._size(file, (width, height))
        size = self._met[file]
        return None if size is None else Picture(file, size, partial(open_linked, self._files.root, file, size))

    def _size(self, file: str, stated: tuple[object, object]) -> Size | None:
        try:
            self._files.require(file)
            shown = self._files.size(file)
        except PictureFault as problem:
            self._faults[problem.fault.reason] += 1
            return None
        if not all(isinstance(side, int) and side > 0 for side in stated):
            return shown
        # A camera's turned picture is annotated either as it is shown or as it lies in the file.
        if stated not in (shown, shown[::-1]):
            self._faults["size differs from the annotation"] += 1
            return None
        return stated  # type: ignore[return-value]
