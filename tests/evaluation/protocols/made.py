"""Small benchmarks in the true file formats, and a model that answers them as it is told to.

All pictures are 100 x 100, so that the percent dialect writes pixels.
"""

import json
import pickle
from dataclasses import asdict

from PIL import Image

from lynx_moe.data import final_answer
from lynx_moe.evaluation.protocols import PROTOCOLS, Reply, Row
from lynx_moe.families.dialects import Parsed, PercentDialect

SIZE = (100, 100)
QUICK = {"interval_seconds": 0.0}  # two draws: enough to run, and no test of how sure a number is
DIALECT = PercentDialect()


def draw(*paths, size=SIZE):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, 40)).save(path)


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def image(number, name, **more):
    return {"id": number, "file_name": name, "width": 100, "height": 100, **more}


def thing(number, image, category, xywh, **more):
    x, y, w, h = xywh
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    usual = {"iscrowd": 0, "area": float(w * h), "segmentation": outline}
    return {"id": number, "image_id": image, "category_id": category, "bbox": list(xywh), **usual, **more}


CATEGORIES = [
    {"id": 1, "name": "person"},
    {"id": 17, "name": "cat"},
    {"id": 18, "name": "dog"},
    {"id": 3, "name": "car"},
]
THINGS = [
    thing(11, 1, 17, [10, 10, 40, 30]),
    thing(12, 1, 18, [60, 20, 30, 60]),
    thing(13, 2, 1, [0, 0, 50, 50]),
    thing(14, 2, 3, [20, 50, 60, 40]),
]


def reference(number, image, thing, split, *said):
    sentences = [
        {"sent": text.lower(), "raw": text, "tokens": text.lower().split(), "sent_id": 10 * number + k}
        for k, text in enumerate(said)
    ]
    return {"ref_id": number, "image_id": image, "ann_id": thing, "category_id": 1, "split": split,
            "file_name": f"COCO_{image}_{number}.jpg", "sentences": sentences}  # fmt: skip


REFERENCES = [
    reference(1, 1, 11, "val", "Cat on the left", "the cat"),
    reference(2, 1, 12, "testA", "dog"),
    reference(3, 2, 13, "val", "the person"),
    reference(4, 2, 14, "train", "a car"),
]


def instances(folder, things=THINGS, images=None):
    images = images or [image(1, "one.jpg"), image(2, "two.jpg")]
    dump(folder / "instances.json", {"images": images, "annotations": things, "categories": CATEGORIES})
    draw(*(folder / "images" / one["file_name"] for one in images))


def refcoco(folder, references=REFERENCES):
    instances(folder)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    return {}


def grefcoco(folder):
    instances(folder)
    references = [
        reference(1, 1, [11, 12], "val", "both animals"),
        reference(2, 1, [-1], "val", "the zebra"),
        reference(3, 2, 13, "val", "the person"),
        reference(4, 2, [13, 14], "testA", "everything"),
    ]
    dump(folder / "grefs(unc).json", references)
    return {}


def coco(folder):
    images = [image(1, "one.jpg"), image(2, "two.jpg"), image(3, "three.jpg")]
    content = {"images": images, "annotations": THINGS, "categories": CATEGORIES}
    dump(folder / "annotations" / "instances_val2017.json", content)
    draw(*(folder / "val2017" / one["file_name"] for one in images))
    return QUICK


def pin(folder):
    coco(folder)
    return {}


def lvis(folder):
    url = "http://images.cocodataset.org/val2017/{}"
    images = [
        {"id": 1, "coco_url": url.format("one.jpg"), "width": 100, "height": 100, "neg_category_ids": [3],
         "not_exhaustive_category_ids": [17]},
        {"id": 2, "coco_url": url.format("two.jpg"), "width": 100, "height": 100, "neg_category_ids": [],
         "not_exhaustive_category_ids": []},
    ]  # fmt: skip
    letters = {1: "f", 17: "c", 18: "c", 3: "r"}
    categories = [
        {**row, "frequency": letters[row["id"]], "synonyms": [row["name"], f"{row['name']}_(thing)"]}
        for row in CATEGORIES
    ]
    dump(folder / "lvis_v1_val.json", {"images": images, "annotations": THINGS, "categories": categories})
    draw(folder / "val2017" / "one.jpg", folder / "val2017" / "two.jpg")
    return QUICK


