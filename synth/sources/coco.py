"""A folder of your own pictures with COCO annotations: ``images/`` and ``instances.json``."""

from __future__ import annotations

import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from synth.errors import SettingsError, SourceError
from synth.scene import Obj, Scene
from synth.sources.fault import Fault, PictureFault

_ROUNDING = 1.0  # pixels a box may reach past the edge; annotation tools round, so these are clipped, not refused
_ORIENTATION = 0x0112  # EXIF tag
_PICTURES_OF = {"train": "train", "val": "val", "unseen": "val"}
_NEEDED = {
    "images": {"id": (int, str), "file_name": str, "width": int, "height": int},
    "annotations": {"image_id": (int, str), "category_id": (int, str, type(None))},
    "categories": {"id": (int, str), "name": str},
}
_KEPT_AS_IS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(kw_only=True, slots=True)
class CocoOptions:
    """Where a COCO folder is and how it is divided."""

    folder: str = field(default="", metadata={"help": "folder with the pictures and annotations; needed"})
    annotations: str = field(default="instances.json", metadata={"help": "annotation file, relative to the folder"})
    images: str = field(default="images", metadata={"help": "picture folder, relative to the folder"})
    val_fraction: float = field(default=0.1, metadata={"help": "share of pictures in split=val, 0 to 1, by file name"})
    licence: str = field(default="unknown", metadata={"help": "licence of pictures whose annotation names none"})

    def fingerprint(self) -> dict:
        """Return the options and the digest of the annotations; raises ``SourceError`` when there are none."""
        data = _read(self)
        return {**asdict(self), "annotations_sha256": hashlib.sha256(data).hexdigest()}


