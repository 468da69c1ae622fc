"""Cut-paste: what is pasted is where the box says, under every light, blur and camera."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

import synth
from synth.errors import OutputExistsError, SettingsError, SourceError
from synth.settings import Settings
from synth.sources import open_source
from synth.sources.options import FolderOptions
from synth.sources.paste import PasteOptions
from synth.sources.rendered import LICENCE

RED, BLUE, GREEN = (230, 20, 20), (20, 40, 230), (30, 200, 40)
OUTLINES = {
    "kite": (RED, [(60, 20), (100, 60), (60, 110), (20, 60)]),
    "flag": (BLUE, [(20, 30), (110, 40), (100, 90), (25, 100)]),
}
STILL = {"light": 0.0, "blur": 0.0, "camera": 0.0, "turn": 0.0, "mirror": False}


def coco_folder(root, *, masks: bool = True, pictures: int = 12):
    """A COCO folder of one thing a picture, on green: a kite or a flag with its polygon."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for k in range(pictures):
        number, (colour, outline) = k % 2 + 1, list(OUTLINES.values())[k % 2]
        picture = Image.new("RGB", (140, 130), GREEN)
        ImageDraw.Draw(picture).polygon(outline, fill=colour)
        picture.save(root / "images" / f"{k:03}.png")
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        flat = [[v for point in outline for v in point]]
        entry = {"id": k, "image_id": k, "category_id": number, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        annotations.append({**entry, "segmentation": flat} if masks else entry)
        images.append({"id": k, "file_name": f"{k:03}.png", "width": 140, "height": 130})
    names = [{"id": n, "name": name} for n, name in enumerate(OUTLINES, 1)]
    content = {"images": images, "annotations": annotations, "categories": names}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def opened(folder, work, split="train", **options):
    settings = Settings(
        source="paste", split=split, folder=FolderOptions(path=str(folder)), paste=PasteOptions(**options)
    )
    return open_source(settings, work)


def pixels(scene) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(scene.image_bytes()[0])).convert("RGB"), np.int32)


def like(shown: np.ndarray, colour) -> np.ndarray:
    """Where the picture is nearer to this colour's hue than noise and light could make it."""
    strongest = int(np.argmax(colour))
    others = [shown[..., k] for k in range(3) if k != strongest]
    return shown[..., strongest] - np.maximum(*others) > 60


@pytest.mark.parametrize("change", [STILL, {}, {"camera": 0.4, "light": 0.1, "turn": 180.0}])
def test_masks_and_boxes_are_those_of_the_pixels(tmp_path, change):
    grounds = tmp_path / "grounds"
    grounds.mkdir()
    Image.new("RGB", (400, 300), (128, 128, 128)).save(grounds / "grey.png")
    source = opened(coco_folder(tmp_path / "coco"), tmp_path / "work", grounds=str(grounds), **change)
    checked = 0
    for index in range(12):
        scene = source.scene(index, "train", 0)
        shown = pixels(scene)
        for name, (colour, _) in OUTLINES.items():
            of_name = [o for o in scene.objects if o.name == name]
            if not of_name or not scene.objects:
                continue
            seen, told = like(shown, colour), np.any([o.mask for o in of_name], axis=0)
            if len(scene.objects) == source._options.objects[1]:  # nothing was left out as a crumb
                assert (seen & told).sum() / (seen | told).sum() > 0.85
            for o in of_name:
                checked += 1
                inside = (seen & o.mask).sum() / o.mask.sum()
                assert inside > 0.8, (index, name)
                rows, columns = np.flatnonzero(o.mask.any(1)), np.flatnonzero(o.mask.any(0))
                assert o.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert checked > 15


def test_the_same_index_gives_the_same_picture_and_splits_share_no_cut_out(tmp_path):
    folder = coco_folder(tmp_path / "coco", pictures=40)
    train, again = opened(folder, tmp_path / "a"), opened(folder, tmp_path / "b")
    later = train.scene(7, "train", 3)
    assert again.scene(7, "train", 3).image_bytes() == later.image_bytes()
    assert train.scene(8, "train", 3).image_bytes() != later.image_bytes()
    val = opened(folder, tmp_path / "c", split="val")
    files = [{s._inner.scene(k, "", 0).file for k in range(len(s._inner))} for s in (train, val)]
    assert files[0] and files[1] and not files[0] & files[1]