def voc_object(name, box, difficult=0):
    sides = "".join(
        f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def voc(folder):
    pictures = {
        "000001": voc_object("cat", (11, 11, 50, 40)) + voc_object("diningtable", (61, 21, 90, 80)),
        "000002": voc_object("person", (1, 1, 50, 50)) + voc_object("person", (61, 61, 90, 90), difficult=1),
    }
    for name, objects in pictures.items():
        size = "<size><width>100</width><height>100</height><depth>3</depth></size>"
        head = f"<annotation><filename>{name}.jpg</filename>{size}"
        dump(folder / "Annotations" / f"{name}.xml", head + objects + "</annotation>")
        draw(folder / "JPEGImages" / f"{name}.jpg")
    dump(folder / "ImageSets" / "Main" / "test.txt", "000001\n000002\n")
    return QUICK


def flickr(folder):
    box = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    entity = "<object><name>{}</name>{}</object>"
    objects = [
        entity.format(7, box.format(10, 10, 30, 50)),
        entity.format(7, box.format(50, 10, 90, 50)),
        "<object><name>8</name><name>7</name>" + box.format(20, 60, 40, 80) + "</object>",
        entity.format(9, "<scene>1</scene><nobndbox>1</nobndbox>"),
    ]
    size = "<size><width>100</width><height>100</height><depth>3</depth></size>"
    dump(folder / "Annotations" / "36979.xml", f"<annotation>{size}{''.join(objects)}</annotation>")
    lines = [
        "[/EN#7/people Three men] with [/EN#8/clothing/other a red hat] in [/EN#9/scene a park] .",
        "[/EN#0/notvisual It] is [/EN#7/people a group] .",
    ]
    dump(folder / "Sentences" / "36979.txt", "\n".join(lines) + "\n")
    dump(folder / "test.txt", "36979\n")
    draw(folder / "flickr30k-images" / "36979.jpg")
    return {}


def captions(folder):
    def caption(text, **places):
        tokens = text.split()
        return {
            "tokens": tokens, "caption": text, "process_idx": [tokens.index(word) for word in places],
            "process_clss": [one[0] for one in places.values()],
            "process_bnd_box": [one[1] for one in places.values()],
        }  # fmt: skip

    rows = [
        {"image_id": 36979, "captions": [
            caption("two men near a dog", men=("man", [10, 10, 40, 60]), dog=("dog", [60, 50, 90, 90])),
            caption("a dog beside men", dog=("dog", [60, 50, 90, 90])),
        ]},
        {"image_id": 65567, "captions": [caption("a hat", hat=("hat", [5, 5, 50, 50]))]},
        {"image_id": 1, "captions": [caption("a tree", tree=("tree", [5, 5, 50, 50]))]},
    ]  # fmt: skip
    dump(folder / "flickr30k_cleaned_class.json", {"annotations": rows})
    dump(folder / "split_ids_flickr30k_entities.json", {"test": ["36979", "65567"], "val": ["1"], "train": []})
    draw(*(folder / "flickr30k-images" / f"{row['image_id']}.jpg" for row in rows))
    return {}


def perbench(folder):
    choice = {"task": "vqa", "question": "What is at {region:0}?", "regions": [[10, 10, 40, 30]], "image": "one.jpg",
              "options": ["a cat", "a dog"]}  # fmt: skip
    outline = [[20, 20, 60, 20, 60, 60, 20, 60]]
    rows = [
        {**choice, "id": 1, "answer": "A"},
        {**choice, "id": 2, "answer": "B"},
        {"id": 3, "task": "res", "question": "Segment what {region:0} holds.", "regions": [[0, 0, 9, 9]],
         "image": "two.jpg", "segmentation": outline},
        {"id": 4, "task": "caption", "question": "Describe {region:0}.", "image": "two.jpg"},
    ]  # fmt: skip
    dump(folder / "perbench.json", rows)
    draw(folder / "images" / "one.jpg", folder / "images" / "two.jpg")
    return {"from_box": True}


def segmentation(folder):
    refcoco(folder)
    return {"from_box": True}


# Name of the protocol to what writes its files and returns the settings that they need.
WRITERS = {
    "refcoco": refcoco, "grefcoco": grefcoco, "refcoco_segmentation": segmentation, "coco_detection": coco,
    "lvis_detection": lvis, "voc_detection": voc, "pin": pin, "flickr30k_entities": flickr,
    "grounded_caption": captions, "perbench": perbench,
}  # fmt: skip


def made(name, folder, **settings):
    """The protocol over small files of its own."""
    return PROTOCOLS.get(name)(folder=folder, **(WRITERS[name](folder) | settings))


def reply(text, confidences=(), polygons=()):
    parsed = DIALECT.decode(final_answer(text), SIZE)
    return Reply(text=text, parsed=Parsed(parsed.boxes, parsed.errors, parsed.spans, [], list(polygons)),
                 confidences=tuple(confidences))  # fmt: skip


def at(*boxes):
    return " ".join(DIALECT.encode(box, SIZE) for box in boxes)


def truth(item, ask):
    """The words of a model that knows the item's truth."""
    told = item.truth
    if "labels" in told:
        asked = dict(zip((one.record.id for one in item.asks), told["asked"], strict=True))[ask.record.id]
        pairs = [(label, box) for label, box in zip(told["labels"], told["boxes"], strict=True) if asked in ("", label)]
        return ", ".join(f"{'' if asked else label} {at(box)}" for label, box in pairs) or "none"
    if "captions" in told:
        first = {name: box for one in told["captions"] for name, box in zip(one["classes"], one["boxes"], strict=True)}
        return ", ".join(f"a {name} {at(box)}" for name, box in first.items())
    if told.get("task") == "vqa":
        return f"{told['answer']}. that one"
    if "segmentation" in told:
        outline = told["segmentation"][0]
        return at((min(outline[::2]), min(outline[1::2]), max(outline[::2]), max(outline[1::2])))
    return at(*(told["boxes"] if "boxes" in told else [told["box"]])) or "There is none."


def rows(protocol, say=truth, confidences=()):
    """The rows of a whole run, as they come back from disk."""
    found = [
        protocol.judge(item, [reply(say(item, ask), confidences) for ask in item.asks]) for item in protocol.items()
    ]
    return [Row(**json.loads(json.dumps(asdict(row)))) for row in found]
