"""The trained model as an encoder: what training read, and nothing else."""

import pytest
import torch
from PIL import Image

from lynx_moe import Embedder
from lynx_moe.adapter import set_gate
from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.records import Record
from lynx_moe.data.steps import step_tokens
from lynx_moe.errors import CheckpointError, RecordError
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.evaluation.scoring.embedding import Embedding
from lynx_moe.families.dialects import PercentDialect, get_dialect
from lynx_moe.families.last_states import last_states
from lynx_moe.objectives.contrast import ContrastTargets, embedded
from lynx_moe.training import run
from lynx_moe.training.loss import forward_inputs
from lynx_moe.training.objective_settings import ContrastSettings
from tests.evaluation.scoring.asking import ask, picture
from tests.tiny import tiny_llava_with_processor
from tests.training.conftest import base_folder, data_folder, made  # noqa: F401  (fixtures)
from tests.training.test_trainer import NO_PENALTY, awake

WORDING = "see: {question}"


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava_with_processor()


def test_it_reads_what_training_reads(tiny):
    model, processor = awake(tiny[0], **NO_PENALTY), tiny[1]
    image = picture(3)
    record = Record(id="r", question="what color?", answer="red dog", kind="understanding", task="", size=image.size,
                    load=lambda: image)  # fmt: skip
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[ContrastTargets(WORDING)])
    _, query, words = (builder.sample(tokens, record.sizes) for tokens in step_tokens(builder, record))
    batch = Collator(processor)([query | builder.pixels(image), words])
    with torch.no_grad(), set_gate(model, True), last_states(model.get_base_model()) as states:
        model.eval()(**forward_inputs(batch))
    expected = [embedded(states.value_BLD, batch, side)[0][0] for side in (1, 2)]
    found = Embedder(model, processor, wording=WORDING, gate=lambda: set_gate(model, True))
    torch.testing.assert_close(found(image, "what color?"), expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found("red dog"), expected[1], rtol=1e-4, atol=1e-5)
    shut = Embedder(model, processor, wording=WORDING, gate=lambda: set_gate(model, False))
    assert not torch.allclose(shut("red dog"), expected[1], atol=1e-3)


def test_company_changes_no_vector_and_each_is_of_length_one(tiny):
    embedder = Embedder(*tiny, wording=WORDING, batch_size=2)
    shown = ["red", (picture(0), "what?"), "a large red dog", picture(1), (picture(0), "what color is the dog?")]
    together = embedder.all(shown)
    assert torch.allclose(together.norm(dim=1), torch.ones(5))
    for each, vector in zip(shown, together, strict=True):
        torch.testing.assert_close(embedder.all([each])[0], vector, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[1], together[4], atol=1e-3), "the question is seen"
    with pytest.raises(RecordError, match="cannot be read alone"):
        embedder("<image>")


def test_a_wording_without_a_question_is_asked_of_a_picture_alone_too(tiny):
    embedder, other = Embedder(*tiny, wording="a large dog"), Embedder(*tiny, wording=WORDING)
    assert torch.equal(embedder(picture(0)), embedder(picture(0), "what color?"))
    assert not torch.allclose(embedder(picture(0)), other(picture(0)), atol=1e-3)


def test_the_scorer_of_a_trained_model_asks_as_training_did(tiny):
    options = Embedding.learned({"contrast": {"wording": WORDING}})
    scorer = make_scorer("embedding", *tiny, **options)
    embedder = Embedder(*tiny, wording=WORDING)
    expected = embedder(ask(0, "a red dog", "what is it?").load().convert("RGB"), "what is it?") @ embedder("a red dog")
    assert scorer([ask(0, "a red dog", "what is it?")]) == [pytest.approx(expected.item(), abs=1e-5)]
    assert WORDING in scorer.notes["training"] and Embedding.learned({}) == {}


def test_a_run_is_opened_as_the_encoder_that_it_was_trained_to_be(base_folder, data_folder, tmp_path):  # noqa: F811
    settings = made(base_folder, data_folder, max_steps=2, learning_rate=1e-1)
    settings.output_dir = str(tmp_path / "plain")
    run(settings)
    with pytest.raises(CheckpointError, match="was not trained as an encoder"):
        Embedder.from_pretrained(settings.output_dir)
    settings.objective.contrast = ContrastSettings(weight=1.0, wording=WORDING)
    settings.output_dir = str(tmp_path / "run")
    run(settings)
    image = Image.new("RGB", (32, 32), (200, 30, 30))
    of_run, of_adapter = (Embedder.from_pretrained(tmp_path / "run" / name) for name in ("", "adapter"))
    assert of_run.wording == WORDING and isinstance(of_run.builder.dialect, PercentDialect)
    assert torch.equal(of_run(image, "what?"), of_adapter(image, "what?"))
    with of_run.model.disable_adapter():
        assert not torch.allclose(of_run("red"), of_adapter("red"), atol=1e-4), "its experts speak"
