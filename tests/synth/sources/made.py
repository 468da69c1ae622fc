"""Small pictures and files for the tests of the formats."""

import json

from PIL import Image


def draw(*paths, size=(64, 48)):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 40)).save(path)


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def image(number, name, size=(64, 48), **more):
    return {"id": number, "file_name": name, "width": size[0], "height": size[1], **more}


def box(number, image, category, xywh, **more):
    more = {"iscrowd": 0, "area": 1.0, **more}
    return {"id": number, "image_id": image, "category_id": category, "bbox": xywh, **more}
