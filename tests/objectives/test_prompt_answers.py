"""Models that answer questions with visual prompts: batches, caches, gates, counting, and the Grounder."""

from functools import partial

import pytest
import torch
from PIL import Image

from lynx_moe.adapter import LynxConfig, set_gate
from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.errors import DialectError
from lynx_moe.evaluation import evaluate, generate_answers
from lynx_moe.evaluation.asking import UNASKABLE, UNSEEN, Asker
from lynx_moe.evaluation.protocols.base import Item, Write
from lynx_moe.families.dialects import get_dialect
from lynx_moe.families.last_states import decoder_of
from lynx_moe.grounding import Box
from lynx_moe.grounding.grounder import Grounder
from lynx_moe.objectives.attached import attach_objectives, heads_of
from lynx_moe.objectives.prompts import Prompts
from lynx_moe.training.method import attach_adapter
from tests.objectives.test_prompts import MANY, SETTINGS, SIZE, TWO, maker, mask_of, record
from tests.tiny import tiny_llava_with_processor


@pytest.fixture(scope="module")
def processor():
    return tiny_llava_with_processor()[1]


@pytest.fixture(autouse=True)
def few_words(monkeypatch):
    monkeypatch.setattr("lynx_moe.evaluation.generate_answers", partial(generate_answers, max_new_tokens=4))