def test_boxes_alone_cannot_be_cut_out(tmp_path):
    with pytest.raises(SourceError, match="cut out"):
        opened(coco_folder(tmp_path / "coco", masks=False), tmp_path / "work")


@pytest.mark.parametrize("wrong", [{"objects": [3, 2]}, {"scale": [0.0, 0.5]}, {"camera": 0.6}, {"of": "paste"}])
def test_values_that_make_no_picture_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(SettingsError, match=f"paste.{next(iter(wrong))}"):
        opened(coco_folder(tmp_path / "coco"), tmp_path / "work", **wrong)


def test_a_composed_picture_has_the_licences_of_its_ground_too(tmp_path):
    folder, grounds = coco_folder(tmp_path / "coco"), tmp_path / "grounds"
    grounds.mkdir()
    Image.new("RGB", (400, 300), (128, 128, 128)).save(grounds / "grey.png")
    for stated, told in ((None, "unknown"), ("CC0", "CC0; unknown")):
        source = opened(folder, tmp_path / "work", grounds=str(grounds), grounds_licence=stated)
        assert {source.scene(k, "train", 0).licence for k in range(4)} == {told}
    drawn = opened(folder, tmp_path / "work")
    scenes = [drawn.scene(k, "train", 0) for k in range(12)]
    assert {s.licence for s in scenes if s.background in ("plain", "noise")} == {"unknown"}
    assert {s.licence for s in scenes if s.background not in ("plain", "noise")} == {f"{LICENCE}; unknown"}
    with pytest.raises(SettingsError, match="paste.grounds_licence"):  # of grounds that nobody named
        opened(folder, tmp_path / "work", grounds_licence="CC0")


def test_what_a_ground_or_a_crumb_may_show_as_well_is_not_taken_for_all_there_is(tmp_path):
    folder, grounds = coco_folder(tmp_path / "coco"), tmp_path / "grounds"
    grounds.mkdir()
    Image.new("RGB", (400, 300), (128, 128, 128)).save(grounds / "grey.png")
    foreign = opened(folder, tmp_path / "work", grounds=str(grounds))
    assert not any(foreign.scene(k, "train", 0).exhaustive for k in range(8))  # a kite may be in the photograph too
    drawn = opened(folder, tmp_path / "work", camera=0.4, objects=[4, 6])
    scenes = [drawn.scene(k, "train", 0) for k in range(60)]
    assert any(s.exhaustive for s in scenes) and not any(s.complete and not s.exhaustive for s in scenes)
    assert any(not s.exhaustive for s in scenes)  # half a kite at the edge, and a whole one beside it
    bare = [s for s in scenes if s.background in ("plain", "noise")]
    assert any(set(s.vocabulary) == {"kite", "flag"} != {o.name for o in s.objects} for s in bare)
    assert any(set(s.vocabulary) != {"kite", "flag"} for s in bare)  # half a kite alone: neither there nor not there


def test_names_that_a_cut_outs_own_picture_does_not_settle_are_not_called_absent(tmp_path):
    """LVIS says picture by picture what is absent: a kite may well be a toy."""
    folder = coco_folder(tmp_path / "coco")
    content = json.loads((folder / "instances.json").read_text())
    content["categories"] += [{"id": 3, "name": "toy"}, {"id": 4, "name": "cow"}]
    for image in content["images"]:
        image |= {"neg_category_ids": [4], "not_exhaustive_category_ids": []}
    (folder / "instances.json").unlink()
    (folder / "lvis_v1_train.json").write_text(json.dumps(content))
    settings = Settings(source="paste", folder=FolderOptions(path=str(folder)), paste=PasteOptions(of="lvis", **STILL))
    source = open_source(settings, tmp_path / "work")
    told = set().union(*(source.scene(k, "train", 0).vocabulary for k in range(20)))
    assert told == {"kite", "flag", "cow"}


def test_a_few_pictures_become_a_data_set_whose_records_pass(tmp_path):
    folder = coco_folder(tmp_path / "coco")
    settings = Settings(
        source="paste", size=6, out=str(tmp_path / "data"), folder=FolderOptions(path=str(folder)), task="grounding"
    )
    manifest = synth.make(settings)
    assert manifest["counts"]["train"]["find_all"] >= 6
    assert manifest["quarantined"]["train"] == {}
    with pytest.raises(OutputExistsError, match="source_options"):
        synth.make(replace(settings, paste=PasteOptions(objects=[1, 1])))
