"""What the published rules do exactly at a threshold, and their levels of chance."""

import numpy as np
import pytest

from lynx_moe.evaluation.metrics.segmentation import precision_at
from lynx_moe.evaluation.protocols import PROTOCOLS, Item, Reply
from lynx_moe.evaluation.protocols.mmvp import capitals
from lynx_moe.evaluation.protocols.vsr import GROUP_OF


def test_a_probability_of_exactly_one_half_is_a_yes(tmp_path):
    item = Item(id="0", asks=(), truth={"images": ["a"], "label": 1, "relation": "on", "split": "test"})
    vsr = PROTOCOLS.get("vsr")(folder=tmp_path)
    assert vsr.judge(item, [Reply(score=0.5)]).right is True
    assert vsr.judge(item, [Reply(score=np.nextafter(0.5, 0))]).right is False


def test_an_overlap_of_exactly_the_threshold_is_a_hit():
    assert precision_at([50, 49], [100, 100], 0.5) == 0.5


@pytest.mark.parametrize(
    ("name", "chance"),
    [("winoground", {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}), ("svo_probes", {"accuracy": 1 / 2}),
     ("valse", {"accuracy": 1 / 2}), ("vsr", {"accuracy": 1 / 2}),
     ("whatsup_a", {"individual": 1 / 2, "pair": 1 / 4, "set": 1 / 16})],
)  # fmt: skip
def test_levels_of_chance_are_those_of_the_papers(name, chance, tmp_path):
    found = PROTOCOLS.get(name)(folder=tmp_path).summarise([])["chance"]
    assert {key: found[key] for key in chance} == pytest.approx(chance)


def test_among_counts_where_the_notebook_counts_it():
    assert GROUP_OF["among"] == "unallocated"


@pytest.mark.parametrize("said", ["a", "a.", "a)", "(a)", "Answer: a", "The answer is (a)."])
def test_letters_as_the_questions_spell_them_are_read(said):
    assert "A" in capitals(said)
