"""Masks while answering: those of a forward over the whole answer, and nothing where none is spoken of."""

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from lynx_moe import LynxConfig
from lynx_moe.data import Collator, Record, SampleBuilder
from lynx_moe.data.records import Picture, Step
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation import Answered, evaluate, generate_answers, score
from lynx_moe.evaluation.masks import outlined
from lynx_moe.evaluation.protocols.base import Reply
from lynx_moe.evaluation.protocols.reply_mask import reply_mask
from lynx_moe.families.dialects import Parsed, get_dialect
from lynx_moe.families.last_states import last_states
from lynx_moe.families.picture_grid import picture_grid
from lynx_moe.grounding import Mask
from lynx_moe.grounding.grounder import Grounder
from lynx_moe.grounding.mask_cells import from_cells
from lynx_moe.objectives.attached import attach_objectives
from lynx_moe.objectives.base import at_items
from lynx_moe.objectives.grids import Grids
from lynx_moe.objectives.masks import MASK, MaskTargets
from tests.families.test_picture_grid import llava_next
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor

WORD = "[dog]"  # the tiny tokenizer cannot spell "[SEG]"
SIZES = [(48, 32), (32, 40), (64, 64)]
HEAD = {"weight": 1.0, "bce": 2.0, "dice": 0.5, "channels": 8, "blocks": 1, "word": "[dog]"}


def picture(size, seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8))


def rectangle(size, x1, y1, x2, y2) -> Mask:
    array = np.zeros(size[::-1], bool)
    array[y1:y2, x1:x2] = True
    return Mask.of_array(array)


