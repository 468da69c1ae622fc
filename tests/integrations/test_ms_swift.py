"""What ms-swift does with a tuner: wrap, save (also from a state of trainable tensors alone), open and train on."""

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from lynx_moe.adapter import fit_prompt_gate, lynx_layers, predict_prompt_gate, prompt_gate_head, runtime_of
from lynx_moe.errors import CheckpointError, ConfigError
from lynx_moe.integrations.ms_swift import PenaltyScale, lynx_tuner
from tests.adapter.speaking import make_it_speak
from tests.tiny import tiny_llava


def wrapped(**settings):
    model, inputs = tiny_llava()
    tuner = lynx_tuner(**settings)
    model = make_it_speak(tuner.prepare_model(None, model)).eval()
    words = [[t for t in row if t > 9] for row in inputs["input_ids"].tolist()]
    fit_prompt_gate(model, words * 4, [True, False] * 4)
    return tuner, model, inputs


@pytest.mark.parametrize("trainable_only", [False, True])
@torch.no_grad()
def test_what_is_saved_opens_with_its_prompt_gate(tmp_path, trainable_only):
    tuner, model, inputs = wrapped(mix="token", attention_rank=2)
    state = {n: p.detach().cpu() for n, p in model.named_parameters() if p.requires_grad} if trainable_only else None
    tuner.save_pretrained(model, str(tmp_path), state_dict=state, safe_serialization=True)
    opened = tuner.from_pretrained(tiny_llava()[0], str(tmp_path))
    words = [[11, 12], [20, 21, 22]]
    assert bool(prompt_gate_head(opened).fitted)
    assert predict_prompt_gate(opened, words) == predict_prompt_gate(model, words)
    assert torch.equal(opened(**inputs).logits, model(**inputs).logits)


def test_training_goes_on_from_what_was_saved(tmp_path):
    tuner, model, _ = wrapped()
    tuner.save_pretrained(model, str(tmp_path))
    opened = tuner.from_pretrained(tiny_llava()[0], str(tmp_path), is_trainable=True)
    names = {n for n, p in opened.named_parameters() if p.requires_grad}
    assert names == {n for n, p in model.named_parameters() if p.requires_grad} and len(lynx_layers(opened)) == 2


def test_a_wrong_setting_is_named_before_training_starts():
    with pytest.raises(ConfigError, match="did you mean 'additive'"):
        lynx_tuner(mix="addtive")


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="adapter_config.json"):
        lynx_tuner().from_pretrained(tiny_llava()[0], str(tmp_path))


def trainer_of(model, inputs, folder, **settings):
    rows = [{name: value[i] for name, value in inputs.items()} | {"labels": inputs["input_ids"][i]} for i in (0, 1)]
    arguments = TrainingArguments(
        str(folder), max_steps=1, per_device_train_batch_size=1, use_cpu=True, report_to=[], save_strategy="no",
        disable_tqdm=True, **settings,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows)


@pytest.mark.parametrize("loaded", [False, True])
def test_without_the_callback_the_first_step_says_what_is_missing(tmp_path, loaded):
    tuner, model, inputs = wrapped()
    if loaded:
        tuner.save_pretrained(model, str(tmp_path))
        model = tuner.from_pretrained(tiny_llava()[0], str(tmp_path), is_trainable=True)
    with pytest.raises(ConfigError, match="--callbacks lynx"):
        trainer_of(model, inputs, tmp_path).train()


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_penalties_are_scaled_as_the_trainer_scales_its_loss(tmp_path, micro_batches):
    class Watch(TrainerCallback):
        scales = []

        def on_substep_end(self, *args, model, **kwargs):
            self.scales.append(runtime_of(model).aux_scale)

        on_pre_optimizer_step = on_substep_end

    _, model, inputs = wrapped()
    trainer = trainer_of(model, inputs, tmp_path, gradient_accumulation_steps=micro_batches)
    trainer.add_callback(PenaltyScale(trainer.args, trainer))
    trainer.add_callback(watch := Watch())
    trainer.train()
    assert watch.scales == [1 / micro_batches] * micro_batches
