"""A few dozen annotated pictures become a training mix: their objects, cut out by mask, on other grounds.

Light, blur, camera and scale change; the boxes are those of the pixels that stay visible.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from synth.compose import Canvas, camera, cut, jpeg, lit, place, turned
from synth.errors import SettingsError, SourceError
from synth.render import SHOWN, add_noise, draw_background
from synth.scene import Scene
from synth.sources.fault import PictureFault
from synth.sources.pictures import SUFFIXES, PictureFolder, size_of, upright
from synth.sources.ranges import is_range
from synth.sources.rendered import LICENCE

_TRIES = 30  # draws of an object before a picture goes without it
_LOOKED_AT = 200  # pictures searched for a mask before the source is refused
_MAX_OVERLAP = 0.2  # of the smaller box, as in rendered pictures
_LEAST_SEEN = 0.5  # of an object: less would be a crumb that nobody could name
_FEWEST_PIXELS = 64  # of a mask worth cutting out


@dataclass(kw_only=True, slots=True)
class PasteOptions:
    """How cut-outs are put together."""

    of: str = field(default="auto", metadata={"help": "source=paste: the annotated source of the objects (folder.*)"})
    grounds: str = field(
        default="", metadata={"help": "source=paste: folder of pictures to lay them on; empty: drawn ones"}
    )
    grounds_licence: str | None = field(
        default=None, metadata={"help": "source=paste: licence of the pictures in paste.grounds; null: unknown"}
    )
    side: int = field(default=336, metadata={"help": "source=paste: pixels of each side of a picture"})
    objects: list[int] = field(
        default_factory=lambda: [2, 5], metadata={"help": "source=paste: fewest and most objects"}
    )
    scale: list[float] = field(
        default_factory=lambda: [0.15, 0.5],
        metadata={"help": "source=paste: longer side of an object, share of the picture's"},
    )
    turn: float = field(default=15.0, metadata={"help": "source=paste: degrees an object is turned by at most"})
    mirror: bool = field(
        default=True, metadata={"help": "source=paste: whether objects may be mirrored (text should not)"}
    )
    light: float = field(default=0.3, metadata={"help": "source=paste: change of light, 0 to 1"})
    blur: float = field(default=1.2, metadata={"help": "source=paste: blur of the whole picture in pixels at most"})
    camera: float = field(default=0.12, metadata={"help": "source=paste: change of perspective, 0 to 0.4 of a side"})

    def check(self) -> None:
        """Raise ``SettingsError`` for a value that no picture can be made with."""
        small, large = self.scale if len(self.scale) == 2 else (0, 0)
        good = {
            "side": 32 <= self.side <= 4096, "objects": is_range(self.objects, 1, 40), "scale": 0 < small <= large <= 1,
            "turn": 0 <= self.turn <= 180, "light": 0 <= self.light < 1, "blur": 0 <= self.blur <= 20,
            "camera": 0 <= self.camera <= 0.4, "of": self.of not in ("paste", "rendered"),
            "grounds_licence": self.grounds_licence is None or bool(self.grounds and self.grounds_licence.strip()),
        }  # fmt: skip
        for name, fine in good.items():
            if not fine:
                raise SettingsError(
                    f"paste.{name}={getattr(self, name)!r} cannot be used", why="it is outside of what a picture bears",
                    fix=f"for example paste.{name}={getattr(PasteOptions(), name)!r}",
                )  # fmt: skip


class PasteSource:
    """Pictures made of the objects of another source; picture ``index`` never needs the ones before it.

    Objects of split "val" come from pictures of val only, so no object is in both. Raises ``SourceError`` when no
    object of the source has a mask: a box would bring its own ground along.
    """

    name = "paste"
    root = None

    def __init__(self, options: PasteOptions, inner: Any, split: str) -> None:
        self._options, self._inner, self._split = options, inner, split
        self._grounds = _ground_files(options.grounds)
        self._cutouts = lru_cache(maxsize=64)(self._cut_from)
        if not any(self._cutouts(k) for k in range(min(len(inner), _LOOKED_AT))):
            raise SourceError(
                f"no object of source={inner.name} can be cut out",
                why="none of its pictures could be read, or its objects have boxes only and no masks",
                fix="annotate outlines: LabelMe, COCO or YOLO segmentation, CVAT polygons",
            )

    def __len__(self) -> int:
        return 2**31 - 1

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index`` of ``split``: the same for ever under the same seed and the same folder."""
        rng = random.Random(f"{seed}/{split}/paste/{index}")
        options = self._options
        background, ground = self._ground(rng)
        canvas, names, licences = Canvas(lit(ground, rng, options.light)), [], set()
        told = frozenset(getattr(self._inner, "vocabulary", ()))  # names that are right or wrong of all that is pasted
        wanted, taken = rng.randint(*options.objects), []
        for _ in range(_TRIES):
            if len(names) == wanted:
                break
            found = self._cutouts(rng.randrange(len(self._inner)))
            if not found:
                continue
            name, licence, cutout, known = rng.choice(found)
            longest = round(rng.uniform(*options.scale) * options.side)
            cutout = turned(cutout, rng, longest=longest, degrees=options.turn, mirror=options.mirror)
            spot = place(rng, options.side, cutout.size, taken, _MAX_OVERLAP)
            if spot is None:
                continue
            canvas.lay(lit(cutout, rng, options.light), *spot)
            taken.append((*spot, spot[0] + cutout.width, spot[1] + cutout.height))
            names.append(name)
            licences.add(licence)
            told &= known
        canvas.warp(camera(rng, options.side, options.side, options.camera))
        seen = canvas.objects(names)
        objects = [o for o in seen if o.visible >= _LEAST_SEEN]
        here, crumbs = {o.name for o in objects}, {o.name for o in seen if o.visible < _LEAST_SEEN}
        picture = canvas.picture.convert("RGB").filter(ImageFilter.GaussianBlur(rng.uniform(0, options.blur)))
        picture, quality = add_noise(rng, picture), rng.randint(70, 95)
        # A crumb at the edge is in the picture, yet not listed; and a photograph may show anything: one of ours a cup.
        bare = background in ("plain", "noise")
        if not bare:
            licences.add(self._options.grounds_licence or "unknown" if self._grounds else LICENCE)
        complete = bare and len(objects) == len(names)
        shown = {background, *SHOWN.get(background, ())}  # by a photograph of ours
        alone = bare or not (self._grounds or any(shown.intersection(name.split()) for name in here))
        vocabulary = here | (told - crumbs if bare else set())
        return Scene(
            index=index, width=options.side, height=options.side, objects=objects, complete=complete,
            exhaustive=alone and not here & crumbs, image_bytes=lambda: jpeg(picture, quality), source=self.name,
            background=background, licence="; ".join(sorted(licences)) or "nothing was pasted",
            vocabulary=tuple(sorted(vocabulary)),
        )  # fmt: skip

    def _ground(self, rng: random.Random) -> tuple[str, Image.Image]:
        side = self._options.side
        if not self._grounds:
            return draw_background(rng, side)
        folder = PictureFolder(Path(self._options.grounds))
        for _ in range(_TRIES):
            file = rng.choice(self._grounds)
            try:
                data = folder.read(file)
                data, _ = upright(data, size_of(io.BytesIO(data), file), file)
            except PictureFault:
                continue  # counted nowhere: a ground is no data, and another one does as well
            photo = Image.open(io.BytesIO(data)).convert("RGB")
            crop = rng.uniform(0.6, 1) * min(photo.size)
            left, top = rng.uniform(0, photo.width - crop), rng.uniform(0, photo.height - crop)
            box = (left, top, left + crop, top + crop)
            return "", photo.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        raise SourceError(
            f"no ground in {self._options.grounds} can be read", why=f"{_TRIES} were tried, all are broken",
            fix="put sound JPEG or PNG pictures there, or leave paste.grounds empty",
        )  # fmt: skip

    def _cut_from(self, index: int) -> list[tuple[str, str, Image.Image, frozenset[str]]]:
        """(name, licence, cut-out, names its picture can be asked about) of every object that has a mask.

        Those that touch an edge of their picture are left out.
        """
        try:
            scene = self._inner.scene(index, self._split, 0)
            # Before any mask is drawn: a picture that is not of the annotated size must not cost that much memory.
            picture = Image.open(io.BytesIO(scene.image_bytes()[0]))
        except PictureFault:
            return []
        masks = [(o, o.pixels()) for o in scene.objects]
        masks = [(o, mask) for o, mask in masks if mask is not None and mask.sum() >= _FEWEST_PIXELS]
        known = frozenset(scene.vocabulary)
        return [
            (o.name, scene.licence, cut(picture, mask, feather=1.0), known)
            for o, mask in masks
            if not _touches_edge(mask)
        ]


def grounds_digest(folder: str) -> str:
    """Return the digest of the names and contents of the pictures that objects are laid on."""
    digest = hashlib.sha256()
    for file in _ground_files(folder):
        try:
            data = PictureFolder(Path(folder)).read(file)
        except PictureFault:  # drawn on never
            data = b""
        digest.update(os.fsencode(file) + b"\0" + hashlib.sha256(data).digest())
    return digest.hexdigest()


def _touches_edge(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _ground_files(folder: str) -> list[str]:
    if not folder:
        return []
    root = Path(folder)
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise SourceError(
            f"no pictures in {folder}", why="paste.grounds is to hold pictures to lay objects on",
            fix="name a folder with JPEG or PNG files, or leave paste.grounds empty",
        )  # fmt: skip
    return found