@pytest.fixture(scope="module")
def prompted(processor):
    vlm = tiny_llava_with_processor()[0]
    vlm.generation_config.eos_token_id = None
    torch.manual_seed(1)
    model = attach_adapter(vlm, LynxConfig(layers="all", prompt_gate="on"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "down_EDF" in name:
                parameter.normal_(std=0.2)
    attach_objectives(model, {"prompts": SETTINGS | {"std": 2.0}})
    heads_of(model)["prompts"].requires_grad_(False)
    return model.eval()


def texts(model, processor, records, **how) -> list[str]:
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    made = generate_answers(model, builder, records, max_new_tokens=6, progress=False, **how)
    return [(each.ids) for each in made]


LEFT, RIGHT = record(id="left"), record(id="right", question_boxes=((16.0, 16.0, 32.0, 32.0),))
LONG = record(id="long", question="What color is the small thing at {box:0}, what color is it?")


def test_answers_depend_on_what_is_shown_and_not_on_who_shares_the_batch(prompted, processor):
    together = texts(prompted, processor, [LEFT, RIGHT, LONG, TWO])
    alone = [texts(prompted, processor, [each])[0] for each in (LEFT, RIGHT, LONG, TWO)]
    assert together == alone and len(set(together)) > 1


def test_prompts_enter_the_prompts_forward_alone(prompted, processor, monkeypatch):
    lengths = []
    added = Prompts.added
    monkeypatch.setattr(Prompts, "added", lambda self, bits: lengths.append(bits.shape[1]) or added(self, bits))
    texts(prompted, processor, [LEFT])
    assert len(lengths) == 1


def test_without_a_cache_the_prompt_is_shown_again_with_every_token(prompted, processor):
    cached = texts(prompted, processor, [LEFT, RIGHT])
    prompted.generation_config.use_cache = False
    try:
        assert texts(prompted, processor, [LEFT, RIGHT]) == cached
    finally:
        prompted.generation_config.use_cache = True


def test_with_the_adapter_off_the_base_is_asked_in_its_own_words_and_answers_bit_for_bit(prompted, processor):
    base, _ = tiny_llava_with_processor()
    base.generation_config.eos_token_id = None
    with prompted.disable_adapter():
        assert texts(prompted, processor, [LEFT, RIGHT]) == texts(base, processor, [LEFT, RIGHT])


def test_a_shut_row_has_the_bases_own_logits_beside_an_open_one_that_has_not(prompted, processor):
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[maker()])
    batch = Collator(processor)([builder(LEFT), builder(RIGHT)])
    inputs = {n: v for n, v in batch.items() if n in ("input_ids", "attention_mask", "pixel_values")}
    prompts = heads_of(prompted)["prompts"]
    with torch.no_grad(), prompts.around(decoder_of(prompted.get_base_model()), batch):
        with prompted.disable_adapter():
            off = prompted(**inputs).logits
        with set_gate(prompted, torch.tensor([False, True])):
            mixed = prompted(**inputs).logits
        with set_gate(prompted, False):
            shut = prompted(**inputs).logits
    base = tiny_llava_with_processor()[0]
    with torch.no_grad():
        expected = base(**inputs).logits
    assert torch.equal(off, expected) and torch.equal(shut, expected)
    assert torch.equal(mixed[0], expected[0]) and not torch.equal(mixed[1], expected[1])


def test_right_answers_are_counted_by_task_and_by_form(prompted, processor):
    with_mask = [record(id=f"m{k}", question_masks=(mask_of(0, 0, 16, 8),)) for k in range(30)]
    point = record(
        id="p", task="name_point", question="What is at {point:0}?", question_boxes=(), question_points=((3.0, 3.0),)
    )  # fmt: skip
    dialect = get_dialect("percent", processor)
    found = evaluate(prompted, processor, [*with_mask, point, MANY], dialect, max_new_tokens=2, progress=False)
    words = found["grounding"]["in_words"]
    assert found["n"] == 31, "what cannot be asked is left out"
    assert {name: each["n"] for name, each in words["by_task"].items()} == {"name_region": 30, "name_point": 1}
    assert words["by_form"].keys() == {"box", "mask", "point"} and sum(e["n"] for e in words["by_form"].values()) == 31
    assert [s["shown"] for s in found["samples"] if s["id"] == "p"] == [["point"]]
    with prompted.disable_adapter():
        base = evaluate(prompted, processor, [*with_mask, point, MANY], dialect, max_new_tokens=2, progress=False)
    assert base["n"] == 32 and base["grounding"]["in_words"]["by_form"] == {}


def test_a_mask_in_a_question_is_asked_by_prompts_and_left_out_for_the_base(prompted, processor):
    chosen = record(id="m", question="What is {mask:0}?", question_masks=(mask_of(0, 0, 16, 8),))
    dialect = get_dialect("percent", processor)
    found = evaluate(prompted, processor, [chosen, LEFT], dialect, max_new_tokens=2, progress=False)
    assert found["n"] == 2 and found["samples"][0]["shown"] == ["mask"]
    with prompted.disable_adapter():
        assert evaluate(prompted, processor, [chosen, LEFT], dialect, max_new_tokens=2, progress=False)["n"] == 1


def test_what_cannot_be_asked_is_told_from_what_cannot_be_seen(prompted, processor):
    asker = Asker(prompted, processor, get_dialect("percent", processor))
    outside = record(id="out", question_boxes=((40.0, 40.0, 50.0, 50.0),))
    items = [Item(id=each.id, asks=(Write(record=each),), truth={}) for each in (MANY, outside)]
    assert asker(items, 2)[1] == {UNASKABLE: 1, UNSEEN: 1}


def test_grounder_shows_regions_of_every_kind(prompted, processor, monkeypatch):
    bits, added = [], Prompts.added
    monkeypatch.setattr(Prompts, "added", lambda self, bits_BL: bits.append(bits_BL[0]) or added(self, bits_BL))
    grounder, image = Grounder(prompted, processor), Image.new("RGB", SIZE, (90, 40, 10))
    regions = [Box(0, 0, 16, 8), (2.0, 2.0), mask_of(0, 24, 32, 32)]
    for region in regions:
        grounder.ask(image, "What is at {region:0}?", regions=[region])
    grounder.ask(image, "Is {region:2} left of {region:1}?", regions=regions)
    first = (bits[0] > 0).nonzero()[0].item()
    shown = [row[first : first + 16].tolist() for row in bits]
    assert shown[0] == [1, 1] + [0] * 14 and shown[1] == [1] + [0] * 15 and shown[2] == [0] * 12 + [1] * 4
    assert shown[3] == [2] + [0] * 11 + [1] * 4


BAD_REGIONS = {
    "outside": ([Box(40, 40, 50, 50)], DialectError, "visible"),
    "named and not given": ([], DialectError, "region:0"),
    "an empty mask": ([mask_of(0, 0, 0, 0)], DialectError, "without a pixel"),
}


@pytest.mark.parametrize(("regions", "kind", "says"), BAD_REGIONS.values(), ids=BAD_REGIONS)
def test_grounder_refuses_regions_that_cannot_be_shown(prompted, processor, regions, kind, says):
    with pytest.raises(kind, match=says):
        Grounder(prompted, processor).ask(Image.new("RGB", SIZE), "What is at {region:0}?", regions=regions)


def test_a_base_without_prompts_is_told_boxes_and_points_in_text_and_cannot_be_shown_a_mask():
    vlm, processor = tiny_llava_with_processor()
    grounder, image = Grounder(vlm, processor), Image.new("RGB", SIZE)
    told = grounder.ask(image, "What is at [0, 0, 50, 25]?")[0]
    assert grounder.ask(image, "What is at {region:0}?", regions=[Box(0, 0, 16, 8)])[0] == told
    with pytest.raises(DialectError):
        grounder.ask(image, "What is at {region:0}?", regions=[mask_of(0, 0, 9, 9)])
