import inspect
from dataclasses import fields, is_dataclass

import pytest

from lynx_moe.adapter import LynxConfig
from lynx_moe.errors import ConfigError
from lynx_moe.families.dialects import DIALECTS
from lynx_moe.ops.penalties import PENALTIES
from lynx_moe.training.distil_settings import DistilSettings
from lynx_moe.training.settings import (
    BASELINE_ONLY,
    AdapterSettings,
    ModelSettings,
    ObjectiveSettings,
    Settings,
    describe,
)

NOT_SETTINGS = {"retention_kl", "auto_mapping", "peft_version", "peft_type", "task_type", "inference_mode"}
NOT_SETTINGS |= {"base_model_name_or_path", "revision", "base", "dialect"}  # the dialect is a setting of the model
NOT_SETTINGS |= {"modules_to_save"}  # PEFT's, for other trainers: this one trains nothing but what is new


def own_fields() -> dict:
    return {n: f for n, f in LynxConfig.__dataclass_fields__.items() if n not in NOT_SETTINGS}


def test_adapter_settings_are_the_configs_fields_and_no_others():
    assert set(AdapterSettings.__dataclass_fields__) - set(BASELINE_ONLY) == set(own_fields())


@pytest.mark.parametrize("name", own_fields())
def test_default_of_an_adapter_setting_is_the_configs(name):
    assert getattr(AdapterSettings(), name) == getattr(LynxConfig(), name)


def test_retention_weight_has_one_default():
    assert ObjectiveSettings().retention_kl == LynxConfig().retention_kl


def test_default_names_are_registered():
    assert ModelSettings().dialect in DIALECTS.names() and AdapterSettings().sparsity_penalty in PENALTIES.names()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (AdapterSettings, {"mix": "addtive"}, ["adapter.mix", "'additive'"]),
        (AdapterSettings, {"gate_sparsity": -1.0}, ["adapter.gate_sparsity", "at least 0"]),
        (AdapterSettings, {"prompt_gate": True}, ["adapter.prompt_gate", "quotes"]),
        (AdapterSettings, {"alpha_init": 1.5}, ["adapter.alpha_init", "between 0 and 1"]),
        (ModelSettings, {"dtype": "float64"}, ["model.dtype", "float32"]),
    ],
)
def test_refused_value_is_named_with_what_is_allowed(kind, values, words):
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    assert all(word in str(caught.value) for word in words)


def test_mutable_defaults_are_not_shared():
    one, other = Settings(), Settings()
    one.data.kinds.append("more")
    one.data.make["train"] = []
    assert other.data.kinds == ["grounding", "understanding"] and other.data.make == {}


def test_description_covers_every_field_of_every_group():
    described = {name for name, *_ in describe()}
    assert described >= {"adapter.num_experts", "trainer.max_seconds", "objective.retention_kl", "output_dir"}
    classes = {
        kind
        for module in map(inspect.getmodule, (Settings, ObjectiveSettings, DistilSettings))
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if name.endswith("Settings")
    }
    groups = {field for kind in classes for field in fields(kind) if is_dataclass(field.default_factory)}
    assert len(groups) == len(classes) - 1
    assert len(described) == sum(len(fields(kind)) for kind in classes) - len(groups)
