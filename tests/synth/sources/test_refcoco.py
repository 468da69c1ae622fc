"""RefCOCO folders: sentences become regions of their object, and a hostile pickle does nothing."""

import os
import pickle

import pytest

from synth.errors import SettingsError, SourceError
from synth.sources.plain_pickle import load
from tests.synth.sources.made import box, draw, dump, image
from tests.synth.sources.opened import faults, listed, opened, scenes


def ref(number, image, annotation, split, *sentences):
    said = [{"tokens": s.split(), "raw": s, "sent_id": 9, "sent": s.lower()} for s in sentences]
    return {
        "sent_ids": [9], "file_name": f"COCO_train2014_{image:012d}_{number}.jpg", "ann_id": annotation,
        "ref_id": number, "image_id": image, "split": split, "sentences": said, "category_id": 1,
    }  # fmt: skip


REFS = [
    ref(0, 1, 11, "train", "Left man", "guy in red"),
    ref(1, 1, 12, "train", "right man"),
    ref(2, 2, 21, "testA", "the dog é"),
    ref(3, 2, 99, "testA", "nobody"),
    ref(4, 77, 1, "val", "nowhere"),
    {"ref_id": 5},
]


@pytest.fixture
def folder(tmp_path):
    names = {k: f"COCO_train2014_{k:012d}.jpg" for k in (1, 2)}
    draw(*(tmp_path / "train2014" / name for name in names.values()))
    content = {
        "images": [image(k, name) for k, name in names.items()],
        "annotations": [box(11, 1, 1, [0, 0, 10, 20]), box(12, 1, 1, [30, 0, 10, 20]), box(21, 2, 18, [5, 5, 9, 9])],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}], "licenses": [],
    }  # fmt: skip
    dump(tmp_path / "instances.json", content)
    return tmp_path


def write_as(folder, form):
    if form == "json":
        dump(folder / "refs(unc).json", REFS)
    else:
        (folder / "refs(unc).p").write_bytes(pickle.dumps(REFS, protocol=form))


@pytest.mark.parametrize("form", [0, 1, 2, 3, 4, 5, "json"])
def test_sentences_mean_their_object_and_nothing_else(folder, form):
    write_as(folder, form)
    scene = scenes("auto", folder, "train")["COCO_train2014_000000000001.jpg"]
    assert scene.source == "refcoco"
    assert [(r.text, r.box, r.unique) for r in scene.regions] == [
        ("Left man", (0, 0, 10, 20), True), ("guy in red", (0, 0, 10, 20), True), ("right man", (30, 0, 40, 20), True),
    ]  # fmt: skip
    assert listed(scene) == [("person", (0, 0, 10, 20)), ("person", (30, 0, 40, 20))]
    (other,) = scenes("refcoco", folder, "testA").values()
    assert [r.text for r in other.regions] == ["the dog é"] and other.image_bytes()[1] == "jpg"
    assert faults("refcoco", folder) == [
        ("row without image_id, ann_id, split or sentences", f"refs(unc).{'json' if form == 'json' else 'p'}: 5"),
        ("sentence about an unknown object", "ref 3"),
        ("sentence about an unlisted picture", "ref 4"),
    ]
    with pytest.raises(SettingsError, match="testA, train, all"):
        opened("refcoco", folder, "testB")


def test_a_pickle_of_python_2_is_read(tmp_path):
    # cPickle.dumps([{'raw': 'caf\xe9', 'n': 3L, u'k': (1.5, None, True)}], 0) and the same with protocol 2
    old = b"(lp1\n(dp2\nS'raw'\np3\nS'caf\\xe9'\np4\nsS'n'\nL3L\nsVk\n(F1.5\nNI01\ntp5\nsa."
    (tmp_path / "old.p").write_bytes(old.replace(b"\\xe9", b"e"))
    assert load(tmp_path / "old.p") == [{"raw": "cafe", "n": 3, "k": (1.5, None, True)}]
    new = b"\x80\x02]q\x01}q\x02(U\x03rawq\x03U\x04caf\xe9q\x04U\x01n\x8a\x01\x03X\x01\0\0\0k"
    new += b"G?\xf8\0\0\0\0\0\0N\x88\x87q\x05ua."
    (tmp_path / "new.p").write_bytes(new)
    assert load(tmp_path / "new.p") == [{"raw": "café", "n": 3, "k": (1.5, None, True)}]


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_is_refused_and_nothing_runs(folder, protocol):
    marker = folder / "ran"
    hostile = [*REFS, {"raw": Hostile(os.mkdir, str(marker))}]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(hostile, protocol=protocol))
    with pytest.raises(SourceError, match="GLOBAL"):
        opened("refcoco", folder)
    assert not marker.exists()
    pickle.loads((folder / "refs(unc).p").read_bytes())  # the file is truly hostile
    assert marker.exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"\x80\x02", b"\x80\x02]", b"a.", b".", b"0.", b"h\x07.", b"(e.", b"\x80\x02e.", b"(u.", b"}]K\x01s.",
     b"]K\x01K\x02s.", b"\x80\x02\x85.", b"X\xff\xff\xff\xff.", b"K\x01a.", b"cos\nsystem\n.", b"\x80\x02\x82\x01.",
     b"Pid\n."],
)  # fmt: skip
def test_a_broken_pickle_raises_a_source_error(tmp_path, data):
    (tmp_path / "x.p").write_bytes(data)
    with pytest.raises(SourceError):
        load(tmp_path / "x.p")
