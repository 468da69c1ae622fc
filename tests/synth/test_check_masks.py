"""The checker of masks: every mask that was changed on its way, or changed places with another, is found."""

import copy
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_masks

from synth.__main__ import main
from synth.check import faults, scene_from
from synth.masks import SceneMasks, add_masks
from synth.record import RECORDS, image_id_of, make_picture, named_pictures
from synth.scene import Scene
from synth.settings import Settings
from synth.shard import grouped, scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from tests.synth.test_record_masks import TASKS, made


def kept():
    """(record with masks, its scenes as they come back from the table) of some rendered pictures."""
    settings = Settings(task=TASKS, masks=True, rendered=RenderedOptions(objects=[4, 7]))
    scenes = [RenderedSource(settings.rendered).scene(k, "train", 0) for k in range(6)]
    stored = {image_id_of(scene, "train"): scene_from(make_picture(scene, "a/b/c")) for scene in scenes}
    by_id = {image_id_of(scene, "train"): SceneMasks(scene) for scene in scenes}
    for scene, groups in grouped(scenes, 0, settings.task_names()):
        for record in scene_records(scene, settings, settings.task_names(), groups)[0]:
            add_masks(record, [by_id[name] for name in named_pictures(record)])
            yield record, [stored[name] for name in named_pictures(record)]


def shifted(mask: dict, by: int = 3) -> dict:
    return written(np.roll(coco_masks.decode(mask), by, axis=1))


def written(mask: np.ndarray) -> dict:
    coded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def spotted(mask: dict) -> dict:
    """The mask with a hole, of the same extent."""
    pixels = coco_masks.decode(mask)
    ys, xs = np.nonzero(pixels)
    pixels[ys[len(ys) // 2], xs[len(xs) // 2]] = 0
    return written(pixels)


MUTATIONS = {
    "shifted": shifted,
    "shifted by two": lambda mask: shifted(mask, 2),
    "holed": spotted,
    "emptied": lambda mask: written(np.zeros(mask["size"])),
    "filled": lambda mask: written(np.ones(mask["size"])),
    "lost": lambda mask: None,
    "cut off": lambda mask: {**mask, "counts": mask["counts"][:-1]},
    "of another size": lambda mask: {**mask, "size": [mask["size"][0] // 2, mask["size"][1] * 2]},
    "of no text": lambda mask: {**mask, "counts": ""},
}
IN_LINKS = set(MUTATIONS) - {"holed", "lost"}  # where no scene keeps masks, only that they fit their boxes is known


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_checker_finds_every_changed_mask(name):
    tried = 0
    for record, scenes in kept():
        assert not list(faults(record, *scenes, masks=True))
        blind = [scene_without_masks(scene) for scene in scenes]
        for path in ("boxes", "question", *range(len(record["steps"]))):
            other = copy.deepcopy(record)
            held = other["steps"][path]["masks"] if isinstance(path, int) else other[
                "masks" if path == "boxes" else "question_masks"
            ]  # fmt: skip
            if not held or (name == "holed" and coco_masks.area(held[0]) < 9):
                continue
            held[0] = MUTATIONS[name](held[0])
            told = list(faults(other, *scenes, masks=True))
            assert any("mask" in fault for fault in told), (record["id"], path)
            assert bool(list(faults(other, *blind, masks=True))) == (name in IN_LINKS)
            tried += 1
    assert tried > 50


def scene_without_masks(scene: Scene) -> Scene:
    objects = [copy.copy(obj) for obj in scene.objects]
    for obj in objects:
        obj.mask = None
    return Scene(
        index=0, width=scene.width, height=scene.height, objects=objects, image_bytes=scene.image_bytes, source="",
        licence="", background=scene.background, vocabulary=scene.vocabulary, colours=scene.colours,
    )  # fmt: skip


def test_the_checker_finds_masks_that_changed_places_or_are_too_few_or_too_many():
    rng, tried = random.Random(0), 0
    for record, scenes in kept():
        if len(record["masks"]) < 2:
            continue
        tried += 1
        k = rng.randrange(len(record["masks"]) - 1)
        swapped = record["masks"][:k] + record["masks"][k : k + 2][::-1] + record["masks"][k + 2 :]
        for masks in (swapped, record["masks"][1:], [*record["masks"], None], []):
            assert list(faults({**record, "masks": masks}, *scenes, masks=True))
        assert list(faults(record, *scenes, masks=False))
    assert tried > 3


def test_a_folder_with_a_changed_mask_does_not_pass(tmp_path, capsys):
    out = tmp_path / "data"
    made(out, size=3)
    assert main(["check", str(out)]) == 0
    (table,) = (out / "records").glob("*.parquet")
    rows = pq.read_table(table).to_pylist()
    row = next(row for row in rows if row["masks"])
    row["masks"][0] = shifted(row["masks"][0])
    pq.write_table(pa.Table.from_pylist(rows, schema=RECORDS), table)
    capsys.readouterr()
    assert main(["check", str(out)]) == 1
    assert f"{row['id']}: masks: mask 0" in capsys.readouterr().out
