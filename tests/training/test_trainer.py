"""The loss and its gradient against plain re-computations: micro-batches, checkpointing, dropped logits, scaling."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import TrainingArguments

from lynx_moe.adapter import LynxConfig, set_gate
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.data import Collator, SampleBuilder, SampleDataset, load_records
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training.loss import answer_kinds, rows_of
from lynx_moe.training.trainer import LynxTrainer
from tests.tiny import tiny_llava_with_processor

NO_PENALTY = {"gate_sparsity": 0.0, "balance": 0.0}


@pytest.fixture(scope="module")
def parts(data_folder):
    model, processor = tiny_llava_with_processor()
    builder = SampleBuilder(processor, get_dialect("percent", processor))
    records = load_records(data_folder, "train")
    return model, list(SampleDataset(records, builder)), Collator(processor)


def awake(vlm: nn.Module, **config) -> nn.Module:
    """The VLM with an adapter whose experts say something already, as after some training."""
    torch.manual_seed(3)
    model = attach_adapter(copy.deepcopy(vlm), LynxConfig(layers="all", **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "down_EDF" in name:
                parameter.normal_(std=0.2)
    return model


def trainer_of(model: nn.Module, tmp_path, collator, **rest) -> LynxTrainer:
    arguments = {name: rest.pop(name) for name in list(rest) if name in TrainingArguments.__dataclass_fields__}
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, remove_unused_columns=False, disable_tqdm=True, report_to=[],
        save_strategy="no", max_grad_norm=0.0, **arguments,
    )  # fmt: skip
    return LynxTrainer(model, args, data_collator=collator, progress=False, **rest)


def gradients(trainer: LynxTrainer, batches: list[dict]) -> dict[str, torch.Tensor]:
    """Of one optimiser step over `batches` as its micro-batches."""
    trainer.current_gradient_accumulation_steps = len(batches)
    trainer.model.zero_grad()
    counts = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    for batch in batches:
        trainer.training_step(trainer.model, dict(batch), counts)
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def loss_of(trainer: LynxTrainer, batch: dict) -> float:
    with torch.no_grad(), set_gate(trainer.model, True):
        return trainer.compute_loss(trainer.model, dict(batch)).item()


def close(one: dict, other: dict, **tolerance) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def test_grounding_loss_is_the_models_own_loss_on_the_same_labels(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm, **NO_PENALTY).eval()
    batch = collate([s for s in samples if s["is_grounding"].any()][:4])
    with torch.no_grad(), set_gate(model, True):
        own = model(**{k: v for k, v in batch.items() if k != "is_grounding"}).loss
    assert loss_of(trainer_of(model, tmp_path, collate), batch) == pytest.approx(own.item(), rel=1e-5)


def test_understanding_loss_is_the_divergence_from_the_bare_base_at_answer_tokens(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm, **NO_PENALTY).eval()
    batch = collate([s for s in samples if not s["is_grounding"].any()][:4])
    inputs = {k: v for k, v in batch.items() if k not in ("is_grounding", "labels")}
    with torch.no_grad():
        base = vlm(**inputs).logits[:, :-1].log_softmax(-1)
        with set_gate(model, True):
            adapted = model(**inputs).logits[:, :-1].log_softmax(-1)
    answers = batch["labels"][:, 1:] != -100
    expected = (base.exp() * (base - adapted)).sum(-1)[answers].mean()
    assert expected > 1e-3
    trainer = trainer_of(model, tmp_path, collate, retention_kl=0.7)
    assert loss_of(trainer, batch) == pytest.approx(0.7 * expected.item(), rel=1e-4)


def test_box_weight_makes_a_weighted_mean_also_over_micro_batches(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm, **NO_PENALTY).eval()
    torch.manual_seed(0)
    chosen = [s | {"in_box": torch.rand(len(s["input_ids"])) < 0.5} for s in samples if s["is_grounding"].any()][:4]
    batch = collate(chosen)
    with torch.no_grad(), set_gate(model, True):
        logits = model(**{k: v for k, v in batch.items() if k not in ("is_grounding", "labels", "in_box")}).logits
    targets = batch["labels"][:, 1:].flatten()
    nats = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="none")
    weight = torch.where(batch["in_box"][:, 1:].flatten(), 3.0, 1.0) * (targets != -100)
    trainer = trainer_of(model, tmp_path, collate, box_weight=3.0)
    assert loss_of(trainer, batch) == pytest.approx(((weight * nats).sum() / weight.sum()).item(), rel=1e-5)
    pieces = gradients(trainer, [collate(chosen[:1]), collate(chosen[1:])])
    close(gradients(trainer, [batch]), pieces, rtol=1e-3, atol=1e-5)


def test_base_is_asked_for_the_rows_that_need_it_and_for_all_where_inputs_have_no_rows(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(awake(vlm, **NO_PENALTY).eval(), tmp_path, collate, retention_kl=0.7)
    with_picture = [s for s in samples if "pixel_values" in s]
    mixed = [next(s for s in with_picture if s["is_grounding"].any() == kind) for kind in (True, False, True)]
    seen = []
    handle = vlm_of(trainer).register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    by_rows = loss_of(trainer, collate(mixed))
    assert seen == [1, 3]
    # The same batch with its picture tensor cut otherwise than by rows: nothing can be left out, nothing else changes.
    patches = {"a": torch.zeros(3, 2), "b": torch.zeros(7, 2)}
    assert rows_of(patches, torch.tensor([True, False, True])) is None
    assert rows_of({"a": patches["a"]}, torch.tensor([True, False, True]))["a"].shape == (2, 2)
    handle.remove()
    alone = [loss_of(trainer, collate([s])) for s in mixed]
    tokens = [(s["labels"][1:] != -100).sum().item() for s in mixed]
    grounding = (alone[0] * tokens[0] + alone[2] * tokens[2]) / (tokens[0] + tokens[2])
    assert by_rows == pytest.approx(grounding + alone[1], rel=1e-4)


def vlm_of(trainer: LynxTrainer) -> nn.Module:
    return trainer.model.get_base_model()


def test_understanding_answers_are_never_learned_from(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm, **NO_PENALTY)
    batch = collate([s for s in samples if not s["is_grounding"].any()][:2])
    grads = gradients(trainer_of(model, tmp_path, collate), [batch])
    assert all(not g.any() for g in grads.values())


@pytest.mark.parametrize("retention_kl", [0.0, 1.0])
def test_accumulated_gradient_is_that_of_the_joint_batch(parts, tmp_path, retention_kl):
    vlm, samples, collate = parts
    trainer = trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate, retention_kl=retention_kl)
    joint = gradients(trainer, [collate(samples[:6])])
    # Uneven on purpose: a mean of means would weigh the tokens of the small micro-batch too much.
    pieces = gradients(trainer, [collate(samples[:1]), collate(samples[1:6])])
    close(joint, pieces, rtol=1e-3, atol=1e-5)


def test_penalties_weigh_the_same_however_a_step_is_cut_up(parts, tmp_path):
    vlm, samples, collate = parts
    sample = samples[0]
    trainer = trainer_of(awake(vlm, gate_sparsity=0.5, balance=0.0), tmp_path, collate)
    once = gradients(trainer, [collate([sample] * 4)])
    pieces = gradients(trainer, [collate([sample])] * 4)
    close(once, pieces, rtol=1e-3, atol=1e-5)
    without = gradients(trainer_of(awake(vlm, **NO_PENALTY), tmp_path, collate), [collate([sample] * 4)])
    assert any(not torch.allclose(once[n], without[n], atol=1e-4) for n in once)


@pytest.mark.parametrize("reentrant", [False, True], ids=["non_reentrant", "reentrant"])
def test_checkpointing_changes_no_gradient(parts, tmp_path, reentrant):
    vlm, samples, collate = parts
    batch = collate(samples[:4])
    penalties = {"gate_sparsity": 0.3, "balance": 0.3, "router_z": 0.1}
    plain = gradients(trainer_of(awake(vlm, **penalties), tmp_path, collate, retention_kl=1.0), [batch])
    model = awake(vlm, **penalties)
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    assert model.get_base_model().is_activation_checkpointing
    close(plain, gradients(trainer_of(model, tmp_path, collate, retention_kl=1.0), [batch]), rtol=1e-3, atol=1e-5)


def test_gradient_scaler_scales_penalties_with_the_loss(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(awake(vlm, gate_sparsity=0.5), tmp_path, collate)
    batch = collate(samples[:2])
    plain = gradients(trainer, [batch])

    class Scaler:
        def is_enabled(self):
            return True

        def get_scale(self):
            return 64.0

    trainer.accelerator.scaler = Scaler()
    trainer.accelerator.backward = lambda loss, **kwargs: (loss * 64.0).backward(**kwargs)
    close({n: g * 64 for n, g in plain.items()}, gradients(trainer, [batch]), rtol=1e-3, atol=1e-4)


def test_dropping_unneeded_logits_changes_nothing(parts, tmp_path):
    vlm, samples, collate = parts
    trainer = trainer_of(awake(vlm), tmp_path, collate, retention_kl=1.0)
    batch = collate(samples[:6])
    assert trainer.answer_loss._keeps_logits
    dropped = gradients(trainer, [batch])
    trainer.answer_loss._keeps_logits = False
    close(dropped, gradients(trainer, [batch]), rtol=1e-3, atol=1e-5)


def test_retention_pulls_the_adapted_answers_back_to_the_bases(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm, **NO_PENALTY)
    trainer = trainer_of(model, tmp_path, collate, retention_kl=1.0)
    batch = collate([s for s in samples if not s["is_grounding"].any()][:4])
    before = loss_of(trainer, batch)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(15):
        gradients(trainer, [batch])
        optimizer.step()
    assert loss_of(trainer, batch) < 0.3 * before


def test_base_forward_leaves_exactly_the_same_parameters_trainable(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm)
    before = [n for n, p in model.named_parameters() if p.requires_grad]
    gradients(trainer_of(model, tmp_path, collate, retention_kl=1.0), [collate(samples[:2])])
    assert [n for n, p in model.named_parameters() if p.requires_grad] == before


def test_answer_kinds_marks_the_position_before_each_answer_token():
    batch = {
        "labels": torch.tensor([[-100, -100, 5, 6], [-100, 7, 8, -100]]),
        "is_grounding": torch.tensor([[True] * 4, [False] * 4]),
    }
    grounding, understanding = answer_kinds(batch)
    assert grounding.tolist() == [[False, True, True], [False] * 3]
    assert understanding.tolist() == [[False] * 3, [True, True, False]]


def test_answer_kinds_may_differ_within_a_packed_row():
    batch = {
        "labels": torch.tensor([[-100, 5, -100, 6]]),
        "is_grounding": torch.tensor([[False, True, False, False]]),
    }
    grounding, understanding = answer_kinds(batch)
    assert grounding.tolist() == [[True, False, False]] and understanding.tolist() == [[False, False, True]]


def test_parameter_that_no_gradient_reaches_is_named_and_no_other(parts, tmp_path, capsys):
    vlm, samples, collate = parts
    # Starts at zero output, so at the first step the inner weights have no gradient either: one step tells nothing.
    model = attach_adapter(copy.deepcopy(vlm), LynxConfig())
    name = next(n for n, _ in model.named_parameters() if n.endswith("down_EDF")).replace("down_EDF", "lost")
    owner = model.get_submodule(name.rpartition(".")[0])
    owner.lost = nn.Parameter(torch.zeros(2))
    trainer = trainer_of(
        model, tmp_path, collate, train_dataset=samples, max_steps=2, per_device_train_batch_size=4, learning_rate=1e-3
    )
    trainer.train()
    assert trainer.dead_parameters.names == [name]
    assert name in capsys.readouterr().out


def test_one_step_of_a_trainer_is_adams_step_on_our_gradient(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm)
    batch = collate(samples[:4])
    start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    grads = gradients(trainer_of(model, tmp_path, collate, retention_kl=1.0), [batch])
    model.zero_grad()
    trainer = trainer_of(
        model, tmp_path, collate, retention_kl=1.0, train_dataset=samples[:4], max_steps=1, learning_rate=1e-2,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, weight_decay=0.0,
    )  # fmt: skip
    trainer.train()
    moved = {n: p.detach() - start[n] for n, p in model.named_parameters() if p.requires_grad}
    rate = 1e-2 * 0.5  # half a cosine, at its middle: there is one step
    big = {n: g.abs() > 1e-3 for n, g in grads.items()}
    for name, where in big.items():
        # Adam's first step is the sign of the gradient; the order of the samples does not matter to it.
        torch.testing.assert_close(moved[name][where], -rate * grads[name][where].sign(), rtol=2e-2, atol=1e-5)
    assert sum(int(where.sum()) for where in big.values()) > 100


def test_cross_entropy_mean_goes_over_tokens_not_rows(parts, tmp_path):
    vlm, samples, collate = parts
    model = awake(vlm, **NO_PENALTY).eval()
    grounding = [s for s in samples if s["is_grounding"].any()][:3]
    nats, tokens = 0.0, 0
    with torch.no_grad(), set_gate(model, True):
        for sample in grounding:
            one = collate([sample])
            logits = model(**{k: v for k, v in one.items() if k not in ("labels", "is_grounding")}).logits[0, :-1]
            targets = one["labels"][0, 1:]
            nats += F.cross_entropy(logits, targets, ignore_index=-100, reduction="sum").item()
            tokens += int((targets != -100).sum())
    assert loss_of(trainer_of(model, tmp_path, collate), collate(grounding)) == pytest.approx(nats / tokens, rel=1e-4)
