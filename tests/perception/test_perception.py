"""The whole comparison on a tiny base: every method measured on the same held-out pictures, and a table of it."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText

from lynx_moe.cli import main
from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.perception.heads import CLASS, KINDS
from lynx_moe.perception.pairs import read_sets
from lynx_moe.perception.run import Comparison, batches_of
from lynx_moe.perception.tower import features, tower_of
from tests.perception.made import arranged, base
from tests.tiny import tiny_llava_with_processor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("perception")
    paths = {"base": base(folder / "base"), "data": arranged(folder / "data"), "out": str(folder / "out")}
    given = [part for name, path in paths.items() for part in (f"--{name}", path)]
    from lynx_moe.perception import run

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "MAKE", {})
        status = main(
            ["perception", *given, "--seeds", "0", "1", "--epochs", "1", "--json", str(folder / "found.json")]
        )
    return status, json.loads((folder / "found.json").read_text()), folder


def test_every_method_is_measured_and_learns_of_as_many_pairs(made):
    status, found, _ = made
    assert status == 0 and found["sets"]["train"] == 2 and found["sets"]["held_out"] >= 1
    rows = {row["method"]: row for row in found["rows"]}
    assert len(rows) == 3 + 2 * len([*KINDS, CLASS]) + 3, "a tower with a class token has its head, too"
    learning = [row for name, row in rows.items() if "base" not in name and "times" not in name]
    assert {row["pairs_seen"] for row in learning} == {8} and all(row["trained_parameters"] for row in learning)
    assert {len(row["seeds"]) for row in learning} == {2}
    for row in rows.values():
        assert all(0 <= value <= 1 for value in row["mean"].values())
        assert (row["spread"]["pair"] is None) == (len(row["seeds"]) == 1)


def test_the_table_has_a_line_for_each_and_ends_in_chance(made):
    _, found, folder = made
    lines = (folder / "out/perception.md").read_text().splitlines()
    assert len(lines) == 2 + len(found["rows"]) + 1 and lines[-1] == "| chance | | 50.0 | 25.0 | 6.2 | 25.0 | 25.0 |"
    assert json.loads((folder / "out/perception.json").read_text())["rows"] == found["rows"]


def test_batches_hold_whole_sets_each_once_an_epoch_and_the_same_for_all_methods():
    chosen = Comparison(sets=2)
    found = batches_of(5, chosen, 0, 2)
    assert found == batches_of(5, chosen, 0, 2) != batches_of(5, chosen, 1, 2)
    assert [len(batch) for batch in found] == [8, 8, 4] * 2
    assert sorted(place for batch in found[:3] for place in batch) == list(range(20))


def test_features_are_those_that_the_language_model_reads(made):
    model, processor = tiny_llava_with_processor()
    sets, _ = read_sets(load_records(made[2] / "data", "train", tasks=["side"]))
    images = [load() for load in sets[0].pictures]
    builder = SampleBuilder(processor, PercentDialect())
    patches, classes = features(model, builder, images)
    assert patches.shape == (4, 16, 32) and classes.shape == (4, 32)
    read = []
    hook = model.model.multi_modal_projector.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    pixels = torch.cat([builder.pixels(image)["pixel_values"] for image in images])
    with torch.no_grad():
        model.get_image_features(pixel_values=pixels)
    hook.remove()
    torch.testing.assert_close(read[0], patches)


def test_a_base_without_a_known_tower_is_refused_by_name(made):
    with pytest.raises(FamilyError, match="Linear has no vision tower"):
        tower_of(torch.nn.Linear(2, 2))
    assert tower_of(AutoModelForImageTextToText.from_pretrained(made[2] / "base"))
