"""Pictures that look alike lie on one side of train and val, in annotated folders and in folders of pictures."""

import io
import json
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageEnhance

from synth.errors import SettingsError
from synth.settings import Settings
from synth.sources import open_source
from synth.sources.options import FolderOptions

PHOTOS, COPIES = 24, 3


def photo(k: int) -> Image.Image:
    rng = random.Random(k)
    picture = Image.new("RGB", (160, 120), tuple(rng.randrange(256) for _ in range(3)))
    for _ in range(25):
        x, y, r = rng.randrange(160), rng.randrange(120), rng.randrange(8, 40)
        colour = tuple(rng.randrange(256) for _ in range(3))
        ImageDraw.Draw(picture).ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A COCO folder in which every photo lies three times: as it is, encoded again, and a little darker."""
    root = tmp_path_factory.mktemp("alike")
    (root / "images").mkdir()
    images = []
    for k in range(PHOTOS):
        first = photo(k)
        coarse = io.BytesIO()
        first.save(coarse, "JPEG", quality=50)
        darker = ImageEnhance.Brightness(Image.open(coarse)).enhance(0.9)
        for n, picture in enumerate((first, Image.open(coarse), darker)):
            name = f"{random.Random(f'{k}/{n}').randrange(10**6):06}-{k:02}.png"  # copies are no neighbours by name
            picture.save(root / "images" / name)
            images.append({"id": len(images), "file_name": name, "width": 160, "height": 120})
    boxes = [
        {"id": k, "image_id": k, "category_id": 1, "bbox": [5, 5, 50, 50], "iscrowd": 0} for k in range(len(images))
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "blob"}]}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def photos_of(source, split: str, work: Path, path: Path, look_alikes: bool | None) -> list[str]:
    options = FolderOptions(path=str(path), val_fraction=0.4, look_alikes=look_alikes)
    opened = open_source(Settings(source=source, engine="teacher", split=split, folder=options), work)
    return [opened.scene(k, split, 0).file[-6:-4] for k in range(len(opened))]


@pytest.mark.parametrize("source, below", [("coco", "."), ("pictures", "images")])
def test_copies_are_never_parted(source, below, folder, tmp_path):
    parted = {}
    for together in (None, True):
        sides = [photos_of(source, s, tmp_path / f"{together}", folder / below, together) for s in ("train", "val")]
        assert len(sides[0]) + len(sides[1]) == PHOTOS * COPIES and all(sides)
        parted[together] = set(sides[0]) & set(sides[1])
    assert len(parted[None]) > 5 and not parted[True]


def test_where_a_format_has_its_own_splits_the_option_would_do_nothing(tmp_path):
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        photo(1).save(tmp_path / "images" / split / f"{split}.jpg")
        (tmp_path / "labels" / split / f"{split}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [cat]\n")
    options = FolderOptions(path=str(tmp_path), look_alikes=True)
    with pytest.raises(SettingsError, match="folder.look_alikes"):
        open_source(Settings(source="yolo", split="train", folder=options), tmp_path / "work")
