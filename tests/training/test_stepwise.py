"""Steps learned one by one, together, and by weight: the same gradients, and what a hand computation says."""

import pytest
import torch
from torch.nn import functional as F

from lynx_moe.adapter import set_gate
from lynx_moe.data import Collator, PackedDataset, SampleBuilder, SampleDataset, final_answer, load_records, target_text
from lynx_moe.data.prompts import step_texts
from lynx_moe.data.steps import Stepwise
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.generate import generate_answers
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.stepwise import step_weights
from lynx_moe.training import run
from lynx_moe.training.loss import forward_inputs
from tests.data.written import stepwise_folder
from tests.tiny import tiny_llava_with_processor
from tests.training.test_trainer import NO_PENALTY, awake, close, gradients, loss_of, trainer_of

NEXT, ALL = "Let's think of the next step.", "Let's think step-by-step."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stepwise_folder(tmp_path_factory.mktemp("stepwise"))


@pytest.fixture(scope="module")
def parts(folder):
    vlm, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor), mark_boxes=True, mark_steps=True)
    return vlm, builder, load_records(folder, "train"), Collator(processor)


@pytest.mark.parametrize("suffixes", [(NEXT,), (NEXT, ALL, NEXT)], ids=["same", "in_turn"])
def test_packed_and_faithful_give_the_same_gradients(parts, tmp_path, suffixes):
    vlm, builder, records, collate = parts
    faithful = SampleDataset(records, builder, stepwise=Stepwise("faithful", suffixes))
    packed = Stepwise("packed", suffixes)
    options = {"retention_kl": 0.7, "box_weight": 3.0, "step_weights": [0.5, 2.0], "answer_weight": 4.0}
    trainer = trainer_of(awake(vlm, **NO_PENALTY).eval(), tmp_path, collate, **options)
    expected = gradients(trainer, [collate([faithful[k] for k in range(len(faithful))])])
    assert max(value.abs().max() for value in expected.values()) > 1e-2
    # As micro-batches too: a sample's steps are then counted over the whole optimiser step.
    one_by_one = gradients(trainer, [collate([faithful[k]]) for k in range(len(faithful))])
    close(one_by_one, expected, rtol=1e-3, atol=1e-5)
    rows = SampleDataset(records, builder, stepwise=packed)
    sequence = PackedDataset(records, builder, max_tokens=400, packing="sequence", stepwise=packed)
    for dataset in (rows, PackedDataset(records, builder, stepwise=packed), sequence):
        batch = collate([dataset[k] for k in range(len(dataset))])
        close(gradients(trainer, [batch]), expected, rtol=1e-3, atol=1e-5)


def test_penalties_count_the_picture_of_every_faithful_row(parts, tmp_path):
    """Why the equality above is without penalties: they are means over tokens, and faithful rows repeat tokens."""
    vlm, builder, records, collate = parts
    trainer = trainer_of(awake(vlm, gate_sparsity=1.0, balance=0.0).eval(), tmp_path, collate)
    faithful, packed = (SampleDataset(records, builder, stepwise=Stepwise(mode)) for mode in ("faithful", "packed"))
    one, other = (gradients(trainer, [collate([each[0]])]) for each in (faithful, packed))
    assert max((one[name] - other[name]).abs().max() for name in one) > 1e-4


def test_weights_per_step_against_a_hand_computation(parts, tmp_path):
    """Token by token and without marks: steps are told by the words "Step", boxes by their brackets."""
    vlm, builder, records, collate = parts
    model = awake(vlm, **NO_PENALTY).eval()
    weights, answer, box = {1: 0.5, 2: 2.0, 3: 2.0}, 4.0, 3.0
    options = {"box_weight": box, "step_weights": [0.5, 2.0], "answer_weight": answer}
    trainer = trainer_of(model, tmp_path, collate, **options)
    dataset = SampleDataset(records, builder, stepwise=Stepwise("faithful"))
    total, mass = 0.0, 0.0
    for position in (0, 2, 4):
        whole = SampleDataset(records, builder, stepwise=Stepwise("packed"))[position]
        with torch.no_grad(), set_gate(model, True):
            logits = model(**forward_inputs(collate([whole]))).logits[0]
        ids = whole["input_ids"]
        words = builder.tokenizer.convert_ids_to_tokens(ids.tolist())
        begin = int((whole["labels"] == -100).sum())
        count = words[begin:].count("Step")
        number, inside = 0, False
        for k in range(begin, len(ids)):
            number += words[k + 1 : k + 2] == ["Step"]  # the space before it
            inside |= words[k] == "["
            weight = answer if number == count else weights[number]
            weight *= box if inside else 1.0
            inside &= words[k] != "]"
            total += weight * F.cross_entropy(logits[k - 1], ids[k]).item()
            mass += weight
    batch = collate([dataset[position] for position in (0, 2, 4)])
    assert loss_of(trainer, batch) == pytest.approx(total / mass, rel=1e-5)


def test_no_weights_weigh_one_and_the_last_goes_on():
    in_step = torch.tensor([[0, 1, 2, 5, -1]], dtype=torch.int8)
    assert step_weights(in_step, []).tolist() == [[1.0] * 5]
    assert step_weights(in_step, [], answer=2.0).tolist() == [[1.0, 1.0, 1.0, 1.0, 2.0]]
    assert step_weights(in_step, [3.0, 0.0], answer=2.0).tolist() == [[1.0, 3.0, 0.0, 0.0, 2.0]]


def test_a_run_learns_steps_from_its_settings(settings, folder):
    chosen = settings(max_steps=2, data={"folder": str(folder)})
    chosen.objective.stepwise, chosen.objective.step_weights = "faithful", [0.5]
    assert run(chosen)["train"]["steps"] == 2


@pytest.mark.parametrize(
    ("objective", "data", "said"),
    [
        ({"stepwise": "faithful"}, {"pack_tokens": 100}, "faithful with data.packing=picture"),
        ({"step_suffixes": []}, {}, "step_suffixes"),
        ({"step_weights": [1.0, -1.0]}, {}, "step_weights"),
        ({}, {"packing": "sequence"}, "pack_tokens is not set"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, objective, data, said):
    chosen = settings(max_steps=1, data=data)
    for name, value in objective.items():
        setattr(chosen.objective, name, value)
    with pytest.raises(ConfigError, match=said):
        run(chosen)


@pytest.mark.slow
def test_steps_learned_one_by_one_come_out_in_one_string(parts):
    """Here with one suffix for both: three records learned by heart say nothing about a suffix never seen."""
    vlm, processor = tiny_llava_with_processor()
    _, builder, records, collate = parts
    records = records.select([k for k, record in enumerate(records) if record.steps])
    dataset = SampleDataset(records, builder, stepwise=Stepwise("faithful", (ALL,)))
    batch = collate([dataset[k] for k in range(len(dataset))])
    with torch.no_grad():
        for parameter in vlm.model.language_model.parameters():
            if parameter.ndim > 1:
                parameter.div_(3)
    learns = [*vlm.model.language_model.parameters(), *vlm.lm_head.parameters()]
    optimiser = torch.optim.AdamW([parameter.requires_grad_(True) for parameter in learns], lr=1e-2)
    for _ in range(300):
        loss = vlm(**forward_inputs(batch), labels=batch["labels"]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if loss < 0.02:
            break
    answers = generate_answers(vlm, builder, list(records), progress=False, max_new_tokens=120)
    for answer, record in zip(answers, records, strict=True):
        expected = target_text(record, builder.dialect)
        assert answer.text == expected and len(step_texts(answer.text)) == len(record.steps)
        assert final_answer(answer.text) == final_answer(expected)
