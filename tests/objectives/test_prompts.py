"""Visual prompts: what stands in the text, what is added to which tokens of every family, and where nothing is."""

import copy
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.dataset import askable
from lynx_moe.data.packing import chain, pack
from lynx_moe.data.records import Record, Step
from lynx_moe.data.steps import Stepwise, step_tokens
from lynx_moe.errors import DialectError, FamilyError, RecordError
from lynx_moe.families.dialects import PercentDialect, get_dialect
from lynx_moe.families.last_states import decoder_of, width_of
from lynx_moe.families.picture_grid import GRIDS
from lynx_moe.grounding import Mask
from lynx_moe.objectives.prompts import PROMPTS, Prompts, PromptTargets, middle_of
from tests.families.test_picture_grid import FAMILIES, built
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor

SIZE = (32, 32)
NAME = "picture {n}"  # words that the tiny tokenizer knows
SETTINGS = {"weight": 1.0, "count": 4, "std": 0.5, "name": NAME, "box": 1.0, "point": 1.0, "mask": 1.0}


def maker(**more) -> PromptTargets:
    return Prompts.target_maker({**SETTINGS, **more})


@pytest.fixture(scope="module")
def processor():
    return tiny_llava_with_processor()[1]


@pytest.fixture(scope="module")
def builder(processor):
    return SampleBuilder(processor, get_dialect("percent", processor), mark_steps=True, targets=[maker()])


def record(**more) -> Record:
    plain = {
        "id": "r", "image_id": "a", "question": "What is at {box:0}?", "answer": "the red star", "kind": "grounding",
        "task": "name_region", "question_boxes": ((0.0, 0.0, 16.0, 8.0),), "size": SIZE,
        "load": lambda: Image.new("RGB", SIZE, (90, 40, 10)),
    }  # fmt: skip
    return Record(**{**plain, **more})


TWO = record(
    id="two", question="Is {box:0} left of {point:0}, or is {box:0}?", question_points=((30.0, 30.0),)
)  # fmt: skip


def mask_of(*box: int) -> Mask:
    pixels = np.zeros(SIZE[::-1], bool)
    pixels[box[1] : box[3], box[0] : box[2]] = True
    return Mask.of_array(pixels)


def sample(builder, chosen: Record) -> dict:
    return builder.sample(builder.tokens([chosen])[0], chosen.sizes)


def cells(builder, made: dict) -> np.ndarray:
    """(4, 4) the bits of the picture's tokens."""
    return made[PROMPTS][made["input_ids"] == builder.image_token_id].reshape(4, 4).numpy()


def named(builder, made: dict) -> list[tuple[str, int]]:
    at = ((made[PROMPTS] > 0) & (made["input_ids"] != builder.image_token_id)).nonzero().squeeze(1)
    return [(builder.tokenizer.decode(made["input_ids"][k]), made[PROMPTS][k].item()) for k in at]


# ---- words and targets ----


def test_places_of_a_question_are_names_and_those_of_its_answer_stay_boxes(builder):
    chosen = record(answer="the star is at {box:0}.", boxes=((0.0, 0.0, 16.0, 16.0),))
    text = builder.tokenizer.decode(sample(builder, chosen)["input_ids"])
    assert "What is at picture 1?" in text and "the star is at [0, 0, 50, 50]." in text


def test_a_prompts_bit_is_on_the_cells_that_it_covers_and_on_the_tokens_that_spell_its_name(builder):
    made = sample(builder, TWO)
    expected = np.zeros((4, 4), int)
    expected[0, :2], expected[3, 3] = 1, 2
    assert (cells(builder, made) == expected).all()
    name = [("picture", 1), (" ", 1), ("1", 1)]
    assert named(builder, made) == [*name, ("picture", 2), (" ", 2), ("2", 2), *name]


def test_bits_of_prompts_that_overlap_add_up(builder):
    both = record(
        question="Is {box:0} in {box:1}?", question_boxes=((0.0, 0.0, 8.0, 8.0), (0.0, 0.0, 16.0, 8.0))
    )  # fmt: skip
    assert cells(builder, sample(builder, both))[0].tolist() == [3, 2, 0, 0]


def test_answers_and_padding_bear_no_prompt(builder):
    made = sample(builder, TWO)
    assert not made[PROMPTS][made["labels"] != -100].any()
    batch = Collator(builder.processor, side="left")([made, sample(builder, record())])
    assert not batch[PROMPTS][batch["attention_mask"] == 0].any()


