"""What holds for every scorer: the same ask gets the same score in any company, and the model is left as it was."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols import Score
from lynx_moe.evaluation.scoring import SCORERS, make_scorer
from tests.adapter.speaking import adapted
from tests.evaluation.scoring.asking import ask, asks
from tests.evaluation.scoring.tiny_clip import save_clip
from tests.tiny import tiny_llava_with_processor

NAMES = sorted(SCORERS)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def scorer_of(clip_folder):
    def make(name, model, processor, **options):
        if name == "clip":
            options = {"clip": clip_folder, "same_encoder": False, **options}
        if name == "vqascore":  # of a random model P("Yes") is so near 0 that no difference would show
            options = {"against_no": True, **options}
        return make_scorer(name, model, processor, **options)

    return make


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_each_ask_the_score_it_has_alone_in_any_order(name, scorer_of):
    model, processor = tiny_llava_with_processor()
    scorer = scorer_of(name, model, processor, batch_size=5)
    together = scorer(asks())
    alone = [scorer([each])[0] for each in asks()]
    backwards = scorer(asks()[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-5) and backwards == pytest.approx(alone, abs=1e-5)
    assert all(map(math.isfinite, together)) and len(set(map(float, together))) > 5


@pytest.mark.parametrize("name", NAMES)
def test_the_tokenizers_own_padding_side_changes_nothing(name, scorer_of):
    scores = []
    for side in ("left", "right"):
        model, processor = tiny_llava_with_processor()
        processor.tokenizer.padding_side = side
        scores.append(scorer_of(name, model, processor)(asks()))
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_in_its_mode_and_without_gradients(name, scorer_of):
    model, processor = tiny_llava_with_processor()
    model.model.language_model.train()
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.9  # would show in every score
    before = [module.training for module in model.modules()]
    quiet = scorer_of(name, model, processor)(asks()[:2])
    assert [module.training for module in model.modules()] == before and any(before)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    for layer in model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.0
    assert scorer_of(name, model, processor)(asks()[:2]) == quiet


@pytest.mark.parametrize("name", [n for n in NAMES if n != "clip"])
@pytest.mark.parametrize("kind", ["lynx", "lora"])
def test_a_model_with_an_adapter_is_scored_with_it_and_without_it_as_the_base(name, kind, scorer_of):
    base, processor = tiny_llava_with_processor()
    expected = scorer_of(name, base, processor)(asks())
    if kind == "lynx":
        model = adapted(base)
    else:
        model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)).eval()
    scorer = scorer_of(name, model, processor)
    assert scorer(asks()) != pytest.approx(expected, abs=1e-4)
    with model.disable_adapter():
        assert scorer(asks()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_that_cannot_be_read_is_nan_and_counted_and_the_rest_goes_on(name, scorer_of):
    def broken():
        raise RecordError("no picture", why="the file is cut", fix="copy it again")

    def gone():
        raise FileNotFoundError("x.jpg")

    bad = [Score(image_id=f"b{k}", load=load, text="a dog") for k, load in enumerate((broken, gone))]
    model, processor = tiny_llava_with_processor()
    scorer = scorer_of(name, model, processor)
    scores = scorer([bad[0], ask(0, "a dog"), bad[1]])
    assert math.isnan(scores[0]) and math.isnan(scores[2])
    assert scores[1] == pytest.approx(scorer([ask(0, "a dog")])[0], abs=1e-5)
    assert scorer.faults["unreadable picture"] == 2


@pytest.mark.parametrize("name", [n for n in NAMES if n != "clip"])
def test_a_text_with_the_picture_token_in_it_is_nan_and_counted(name, scorer_of):
    model, processor = tiny_llava_with_processor()
    scorer = scorer_of(name, model, processor)
    first, second = scorer([ask(0, "a <image> dog"), ask(0, "a {box:0} dog {text}")])
    assert math.isnan(first) and scorer.faults["text that this model cannot be shown"] >= 1
    assert math.isfinite(second) or name == "likelihood"


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_is_opened_once_and_the_same_ask_is_scored_once(name, scorer_of):
    opened = []

    def counted(each):
        return Score(
            image_id=each.image_id, text=each.text, question=each.question,
            load=lambda: opened.append(each.image_id) or each.load(),
        )  # fmt: skip

    model, processor = tiny_llava_with_processor()
    twice = [counted(each) for each in asks()] * 2
    scores = scorer_of(name, model, processor, batch_size=4)(twice)
    assert sorted(opened) == ["p0", "p1", "p2"] and scores[: len(asks())] == scores[len(asks()) :]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_asked_gives_nothing(name, scorer_of):
    assert scorer_of(name, *tiny_llava_with_processor())([]) == []


@pytest.mark.parametrize("name", NAMES)
def test_notes_are_plain_text_and_name_the_scorer(name, scorer_of):
    notes = scorer_of(name, *tiny_llava_with_processor()).notes
    assert notes["scorer"] == name and all(isinstance(value, str) for value in notes.values())


def test_an_unknown_scorer_or_option_names_the_nearest_and_a_needed_one_is_asked_for():
    model, processor = tiny_llava_with_processor()
    with pytest.raises(ConfigError, match="vqascore"):
        make_scorer("vqa_score", model, processor)
    with pytest.raises(ConfigError, match="batch_size"):
        make_scorer("vqascore", model, processor, batchsize=3)
    with pytest.raises(ConfigError, match="needs clip"):
        make_scorer("clip", model, processor)
    with pytest.raises(ConfigError, match="holds something"):
        make_scorer("vqascore", model, processor, batch_size=0)


def test_only_vqascore_gives_probabilities():
    assert [name for name in NAMES if SCORERS.get(name).is_probability] == ["vqascore"]


def test_scores_in_half_precision_are_near_those_in_full(scorer_of):
    model, processor = tiny_llava_with_processor()
    full = scorer_of("likelihood", model, processor)(asks())
    half = scorer_of("likelihood", model.to(torch.bfloat16), processor)(asks())
    assert half == pytest.approx(full, rel=0.05)