def record(number=0, answer="it is {mask:0}.", **more) -> Record:
    size = SIZES[number % len(SIZES)]
    count = answer.count("{mask:")
    return Record(
        **{
            "id": f"r{number}", "question": "Find the red star." + " the" * number, "answer": answer,
            "kind": "grounding", "task": "segment_one", "size": size, "load": lambda: picture(size, number),
            "boxes": ((2.0, 3.0, 20.0, 30.0),) * count, "masks": (rectangle(size, 2, 3, 20, 30),) * count, **more,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    return headed(*tiny_llava_with_processor())


@pytest.fixture(scope="module")
def tiled_parts():
    vlm, processor = llava_next()
    processor.chat_template = CHAT_TEMPLATE
    return headed(vlm, processor, seed=4, tiles=True)


def headed(vlm, processor, seed=0, **more):
    model = get_peft_model(vlm, LynxConfig(prompt_gate="on", expert_width=8)).eval()
    attach_objectives(model, {"masks": HEAD | more}, seed)
    head = model.base_model.lynx_heads["masks"]
    with torch.no_grad():  # a fresh head says nothing clearly
        head.query[2].weight.mul_(30)
    return model, SampleBuilder(processor, get_dialect("percent", processor, "[dog]"))


class Forced(LogitsProcessor):
    """Row k of a batch writes `texts[k]`, then ends."""

    def __init__(self, rows, prompt, end):
        self.rows, self.prompt, self.end = rows, prompt, end

    def __call__(self, input_ids, scores):
        at = input_ids.shape[1] - self.prompt
        forced = torch.full_like(scores, -torch.inf)
        for row, ids in enumerate(self.rows):
            forced[row, ids[at] if at < len(ids) else self.end] = 0
        return forced


def answers(parts, monkeypatch, records, texts, **how):
    model, builder = parts
    # The template puts a space before answers.
    ids = {
        r.question: builder.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        for r, text in zip(records, texts, strict=True)
    }
    plain = type(model.get_base_model()).generate.__get__(model.get_base_model())

    def forced(input_ids, **more):
        prompts = builder.tokenizer.batch_decode(input_ids, skip_special_tokens=True)
        # The longest question that is in it: others are parts of it.
        rows = [ids[max((q for q in ids if q in prompt), key=len, default=next(iter(ids)))] for prompt in prompts]
        processor = Forced(rows, input_ids.shape[1], builder.tokenizer.eos_token_id)
        return plain(input_ids=input_ids, **{**more, "logits_processor": LogitsProcessorList([processor])})

    monkeypatch.setattr(model.get_base_model(), "generate", forced)
    return generate_answers(
        model, builder, records, progress=False, max_new_tokens=how.pop("max_new_tokens", 40), **how
    )


def whole(parts, chosen) -> list[np.ndarray]:
    """The masks of the true answer's words, from one forward over all of it."""
    model, builder = parts
    head = model.base_model.lynx_heads["masks"]
    builder = builder.with_targets([head.target_maker(head.settings)])
    batch = Collator(builder.processor)([builder(chosen)])
    taken = ("input_ids", "attention_mask", "pixel_values", "image_sizes")
    with torch.no_grad(), last_states(model.get_base_model()) as seen:
        model(**{name: value for name, value in batch.items() if name in taken})
        states, grids = seen.over(batch["input_ids"]), Grids.of(batch, head.tiles)
        rows, places = (batch[MASK] > 0).nonzero(as_tuple=True)
        picture_M = grids.picture_BL[rows, places] - batch[MASK][rows, places].long() + 1
        logits, _ = head.logits(at_items(states, rows, places), states, grids, picture_M)
    sizes = [chosen.sizes[int(number)] for number in picture_M]
    windows = [picture_grid(builder.processor, size, head.tiles).window for size in sizes]
    found = zip(logits, windows, sizes, strict=True)
    return [from_cells(cells.sigmoid().numpy(), window, size) for cells, window, size in found]


def assert_same(masks, expected):
    assert len(masks) == len(expected)
    for mask, true in zip(masks, expected, strict=True):
        assert mask.size == true.shape[::-1] and (mask.array() != true).mean() < 0.002
        assert 0.02 < true.mean() < 0.98  # else anything would do


TEXTS = ["it is {mask:0}.", "{mask:0} {mask:1}", "no star .", "the star is on the left {mask:0}"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_masks_are_those_of_one_forward_over_the_whole_answer(parts, monkeypatch, batch_size):
    records = [record(k, text) for k, text in enumerate(TEXTS)]
    said = [text.replace("{mask:0}", "[dog]").replace("{mask:1}", "[dog]") for text in TEXTS]
    found = answers(parts, monkeypatch, records, said, batch_size=batch_size)
    assert [answer.text for answer in found] == said
    for answer, each in zip(found, records, strict=True):
        assert_same(answer.masks, whole(parts, each) if each.masks else [])


def test_masks_of_all_tiles_are_those_of_one_forward_and_finer_than_the_overviews(tiled_parts, monkeypatch):
    (answer,) = answers(tiled_parts, monkeypatch, [tall := record(1)], ["it is [dog]."])
    assert_same(answer.masks, whole(tiled_parts, tall))
    processor = tiled_parts[1].processor
    cells = {tiles: MaskTargets(1, tiles).of_items(processor, [(tall.masks[0], tall.size)]) for tiles in (False, True)}
    overview, tiles = (cells[which]["target_mask_cells"].shape[1:] for which in (False, True))
    assert tiles[0] > overview[0] and tiles[1] >= overview[1]


def test_a_step_speaks_of_its_own_picture_and_the_answer_of_the_records(parts, monkeypatch):
    first, second = SIZES[0], SIZES[1]
    several = record(
        0, more=(Picture("b", second, lambda: picture(second, 5)),), picture=1, masks=(rectangle(second, 0, 0, 9, 9),),
        steps=(Step("Find {mask:0}.", ((2.0, 3.0, 20.0, 30.0),), masks=(rectangle(first, 1, 2, 9, 9),)),),
    )  # fmt: skip
    (answer,) = answers(parts, monkeypatch, [several], ["Step 1: Find [dog]. Step 2: it is [dog]."])
    assert [mask.size for mask in answer.masks] == [first, second]
    assert_same(answer.masks, whole(parts, several))
    read = Answered.read(several, answer.text, parts[1].dialect, answer.masks)
    assert read.masks == answer.masks[1:]


def test_a_word_at_the_very_end_has_its_state_unless_the_answer_was_cut_off_there(parts, monkeypatch):
    chosen = record(0, "it is {mask:0}")
    (ended,) = answers(parts, monkeypatch, [chosen], ["it is [dog]"])
    assert_same(ended.masks, whole(parts, chosen))
    length = len(parts[1].tokenizer(" it is [dog]", add_special_tokens=False)["input_ids"])
    (cut,) = answers(parts, monkeypatch, [chosen], ["it is [dog]"], max_new_tokens=length)
    assert cut.text == "it is [dog]" and cut.masks == (None,)
    result = score([chosen], [cut.text], parts[1].dialect, [cut.masks])
    assert result["masks"]["undrawn"] == 1 and result["masks"]["mean_iou"] == 0


def test_an_answer_without_the_word_never_reaches_the_head(parts, monkeypatch):
    head = parts[0].base_model.lynx_heads["masks"]
    monkeypatch.setattr(head, "drawn", None)
    assert answers(parts, monkeypatch, [record(0)], ["no star ."])[0].masks == ()


def test_the_grounder_draws_masks_in_the_pixels_it_was_given(parts, monkeypatch):
    model, builder = parts
    asked = record(0, question="Segment the red star.")
    answers(parts, monkeypatch, [asked], ["it is [dog]."])  # from here on the model says so
    grounder = Grounder(model, builder.processor)
    masks = grounder.masks(asked.image(), "the red star")
    assert_same(masks, whole(parts, asked))
    text, boxes = grounder.ask(asked.image(), "Segment the red star.")
    assert text == "it is [dog]." and not boxes
    plain = Grounder(model, builder.processor, get_dialect("percent", builder.processor))
    assert plain.masks(asked.image(), "the red star") == masks


def test_a_model_without_the_head_is_refused_by_the_grounder_and_counted_by_the_evaluation():
    vlm, processor = tiny_llava_with_processor()
    with pytest.raises(ConfigError, match="no head that draws masks"):
        Grounder(vlm, processor).masks(picture((32, 32)), "the star")
    dialect = get_dialect("percent", processor, "[dog]")
    result = score([record(0)], ["it is [dog]."], dialect)
    assert result["masks"]["undrawn"] == 1 and result["masks"]["no_mask"] == 1.0
    assert not result["grounding"]["errors"]


# ---- numbers ----


def answered(chosen, *masks) -> Answered:
    return Answered(chosen, "", Parsed(), 0, masks)


def test_iou_is_of_the_pairs_that_overlap_most_and_a_missing_mask_is_0():
    size = SIZES[0]
    true = (rectangle(size, 0, 0, 10, 10), rectangle(size, 20, 0, 30, 10), rectangle(size, 0, 20, 10, 30))
    chosen = record(0, "{mask:0} {mask:1} {mask:2}", masks=true)
    found = outlined(answered(chosen, rectangle(size, 20, 0, 30, 5), rectangle(size, 0, 0, 10, 10)))
    assert found.overlaps == pytest.approx((1.0, 0.5, 0.0))
    assert (found.shared, found.union) == (150, 300)


def test_numbers_of_masks_are_their_means_by_task_and_boxes_are_not_asked_for():
    size = SIZES[0]
    half, right = rectangle(size, 2, 3, 20, 30), rectangle(size, 2, 3, 11, 30)
    records = [record(0), record(0, task="segment_relation"), record(0, "no", boxes=(), masks=())]
    result = score(records, ["[dog]"] * 3, get_dialect("percent", tiny_llava_with_processor()[1], "[dog]"),
                   [(half,), (right,), (right,)])  # fmt: skip
    found = result["masks"]
    assert found["n"] == 2 and found["mean_iou"] == pytest.approx(0.75) and found["ciou"] == pytest.approx(0.75)
    assert found["by_task"]["segment_relation"]["mean_iou"] == pytest.approx(0.5)
    assert result["grounding"]["n"] == 0 and "wrong_count" not in result["grounding"]["errors"]
    assert [sample["right"] for sample in result["samples"][:2]] == [True, True]
    assert Mask.of_coco(result["samples"][1]["masks"][0]) == right


def test_an_extra_mask_costs_the_cumulative_iou_and_the_verdict():
    size = SIZES[0]
    both = answered(record(0), rectangle(size, 2, 3, 20, 30), rectangle(size, 20, 3, 38, 30))
    found = outlined(both)
    assert found.overlaps == (1.0,) and found.union == 2 * found.shared and found.found == 2


def test_protocols_take_all_masks_of_a_reply_together():
    size = SIZES[0]
    reply = Reply(masks=(rectangle(size, 0, 0, 4, 4), None, rectangle(size, 10, 10, 14, 14)))
    assert reply_mask(reply, size, from_box=False).sum() == 32


def test_an_evaluation_asks_and_draws(parts):
    result = evaluate(*parts_of(parts), [record(0)], parts[1].dialect, progress=False)
    assert result["masks"]["n"] == 1 and result["samples"][0]["true_masks"]


def parts_of(parts):
    return parts[0], parts[1].processor