def test_a_region_with_a_mask_is_shown_by_each_form_as_often_as_its_weight_says_and_always_the_same_way():
    regions = [record(id=f"r{k}", question_masks=(mask_of(0, 0, 16, 8),)) for k in range(600)]
    drawn = Counter(shown.form for each in regions for shown in maker(box=1.0, point=2.0, mask=3.0).shown(each))
    assert all(abs(drawn[form] - 100 * share) < 50 for form, share in (("box", 1), ("point", 2), ("mask", 3)))
    assert all(maker().shown(each) == maker().shown(each) for each in regions[:20])
    assert {shown.form for each in regions for shown in maker(box=0.0, point=0.0).shown(each)} == {"mask"}
    assert {shown.form for shown in maker(box=0.0, point=0.0).shown(record())} == {"box"}, "it has no other"


def test_each_form_covers_what_it_shows(processor):
    chosen = record(question_boxes=((0.0, 0.0, 32.0, 8.0),), question_masks=(mask_of(16, 0, 32, 8),))
    for form, expected in (("box", [1, 1, 1, 1]), ("mask", [0, 0, 1, 1]), ("point", [0, 0, 1, 0])):
        only = {name: float(name == form) for name in ("box", "point", "mask")}
        builder = SampleBuilder(processor, PercentDialect(), targets=[maker(**only)])
        found = cells(builder, sample(builder, chosen))
        assert found[0].tolist() == expected and not found[1:].any(), form


def test_a_question_may_ask_for_the_mask_itself(builder):
    chosen = record(question="What is {mask:0}?", question_masks=(mask_of(0, 24, 32, 32),))
    assert cells(builder, sample(builder, chosen))[3].tolist() == [1, 1, 1, 1]


def test_an_empty_mask_is_shown_as_its_box(builder):
    for k in range(8):
        chosen = record(id=f"e{k}", question_masks=(mask_of(0, 0, 0, 0),))
        assert cells(builder, sample(builder, chosen))[0].tolist() == [1, 1, 0, 0]


def test_middle_of_a_mask_is_a_pixel_of_it():
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    x, y = middle_of(ring)
    assert ring[int(y), int(x)] and middle_of(np.zeros((3, 3), bool)) is None
    assert middle_of(np.ones((5, 7), bool)) == (3.5, 2.5)


def test_understanding_records_keep_their_places_in_text_and_records_without_any_are_left_as_they_are(builder):
    made = sample(builder, record(kind="understanding"))
    assert "[0, 0, 50, 25]" in builder.tokenizer.decode(made["input_ids"]) and not made[PROMPTS].any()
    plain = record(question="Find the {star}.", question_boxes=())
    assert builder.question(plain) == "Find the {star}." and not sample(builder, plain)[PROMPTS].any()


def test_prompts_of_a_prompt_alone_are_those_of_the_whole_sample(builder):
    alone = builder.prompts([TWO])[0]
    bits = builder.target_tensors(alone, TWO.sizes, builder.length(alone, TWO.sizes))[PROMPTS]
    assert torch.equal(bits, sample(builder, TWO)[PROMPTS][: len(bits)]) and bits.any()


@pytest.mark.parametrize("mode", ["faithful", "packed"])
def test_every_forward_of_a_stepwise_record_shows_its_prompts(builder, mode):
    steps = (Step("Find the cat at {box:0}.", ((1.0, 2.0, 9.0, 9.0),)), Step("Look."))
    rows = step_tokens(builder, record(steps=steps), Stepwise(mode, ("one by one", "by one")))
    assert len(rows) == (3 if mode == "faithful" else 2)
    for tokens in rows:
        made = builder.sample(tokens, [SIZE])
        assert cells(builder, made)[0].tolist() == [1, 1, 0, 0] and len(named(builder, made)) == 3


def test_records_that_follow_each_other_in_a_row_keep_their_own_prompts(builder):
    row = chain([pack([sample(builder, each)], 0) for each in (record(), TWO)])
    bits = row[PROMPTS][row["input_ids"] == builder.image_token_id].reshape(2, 16)
    assert bits[0].bincount().tolist() == [14, 2] and bits[1].bincount().tolist() == [13, 2, 1]


# ---- bad input ----


MANY = record(question=" ".join(f"{{box:{k}}}" for k in range(5)), question_boxes=((0.0, 0.0, 9.0, 9.0),) * 5)


def test_more_prompts_than_vectors_are_refused_and_not_asked(builder):
    with pytest.raises(RecordError, match="'r' shows 5 places") as caught:
        builder.tokens([MANY])
    assert "4 prompts" in caught.value.why and not askable(MANY, builder) and askable(TWO, builder)