class CocoSource:
    """The pictures of one split of a COCO folder, one scene each, in the order of their file names.

    ``split`` is "train", "val" (a share of ``val_fraction``, chosen by the hash of the file name, so that adding
    pictures never moves others), "unseen" (the pictures of val, asked in words that train never uses) or "all".
    Bad annotations and pictures are quarantined with a reason. A name that has a bad box or a crowd region in a
    picture is not asked about in that picture: neither "find all" nor "is there any" could be answered truly.
    Raises ``SourceError`` when there is no readable annotation file.
    """

    name = "coco"

    def __init__(self, options: CocoOptions, split: str = "all") -> None:
        if split not in (*_PICTURES_OF, "all") or not 0 <= options.val_fraction <= 1:
            raise SettingsError(
                f"source=coco cannot make split={split!r} with coco.val_fraction={options.val_fraction}",
                why="its splits are train, val, unseen and all, and the share of val is between 0 and 1",
                fix="split=train, split=val or split=all; coco.val_fraction=0.1",
            )  # fmt: skip
        self._images = Path(options.folder) / options.images
        content = _parse(_read(options), options)
        self._categories = {c["id"]: str(c["name"]) for c in content["categories"]}
        self.vocabulary = tuple(sorted(set(self._categories.values())))
        licences = {entry.get("id"): entry.get("name") or entry.get("url") for entry in content.get("licenses") or []}
        images = content["images"]
        self._licences = {image["id"]: licences.get(image.get("license")) or options.licence for image in images}
        chosen = [image for image in images if _belongs(image["file_name"], split, options)]
        self._pictures = sorted(chosen, key=lambda image: (image["file_name"], str(image["id"])))
        self._annotations: dict[int | str, list[dict]] = {image["id"]: [] for image in images}
        self.faults: list[Fault] = []
        for annotation in content["annotations"]:
            if annotation["image_id"] in self._annotations:
                self._annotations[annotation["image_id"]].append(annotation)
            else:
                self.faults.append(Fault("annotation of an unlisted picture", f"annotation {annotation.get('id')}"))

    def __len__(self) -> int:
        return len(self._pictures)

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index``; raises ``PictureFault`` for a missing, unreadable or wrongly sized picture."""
        picture = self._pictures[index]
        data, extension, (width, height) = self._load(picture)
        objects, _ = self._objects(picture, width, height)
        asked = {obj.name for obj in objects}
        present = {self._categories.get(a["category_id"]) for a in self._annotations[picture["id"]]}
        return Scene(
            complete=False,
            index=index, width=width, height=height, objects=objects, image_bytes=lambda: (data, extension),
            source=self.name, licence=self._licences[picture["id"]],
            vocabulary=tuple(name for name in self.vocabulary if name in asked or name not in present),
        )  # fmt: skip

    def object_faults(self, index: int) -> list[Fault]:
        """Return the quarantined annotations of picture ``index``."""
        picture = self._pictures[index]
        return self._objects(picture, picture["width"], picture["height"])[1]

    def _objects(self, picture: dict, width: int, height: int) -> tuple[list[Obj], list[Fault]]:
        objects, faults, unsure = [], [], set()
        for number, annotation in enumerate(self._annotations[picture["id"]]):
            row = f"{picture['file_name']}: annotation {annotation.get('id', number)}"
            name = self._categories.get(annotation["category_id"])
            if name is None:
                faults.append(Fault("unknown category", row))
            elif annotation.get("iscrowd"):
                unsure.add(name)
            else:
                box = _box(annotation.get("bbox"), width, height)
                if isinstance(box, str):
                    faults.append(Fault(box, row))
                    unsure.add(name)
                else:
                    objects.append(Obj(id=number, name=name, box=box))
        faults += [
            Fault("same name as a crowd or a bad box", f"{picture['file_name']}: {obj.name}")
            for obj in objects if obj.name in unsure
        ]  # fmt: skip
        return [obj for obj in objects if obj.name not in unsure], faults

    def _load(self, picture: dict) -> tuple[bytes, str, tuple[int, int]]:
        """Return the picture's bytes, extension and size, upright: no reader can turn it under its boxes later."""
        name = picture["file_name"]
        path = self._images / name
        if not path.resolve().is_relative_to(self._images.resolve()) or not path.is_file():
            raise PictureFault("missing picture", name)
        try:
            data = path.read_bytes()
            image = Image.open(io.BytesIO(data))
            image.load()
            stated, upright = (picture["width"], picture["height"]), ImageOps.exif_transpose(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            raise PictureFault("unreadable picture", name) from None
        if stated not in (upright.size, image.size):
            raise PictureFault("size differs from the annotation", name)
        plain = image.getexif().get(_ORIENTATION, 1) == 1
        if plain and image.format in _KEPT_AS_IS:
            return data, _KEPT_AS_IS[image.format], image.size
        shown = upright if stated == upright.size else image  # annotated upright, as browsers show it, or as stored
        buffer = io.BytesIO()
        shown = shown.convert("RGB")
        shown.getexif().clear()
        shown.save(buffer, "PNG")
        return buffer.getvalue(), "png", shown.size


def split_of(file_name: str, val_fraction: float) -> str:
    """Return "val" for a share of ``val_fraction`` of all file names, else "train"; for ever the same for a name."""
    draw = int.from_bytes(hashlib.sha256(file_name.encode()).digest()[:8], "big") / 2**64
    return "val" if draw < val_fraction else "train"


def _belongs(file_name: str, split: str, options: CocoOptions) -> bool:
    return split == "all" or split_of(file_name, options.val_fraction) == _PICTURES_OF[split]


def _box(bbox: object, width: int, height: int) -> tuple[float, float, float, float] | str:
    """Turn COCO's x, y, width, height into xyxy inside the picture, or return the reason why not."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(v) for v in bbox):
        return "box is not four numbers"
    x, y, w, h = map(float, bbox)
    if w <= 0 or h <= 0:
        return "zero area"
    if x < -_ROUNDING or y < -_ROUNDING or x + w > width + _ROUNDING or y + h > height + _ROUNDING:
        return "box outside the picture"
    box = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return box if box[0] < box[2] and box[1] < box[3] else "box outside the picture"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _read(options: CocoOptions) -> bytes:
    if not options.folder:
        raise SettingsError("source=coco needs a folder", why="coco.folder is empty", fix="coco.folder=path/to/folder")
    path = Path(options.folder) / options.annotations
    try:
        return path.read_bytes()
    except OSError as problem:
        raise SourceError(
            f"no annotations at {path}", why=f"{problem.strerror}; pictures alone do not say where things are",
            fix=f"put a COCO {options.annotations} (images, annotations, categories) there, or set coco.annotations",
        ) from problem  # fmt: skip


def _parse(data: bytes, options: CocoOptions) -> dict:
    try:
        content = json.loads(data)
        for part, keys in _NEEDED.items():
            for number, row in enumerate(content[part]):
                if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in keys.items()):
                    raise ValueError(f"row {number} of {part!r} lacks one of {', '.join(keys)}, or has a wrong type")
        ids = [row["id"] for row in content["images"]]
        if len(set(ids)) < len(ids):
            raise ValueError("two images have the same id")
    except (ValueError, KeyError, TypeError) as problem:
        missing = f"part {problem} is missing" if isinstance(problem, KeyError) else str(problem)
        raise SourceError(
            f"{Path(options.folder) / options.annotations} is not a COCO instances file", why=missing,
            fix="export it as COCO object detection: images, annotations with bbox, categories",
        ) from problem  # fmt: skip
    return content
