"""Every grounding protocol through the whole run: asked of a real tiny model, summed up, compared, again from rows."""

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from lynx_moe.evaluation.page import page
from lynx_moe.evaluation.protocol_run import Job, Opened, Stage, done_again, results_of, run_protocols
from lynx_moe.evaluation.robustness import GONE, PLACELESS, SEVERAL, Changed
from tests.evaluation.asked import tiny_asker
from tests.evaluation.protocols.made import WRITERS, made, rows

MOVABLE = ("refcoco", "grefcoco", "pin", "flickr30k_entities", "coco_detection", "voc_detection")
ABOUT = {"model": "m", "against": "b", "gate": "auto", "dialect": "llava", "scorer": None}


@pytest.fixture(scope="module")
def asker():
    return tiny_asker(max_new_tokens=4, batch_size=8)


def stage(side, protocol, asker, *more):
    return Stage(side, [Job("p", protocol), *more], lambda: nullcontext(Opened(asker, {"weights": side})))


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_protocol_is_run_compared_shown_and_made_again(name, tmp_path, asker):
    protocol, out = made(name, tmp_path / "data"), tmp_path / "out"
    stages = [stage(side, protocol, asker) for side in ("before", "after")]
    done = run_protocols(out, stages, settings={}, progress=False)
    # A second model that knows the truth: the tiny one knows nothing.
    by_id = {row.id: row for row in rows(made(name, tmp_path / "again"))}
    for key, group in done.rows.items():
        if key.side == "after":
            done.rows[key] = [replace(by_id[row.id], picture=row.picture) for row in group]
    content = results_of(done)
    (change,) = content["changes"]
    before, after = content["results"]
    assert (change["before"], change["after"]) == (before["value"], after["value"])
    assert change["n"] == before["n"] == after["n"] > 0 and change["unpaired"] == 0
    if after["value"] is not None and len({row.picture for row in by_id.values()}) > 1:
        low, high = after["interval"]
        assert low <= high and after["interval_by"]
    assert page(ABOUT | content | {"curves": []}, done, {}).count(b"data:image/jpeg") >= 1
    json.dumps(content, allow_nan=False)


@pytest.mark.parametrize("name", list(WRITERS))
def test_numbers_come_again_from_disk(name, tmp_path, asker):
    out = tmp_path / "out"
    protocol = made(name, tmp_path / "data")
    content = results_of(run_protocols(out, [stage("after", protocol, asker)], settings={}, progress=False))
    (out / "results.json").write_text(json.dumps(ABOUT | content))
    again = results_of(done_again(out)[0])
    assert [r["value"] for r in again["results"]] == [r["value"] for r in content["results"]]
    assert again["results"][0]["interval"] == content["results"][0]["interval"]


@pytest.mark.parametrize("name", list(WRITERS))
def test_places_move_or_the_protocol_is_refused(name, tmp_path):
    protocol = made(name, tmp_path)
    if name not in MOVABLE and not protocol.boxes_in:
        with pytest.raises(Exception, match="boxes_in"):
            Changed(protocol, "crop", 1)
        return
    plain = {item.id: item for item in protocol.items()}
    changed = Changed(protocol, "crop", 1)
    items = list(changed.items())
    lost = {kind: changed.faults[kind] for kind in (GONE, PLACELESS, SEVERAL)}
    assert len(items) + sum(lost.values()) == len(plain) and items
    for item in items:
        assert item.truth != plain[item.id].truth and item.asks[0].record.image().size == item.asks[0].record.size
