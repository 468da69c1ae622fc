"""Pascal VOC's files: one XML a picture, lists of pictures in `ImageSets/Main`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lynx_moe.errors import RecordError
from lynx_moe.evaluation.protocols.coco_tables import Corners
from lynx_moe.evaluation.protocols.picture_files import Picture, PictureFiles
from synth.sources.safe_xml import XML_FAULTS, number, parse, text

NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep"
    " sofa train tvmonitor"
).split()


@dataclass(frozen=True, slots=True)
class VocThing:
    """One object: `box` from edge to edge (VOC counts pixels from 1 and includes the last)."""

    name: str
    box: Corners
    difficult: bool


@dataclass(frozen=True, slots=True)
class VocPicture:
    """One picture of a list, with all that its XML marks."""

    id: str
    picture: Picture
    things: tuple[VocThing, ...]


def voc_pictures(folder: Path, split: str, pictures: PictureFiles, faults: Counter[str]) -> Iterator[VocPicture]:
    """The pictures of `ImageSets/Main/<split>.txt`, in its order; what cannot be used is counted.

    Raises:
        RecordError: there is no such list.
    """
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = listed.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise RecordError(f"cannot read {listed}", why=str(problem), fix="split=NAME of a list in it") from problem
    met: set[str] = set()
    for name in (line.split()[0] for line in lines if line.strip()):
        if name in met:
            faults["duplicate id"] += 1
            continue
        met.add(name)
        if Path(name).name != name:
            faults["path leaves the folder"] += 1
            continue
        try:
            root = parse(folder / "Annotations" / f"{name}.xml")
        except XML_FAULTS:
            faults["missing or unreadable annotation file"] += 1
            continue
        width, height = number(root, "size/width"), number(root, "size/height")
        # A file that was renamed may state its old name, so only the ending is believed.
        stated = Path(text(root, "filename"))
        file = stated.name if stated.stem == name else f"{name}.jpg"
        picture = pictures.find(file, int(width or 0), int(height or 0))
        if picture is None:
            continue
        things = []
        for node in root.iterfind("object"):
            sides = [number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
            named = text(node, "name")
            if None in sides or not named or sides[2] < sides[0] or sides[3] < sides[1]:
                faults["object without a name or a usable box"] += 1
                continue
            box = (sides[0] - 1, sides[1] - 1, sides[2], sides[3])
            things.append(VocThing(named, box, text(node, "difficult") == "1"))
        yield VocPicture(name, picture, tuple(things))