UNSEEN = {
    "box": record(question_boxes=((40.0, 0.0, 50.0, 9.0),)),
    "box that is none": record(question_boxes=((9.0, 0.0, 3.0, 9.0),)),
    "point": record(question="What is {point:0}?", question_boxes=(), question_points=((33.0, 2.0),)),
    "placeholder without a box": record(question="What is {box:1}?"),
    "mask of another picture": record(
        question="What is {mask:0}?", question_masks=(Mask.of_array(np.ones((9, 9), bool)),)
    ),
    "mask that nobody knows": record(question="What is {mask:0}?", question_masks=(None,)),
}


@pytest.mark.parametrize("chosen", UNSEEN.values(), ids=UNSEEN)
def test_a_prompt_that_the_model_cannot_see_is_the_dialects_error(builder, chosen):
    with pytest.raises(DialectError):
        builder.tokens([chosen])


def test_a_template_that_changes_questions_is_refused(processor):
    processor = copy.copy(processor)
    processor.chat_template = CHAT_TEMPLATE.replace("part['text']", "part['text'].upper()")
    with pytest.raises(RecordError, match="not in the text"):
        SampleBuilder(processor, PercentDialect(), targets=[maker()]).tokens([record()])


def test_a_base_without_a_grid_is_refused_by_name(builder, monkeypatch):
    monkeypatch.delitem(GRIDS, "LlavaProcessor")
    with pytest.raises(FamilyError, match="LlavaProcessor"):
        maker().of_picture(builder.processor, (48, 48))


# ---- what is added ----


def head(width: int = 6, **more) -> Prompts:
    torch.manual_seed(0)
    return Prompts(width, **{**SETTINGS, **more})


def test_what_is_added_is_the_weighed_sum_of_the_vectors_of_a_tokens_prompts():
    prompts = head(weight=0.5)
    bits = torch.tensor([[0, 1, 2, 3], [8, 15, 0, 4]], dtype=torch.int32)
    vectors = prompts.vectors.weight
    for row, column in np.ndindex(2, 4):
        own = [vectors[n] for n in range(4) if bits[row, column].item() & 1 << n]
        expected = 0.5 * sum(own) if own else torch.zeros(6)
        torch.testing.assert_close(prompts.added(bits)[row, column], expected)
    assert vectors.std().item() == pytest.approx(0.5, rel=0.4) and not prompts.terms


class Entrance:
    """What the first decoder layer of a model was given, forward by forward."""

    def __init__(self, model):
        self.seen = []
        layers = next(m for m in decoder_of(model).children() if isinstance(m, torch.nn.ModuleList))
        self.hook = layers[0].register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, module, args, kwargs):
        self.seen.append((args[0] if args else kwargs["hidden_states"]).detach().clone())

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        self.hook.remove()


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
def test_in_every_family_what_goes_into_the_first_layer_is_changed_where_a_prompt_is_and_nowhere_else(make):
    model, processor = built(make)
    processor = copy.copy(processor)
    processor.chat_template = CHAT_TEMPLATE.replace("<image>", str(processor.image_token))
    processor.video_processor = SimpleNamespace(num_frames=1, fps=1)  # SmolVLM's template asks for it
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[maker()])
    chosen = record(size=(64, 64), question_boxes=((0.0, 0.0, 32.0, 64.0),), load=lambda: Image.new("RGB", (64, 64)))
    batch = Collator(processor)([builder(chosen)])
    inputs = {n: v for n, v in batch.items() if not n.startswith("target_") and n not in ("labels", "is_grounding")}
    prompts, bits = head(width_of(model)), batch[PROMPTS]
    with torch.no_grad(), Entrance(model) as seen:
        plain = model(**inputs).logits
        with prompts.around(decoder_of(model), batch):
            shown = model(**inputs).logits
        again = model(**inputs).logits
    before, after, last = seen
    marked = bits > 0
    # Left half of the picture at least, and the three tokens of the name.
    assert marked.sum() >= 3 + 2 and not marked.all()
    assert torch.equal(before[~marked], after[~marked]) and torch.equal(before, last)
    moved = (after - before)[marked]
    assert (moved.norm(dim=-1) > 0).all() and torch.equal(plain, again) and not torch.equal(plain, shown)
    # Some families scale embeddings behind this place: what was added is in one direction everywhere.
    direction = torch.nn.functional.cosine_similarity(moved, prompts.vectors.weight[:1].detach(), dim=-1)
    assert (direction > 0.999).all()


def test_a_decoder_that_is_given_no_embeddings_is_refused(builder):
    class Decoder(torch.nn.Module):
        def forward(self, input_ids=None, inputs_embeds=None):
            return input_ids

    decoder = Decoder()
    with pytest.raises(FamilyError, match="Decoder is not given"):
        with head().around(decoder, {PROMPTS: torch.ones(1, 3, dtype=torch.int32)}):
            decoder(input_ids=torch.ones(1, 3))
