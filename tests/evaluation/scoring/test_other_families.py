"""Scorers on families that show pictures in other ways: three-axis positions, prompts seen whole, tiles of pictures."""

import pytest
import torch

from lynx_moe.data import SampleBuilder
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.families.dialects import PercentDialect
from tests.data.test_prefix_model import processor as paligemma_processor  # noqa: F401  (a fixture)
from tests.data.test_several import qwen_processor
from tests.evaluation.scoring.asking import ask, asks, picture
from tests.every_family import tiny
from tests.tiny import tiny_qwen2_5_vl

NAMES = ("embedding", "likelihood", "vqascore")


@pytest.fixture(params=["qwen", "paligemma"])
def family(request):
    if request.param == "qwen":
        return tiny_qwen2_5_vl()[0], qwen_processor()
    made = request.getfixturevalue("paligemma_processor")
    made.image_seq_length = made.image_processor.image_seq_length = 16
    return tiny("paligemma")[0], made


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_each_ask_the_score_it_has_alone(name, family):
    options = {"against_no": True} if name == "vqascore" else {}
    scorer = make_scorer(name, *family, batch_size=7, **options)
    alone = [scorer([each])[0] for each in asks()]
    assert scorer(asks()) == pytest.approx(alone, abs=1e-5) and len(set(alone)) > 5 and not scorer.faults


@torch.no_grad()
def test_likelihood_is_minus_the_models_own_loss(family):
    model, processor = family
    builder = SampleBuilder(processor, PercentDialect())
    scorer = make_scorer("likelihood", model, processor)
    record = scorer._record("Describe the image.", "a red dog", picture(0).size)
    sample = builder.sample(builder.tokens([record])[0], record.sizes)
    inputs = {name: value[None] for name, value in sample.items() if name not in ("is_grounding",)}
    loss = model(**inputs, **builder.pixels(picture(0))).loss.item()
    assert scorer([ask(0, "a red dog")]) == [pytest.approx(-loss, abs=1e-5)]
