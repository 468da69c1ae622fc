"""What a run may ask of DeepSpeed and FSDP2, in words; the runs themselves are in test_divided_runs.py."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainingArguments

from lynx_moe.errors import ConfigError
from lynx_moe.training import run
from lynx_moe.training.fsdp import outermost, units
from lynx_moe.training.processes import environment, process_group, refuse_too_few_records
from lynx_moe.training.settings import TrainerSettings
from lynx_moe.training.sharding import Sharding, merged, plan_sharding, refuse_if_not_in_use, use_gloo_alone, whole
from lynx_moe.training.trainer import LynxTrainer
from tests import tiny
from tests.adapter.speaking import adapted


@pytest.fixture
def asked(settings):
    def make(kind: str, offload: str = "none", quant: str = "none", **trainer):
        chosen = settings(**trainer)
        chosen.sharding.kind, chosen.sharding.offload, chosen.quant.kind = kind, offload, quant
        return chosen

    return make


def test_nothing_is_divided_unless_asked(asked):
    assert plan_sharding(asked("none")) == Sharding()
    assert plan_sharding(asked("fsdp2")) == Sharding("fsdp2") and Sharding("fsdp2").divides_weights


def test_deepspeed_is_told_what_the_settings_say(asked):
    plan = plan_sharding(asked("zero3", "cpu", batch_size=3, accumulate=5, max_grad_norm=0.0))
    config = plan.deepspeed
    assert plan.is_deepspeed and plan.divides_weights and config["zero_optimization"]["stage"] == 3
    assert config["train_micro_batch_size_per_gpu"] == 3 and config["gradient_accumulation_steps"] == 5
    # Left unsaid it would be 1, and every comparison with an undivided run would be off.
    assert config["gradient_clipping"] == 0.0
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert not {"bf16", "fp16"} & config.keys(), "they cast the frozen base"
    assert "offload_param" not in plan_sharding(asked("zero2", "cpu")).deepspeed["zero_optimization"]


@pytest.mark.parametrize(
    ("kind", "more", "word"),
    [
        ("zero3", {"quant": "nf4"}, "sharding=zero2"),
        ("fsdp2", {"quant": "int8"}, "sharding=zero2"),
        ("fsdp2", {"offload": "cpu"}, "sharding=zero3_offload"),
        ("none", {"offload": "cpu"}, "sharding=zero2_offload"),
        ("zero2", {"precision": "fp16"}, "bf16"),
    ],
)
def test_what_no_engine_does_is_refused_with_the_way_out(asked, kind, more, word):
    with pytest.raises(ConfigError) as caught:
        plan_sharding(asked(kind, **more))
    assert word in caught.value.fix


def launched(tmp_path, config: dict) -> dict[str, str]:
    """The variables that `accelerate launch --use_deepspeed --deepspeed_config_file` sets."""
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps(config))
    return {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}


def test_config_of_the_launcher_is_taken_and_auto_is_filled_in(asked, tmp_path):
    theirs = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "stage3_max_live_parameters": 1000, "reduce_bucket_size": "auto"},
        "wall_clock_breakdown": True,
    }
    with environment(launched(tmp_path, theirs)):
        plan = plan_sharding(asked("none", batch_size=3))
        assert plan_sharding(asked("zero3", batch_size=3)) == plan
    assert plan.kind == "zero3" and plan.deepspeed["train_micro_batch_size_per_gpu"] == 3
    assert plan.deepspeed["gradient_clipping"] == 1.0 and plan.deepspeed["wall_clock_breakdown"]
    assert plan.deepspeed["zero_optimization"]["stage3_max_live_parameters"] == 1000
    assert isinstance(plan.deepspeed["zero_optimization"]["reduce_bucket_size"], int) and "bf16" not in plan.deepspeed


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"zero_optimization": {"stage": 3}}, ("zero2", "zero3")),
        ({"zero_optimization": {"stage": 2}, "gradient_clipping": 0.5}, ("gradient_clipping", "auto")),
        ({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, ("bf16", "trainer.precision")),
        ({"zero_optimization": {"stage": 2}, "optimizer": {"type": "Lamb"}}, ("optimizer", "trainer")),
        ({"zero_optimization": {"stage": 0}}, ("stage 0", "DDP")),
        ({}, ("stage", "DDP")),
    ],
)
def test_launcher_and_settings_that_contradict_each_other_are_refused(asked, tmp_path, config, words):
    with environment(launched(tmp_path, config)), pytest.raises(ConfigError) as caught:
        plan_sharding(asked("zero2"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_unreadable_launcher_config_and_accelerates_own_fsdp_are_refused(asked, tmp_path):
    gone = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "gone.json")}
    with environment(gone), pytest.raises(ConfigError, match="gone.json"):
        plan_sharding(asked("none"))
    with environment({"ACCELERATE_USE_FSDP": "true"}), pytest.raises(ConfigError, match="FSDP"):
        plan_sharding(asked("fsdp2"))


def test_stage_of_a_launcher_without_a_file_is_taken(asked):
    variables = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}
    with environment(variables | {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}):
        plan = plan_sharding(asked("none"))
    assert plan.kind == "zero1" and plan.deepspeed["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}


def test_merging_leaves_both_configs_as_they_were():
    ours, theirs = {"a": 1, "zero_optimization": {"stage": 2}}, {"zero_optimization": {"x": 1}, "a": "auto"}
    assert merged(ours, theirs) == {"a": 1, "zero_optimization": {"stage": 2, "x": 1}}
    assert ours == {"a": 1, "zero_optimization": {"stage": 2}} and theirs["a"] == "auto"


def test_deepspeed_that_was_dropped_without_a_word_ends_the_run(asked, tmp_path):
    model, _ = tiny.tiny_llava()
    plan = plan_sharding(asked("zero2", max_steps=1))
    use_gloo_alone()
    # The trap itself: told to use the CPU, accelerate trains without DeepSpeed and says nothing.
    with (
        environment({"ACCELERATE_USE_DEEPSPEED": None, "ACCELERATE_USE_CPU": "true"}),
        process_group(Sharding("fsdp2")),
    ):
        args = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, deepspeed=plan.deepspeed, max_steps=1, report_to=[],
            per_device_train_batch_size=4, gradient_accumulation_steps=1, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = LynxTrainer(adapted(model), args, sharding=plan, progress=False, train_dataset=[{}] * 4)
        with pytest.raises(ConfigError, match="plain"):
            trainer.train()


def test_fsdp_that_is_not_there_is_noticed_too():
    with pytest.raises(ConfigError, match="fsdp2"):
        refuse_if_not_in_use(Sharding("fsdp2"), nn.Linear(2, 2))
    refuse_if_not_in_use(Sharding(), nn.Linear(2, 2))


def test_whole_tensor_is_itself():
    tensor = torch.arange(3)
    with whole(tensor) as same:
        assert same is tensor


def test_units_are_the_new_weights_and_the_layers_and_none_lies_in_another():
    model, _ = tiny.tiny_llava()
    found = units(adapted(model, layers="all", attention_rank=2))
    kinds = [type(m).__name__ for m in found]
    assert kinds.count("Branch") == 4 and kinds.count("LlamaDecoderLayer") == 4 and kinds.count("CLIPEncoderLayer") == 2
    first_layer = min(kinds.index("LlamaDecoderLayer"), kinds.index("CLIPEncoderLayer"))
    assert max(i for i, k in enumerate(kinds) if k in ("Branch", "Delta", "PromptGateHead")) < first_layer
    assert outermost(found[first_layer:]) == found[first_layer:]


def test_too_few_rows_for_all_processes_are_refused():
    chosen = TrainerSettings(batch_size=4, accumulate=2)
    refuse_too_few_records(range(16), chosen, 2)
    refuse_too_few_records(range(3), chosen, 1)  # alone, a step may be smaller
    with pytest.raises(ConfigError, match="15 rows .* takes 16"):
        refuse_too_few_records(range(15), chosen, 2)


def test_runs_of_one_process_may_be_divided_and_then_not_be(asked, tmp_path):
    """As the points of a sweep are: nothing of the first may be left for the second."""
    kinds = []
    for kind in ("zero3", "none"):
        chosen = asked(kind, max_steps=1, save_every=1)
        chosen.output_dir = str(tmp_path / kind)
        card = run(chosen)
        kinds.append(card["sharding"])
        assert card["base_hash_unchanged"]
        assert (tmp_path / kind / "checkpoints/checkpoint-1/latest").exists() == (kind == "zero3")
    assert kinds == [{"kind": "zero3", "processes": 1}, {"kind": "none", "processes": 1}]
    one, other = (load_file(tmp_path / kind / "adapter/adapter_model.safetensors") for kind in ("zero3", "none"))
    assert one.keys() == other.keys() and all(torch.allclose(one[n], other[n], atol=1e-6) for n in one)
