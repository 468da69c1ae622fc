"""Folders of records written as the format says, without synth."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

RECORD = {
    "image_id": "",
    "question": "Find the red star.",
    "steps": [],
    "answer": "The red star is at {box:0}.",
    "boxes": [],
    "phrase": "the red star",
    "task": "find_one",
    "kind": "grounding",
    "source": "test",
    "split": "train",
    "licence": "CC0-1.0",
    "seed": "0/train/find_one/0",
}
BOXES = pa.list_(pa.list_(pa.float64()))
STEP = pa.struct([("text", pa.string()), ("boxes", BOXES), ("objects", pa.list_(pa.string()))])
MASKS = pa.list_(pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())]))
SEVERAL = {  # columns that folders of an older synth lack
    "steps": pa.list_(pa.struct([*STEP, ("picture", pa.int32()), ("masks", MASKS)])), "question_boxes": BOXES,
    "more_image_ids": pa.list_(pa.string()), "picture": pa.int32(), "masks": MASKS, "question_masks": MASKS,
}  # fmt: skip


def picture(image_id: str, size: tuple[int, int], colour: tuple[int, int, int] = (120, 80, 40)) -> dict:
    """A row of the pictures table: two flat halves."""
    image = Image.new("RGB", size, colour)
    image.paste((250, 10, 200), (0, 0, size[0] // 2, size[1]))
    file = io.BytesIO()
    image.save(file, "PNG")
    return {
        "image_id": image_id,
        "image": {"bytes": file.getvalue(), "path": f"{image_id}.png"},
        "width": size[0],
        "height": size[1],
    }


def record(number: int, **changes) -> dict:
    return {"id": f"train/test/{number}/find_one/0", **RECORD, **changes}


def write_folder(
    folder: Path, shards: list[tuple[list[dict], list[dict]]], split: str = "train", finished: bool = True
) -> Path:
    """`shards` is a list of (records, pictures)."""
    for table in ("records", "images"):
        (folder / table).mkdir(parents=True, exist_ok=True)
    for number, (records, pictures) in enumerate(shards):
        name = f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
        types = {"steps": pa.list_(STEP), "boxes": BOXES}
        if any(set(row) & set(SEVERAL) > {"steps"} for row in records):
            types |= SEVERAL
        schema = pa.schema([(k, types.get(k, pa.string())) for k in dict.fromkeys(["id", *RECORD, *types])])
        pq.write_table(pa.Table.from_pylist(records, schema), folder / "records" / name)
        if pictures:
            pq.write_table(pa.Table.from_pylist(pictures), folder / "images" / name)
    (folder / "manifest.json").write_text(json.dumps({"finished": finished}))
    return folder


def small_folder(folder: Path) -> Path:
    """Two shards, three pictures, seven records of both kinds; one is text only."""
    first = (
        [
            record(0, image_id="a", boxes=[[4.0, 4.0, 20.0, 20.0]]),
            record(
                1,
                id="train/test/0/relation/0",
                image_id="a",
                task="relation",
                question="Find the thing left of the cat.",
                steps=[{"text": "Find the cat at {box:0}.", "boxes": [[30.0, 10.0, 40.0, 30.0]], "objects": ["cat"]}],
                boxes=[[1.0, 2.0, 11.0, 22.0]],
            ),
            record(2, id="train/test/0/count/0", image_id="a", task="count", kind="understanding", phrase="",
                   question="How many cat are there?", answer="2"),
            record(3, id="train/test/1/find_all/0", image_id="b", task="find_all", question="Find all star.",
                   answer="Yes: {box:0} {box:1}.", boxes=[[0.0, 0.0, 9.0, 9.0], [10.0, 20.0, 24.0, 40.0]]),
        ],
        [picture("a", (48, 32)), picture("b", (24, 40), (10, 200, 90))],
    )  # fmt: skip
    second = (
        [
            record(4, id="train/test/2/absent/0", image_id="c", task="absent", question="Find the blue star.",
                   answer="no red star in picture ."),
            record(5, id="train/test/3/count/0", task="count", kind="understanding", question="What is one?",
                   answer="one", phrase=""),
            record(6, id="train/test/2/describe/0", image_id="c", task="describe", kind="understanding",
                   question="describe the picture", answer="a red star in a cat .", phrase=""),
        ],
        [picture("c", (32, 32), (0, 0, 255))],
    )  # fmt: skip
    return write_folder(folder, [first, second])


def two_pictures(folder: Path) -> Path:
    """Two pictures of other sizes: records about each, one about both, one of text only."""
    rows = [
        record(0, image_id="a", boxes=[[4.0, 4.0, 20.0, 20.0]]),
        record(
            1,
            id="train/test/0/which_picture/0",
            image_id="a",
            more_image_ids=["b"],
            picture=1,
            task="which_picture",
            question="The first has it at {box:0}. Which picture has more?",
            question_boxes=[[2.0, 4.0, 20.0, 20.0]],
            steps=[{"text": "The first has it at {box:0}.", "boxes": [[1.0, 2.0, 40.0, 30.0]], "picture": 0}],
            answer="It is at {box:0}.",
            boxes=[[4.0, 1.0, 20.0, 6.0]],
        ),
        record(2, image_id="b", question="Find the ring.", boxes=[[2.0, 2.0, 20.0, 30.0]]),
        record(3, image_id="a", task="count", kind="understanding", question="How many?", answer="2", phrase=""),
        record(4, task="words", kind="understanding", question="What is one?", answer="one", phrase=""),
    ]
    return write_folder(folder, [(rows, [picture("a", (48, 32)), picture("b", (24, 40), (10, 200, 90))])])


def stepwise_folder(folder: Path) -> Path:
    """Two pictures; stepwise records of two, three and four steps, answer included, beside records without steps."""

    def step(text: str, *boxes: list[float]) -> dict:
        return {"text": text, "boxes": list(boxes), "objects": []}

    rows = [
        record(
            0,
            id="train/test/0/three/0",
            image_id="a",
            question="What color is the thing the person is looking at?",
            steps=[
                step("Find the person at {box:0}.", [0.0, 4.0, 9.0, 32.0]),
                step("Find the ball at {box:0}.", [10.0, 12.0, 32.0, 32.0]),
            ],
            answer="The ball is orange.",
        ),
        record(1, id="train/test/0/find_one/0", image_id="a", boxes=[[4.0, 4.0, 20.0, 20.0]]),
        record(
            2,
            id="train/test/1/two/0",
            image_id="b",
            question="Find the thing left of the cat.",
            steps=[step("Find the cat at {box:0}.", [10.0, 10.0, 20.0, 30.0])],
            answer="The star is at {box:0}.",
            boxes=[[1.0, 2.0, 11.0, 22.0]],
        ),
        record(3, id="train/test/1/count/0", image_id="b", task="count", kind="understanding", phrase="",
               question="How many cat are there?", answer="2"),
        record(
            4,
            id="train/test/1/four/0",
            image_id="b",
            question="How many star are there?",
            steps=[
                step("Find the star at {box:0}.", [1.0, 2.0, 11.0, 22.0]),
                step("The star is at {box:0}.", [12.0, 2.0, 20.0, 9.0]),
                step("No star is left ."),
            ],
            answer="two",
        ),
    ]  # fmt: skip
    return write_folder(folder, [(rows, [picture("a", (32, 32)), picture("b", (24, 40), (10, 200, 90))])])
