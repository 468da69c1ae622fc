"""What can be set, and what is said about what cannot."""

import json

import pytest
from peft import PeftConfig

from lynx_moe.adapter import LynxConfig
from lynx_moe.adapter.start import build_branch
from lynx_moe.errors import ConfigError


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_experts": 8, "top_k": 1, "expert_width": 24, "mix": "convex", "alpha_init": 0.7},
        {"layers": [0, 2, 5], "target_modules": ["mlp"], "exclude_modules": r".*layers\.0.*"},
        {
            "prompt_gate": "off",
            "sparsity_penalty": "entropy",
            "gate_sparsity": 0.5,
            "router_z": 0.1,
            "task_type": "CAUSAL_LM",
        },
    ],
    ids=str,
)
def test_a_config_survives_its_file(settings, tmp_path):
    config = LynxConfig(**settings)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LYNX"
    assert PeftConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mix": "addtive"}, "did you mean 'additive'"),
        ({"sparsity_penalty": "L1"}, "'l1'"),
        ({"expert_init": "copied"}, "did you mean 'copy'"),
        ({"expert_kind": "gate"}, "did you mean 'gated'"),
        ({"expert_kind": "plain", "expert_init": "slice"}, "biases"),
        ({"prompt_gate": "automatic"}, "'auto'"),
        ({"prompt_gate": True}, "prompt_gate=True"),
        ({"layers": "every-other"}, "did you mean 'every_other'"),
        ({"layers": []}, "at least one"),
        ({"layers": [0.5]}, "whole number"),
        ({"num_experts": 0}, "at least 1"),
        ({"num_experts": 2.0}, "whole number"),
        ({"top_k": 5}, "cannot use more experts"),
        ({"expert_width": -1}, "expert_width=-1"),
        ({"gate_sparsity": -0.1}, "gate_sparsity=-0.1"),
        ({"balance": float("nan")}, "balance=nan"),
        ({"router_z": "0.1"}, "router_z='0.1'"),
        ({"mix": "convex", "alpha_init": 1.0}, "strictly between"),
        ({"mix": "convex", "sparsity_penalty": "hoyer"}, "no effect"),
    ],
    ids=str,
)
def test_a_value_that_nothing_can_honour_is_refused_with_help(settings, said):
    with pytest.raises(ConfigError) as caught:
        LynxConfig(**settings)
    assert said in str(caught.value)
    assert "why:" in str(caught.value) and "fix:" in str(caught.value)


def test_every_field_of_ours_says_what_it_does():
    own = {f for f in LynxConfig.__dataclass_fields__} - set(PeftConfig.__dataclass_fields__)
    assert all(len(LynxConfig.__dataclass_fields__[f].metadata["help"]) > 20 for f in own)


def test_copies_of_another_width_are_refused(llava):
    from peft import get_peft_model

    with pytest.raises(ConfigError, match="64 wide"):
        get_peft_model(llava[0], LynxConfig(expert_init="copy", expert_width=16))


@pytest.mark.parametrize(("mix", "width"), [("additive", 65), ("additive", 64), ("convex", 65), ("token", 65)])
def test_a_width_that_no_host_can_take_is_refused_when_attaching(llava, mix, width):
    from peft import get_peft_model

    config = LynxConfig(mix=mix, expert_width=width)
    if (mix, width) == ("additive", 65):
        with pytest.raises(ConfigError, match="expert_width=65 beside a frozen FFN 64 wide") as caught:
            get_peft_model(llava[0], config)
        assert "expert_width=64" in caught.value.fix
    else:
        get_peft_model(llava[0], config)


def test_experts_behind_a_projection_cannot_be_copied_but_can_be_sized():
    from transformers.models.muse_spark.modeling_muse_spark import MuseSparkMoE, MuseSparkTextConfig

    shape = {"hidden_size": 32, "num_attention_heads": 4, "moe_hidden_size": 16, "moe_intermediate_size": 24}
    frozen = MuseSparkMoE(MuseSparkTextConfig(**shape, num_local_experts=2, num_experts_per_tok=1))
    branch = build_branch(LynxConfig(), frozen)
    assert branch.gate_up_EFD.shape == (4, 48, 32) and branch.down_EDF.shape == (4, 32, 24)
    with pytest.raises(ConfigError, match="expert_init needs a gated FFN"):
        build_branch(LynxConfig(expert_init="slice"), frozen)
