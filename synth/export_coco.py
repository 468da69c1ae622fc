"""Rendered pictures as a COCO folder: ``python -m synth.export_coco FOLDER [--size 50] [--split val] [--seed 0]``.

It shows the layout that ``source=coco`` reads from your own pictures (``images/`` and ``instances.json``), and gives
that way something true to be tried on.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from synth.sources.rendered import LICENCE, RenderedSource


def export_coco(folder: str | Path, *, size: int = 50, split: str = "val", seed: int | str = 0) -> Path:
    """Write ``size`` scenes as ``images/*.jpg`` and ``instances.json``; a category is an object's phrase ("red star").

    The annotation file is written last and whole: a folder that has one is complete.

    Returns: the path of ``instances.json``.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    source = RenderedSource()
    scenes = [source.scene(index, split, seed) for index in range(size)]
    categories = {name: k for k, name in enumerate(sorted({o.phrase for s in scenes for o in s.objects}), start=1)}
    images, annotations = [], []
    for scene in scenes:
        data, extension = scene.image_bytes()
        name = f"{split}-{scene.index:06d}.{extension}"
        (folder / "images" / name).write_bytes(data)
        size = {"width": scene.width, "height": scene.height}
        images.append({"id": scene.index, "file_name": name, **size, "license": 1})
        for obj in scene.objects:
            x1, y1, _, _ = obj.box
            seen = obj.runs()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": scene.index, "category_id": categories[obj.phrase],
                 "bbox": [x1, y1, obj.width, obj.height], "segmentation": seen.coco(), "area": seen.area, "iscrowd": 0}
            )  # fmt: skip
    content = {
        "licenses": [{"id": 1, "name": LICENCE}],
        "categories": [{"id": k, "name": name} for name, k in categories.items()],
        "images": images,
        "annotations": annotations,
    }
    final = folder / "instances.json"
    aside = folder / "instances.json.partial"
    aside.write_text(json.dumps(content, indent=1), encoding="utf-8")
    os.replace(aside, final)
    return final


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m synth.export_coco", description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="folder to write")
    parser.add_argument("--size", type=int, default=50, help="number of pictures (default %(default)s)")
    parser.add_argument("--split", default="val", help="stream of scenes to draw from (default %(default)s)")
    parser.add_argument("--seed", default=0, help="number or word (default %(default)s)")
    given = parser.parse_args(arguments)
    print(export_coco(given.folder, size=given.size, split=given.split, seed=given.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
