import pytest

from lynx_moe.adapter import LynxConfig, predict_prompt_gate
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training.prompt_gate import distinct_prompts, fit_on_records, hold_out
from tests.tiny import tiny_llava_with_processor


@pytest.fixture(scope="module")
def parts():
    model, processor = tiny_llava_with_processor()
    return attach_adapter(model, LynxConfig()), SampleBuilder(processor, get_dialect("percent", processor))


@pytest.fixture(scope="module")
def report(parts, data_folder):
    return fit_on_records(*parts, load_records(data_folder, "train"), load_records(data_folder, "validation"), seed=0)


def test_gate_learns_to_tell_the_two_kinds_apart(report):
    assert report["fitted"] and report["train_error"] == 0.0 and report["held_out_error"] <= 0.25


def test_held_out_error_is_that_of_the_heads_own_decisions_on_unseen_prompts(parts, report, data_folder):
    model, builder = parts
    seen = distinct_prompts(builder, load_records(data_folder, "train"), 0)
    unseen = distinct_prompts(builder, load_records(data_folder, "validation"), 0)
    unseen = {ids: kind for ids, kind in unseen.items() if ids not in seen}
    opened = [logit > 0 for logit in predict_prompt_gate(model, list(unseen))]
    wrong = sum(o != kind for o, kind in zip(opened, unseen.values(), strict=True))
    assert report["held_out_prompts"] == len(unseen) and report["held_out_error"] == wrong / len(unseen)


def test_prompts_are_worded_as_in_training(parts, data_folder):
    _, builder = parts
    records = load_records(data_folder, "train")
    sample = builder(records[0])
    prompt = sample["input_ids"][sample["labels"] == -100].tolist()
    image = builder.image_token_id
    without_pictures = {tuple(i for i in ids if i != image) for ids in distinct_prompts(builder, records, 0)}
    assert tuple(i for i in prompt if i != image) in without_pictures


def test_only_one_kind_of_prompt_leaves_the_gate_unfitted_and_says_so(parts, data_folder, capsys):
    report = fit_on_records(*parts, load_records(data_folder, "train", kinds=["grounding"]), None, seed=0)
    assert report == {"fitted": False, "num_prompts": 12} and "not fitted" in capsys.readouterr().out


def test_without_a_held_out_split_some_training_prompts_are_kept_aside(parts, data_folder):
    alone = fit_on_records(*parts, load_records(data_folder, "train"), None, seed=0)
    assert alone["held_out_prompts"] >= 1
    assert alone["num_prompts"] + alone["held_out_prompts"] == len(
        distinct_prompts(parts[1], load_records(data_folder, "train"), 0)
    )


def test_hold_out_takes_a_tenth_of_both_kinds_and_loses_nothing():
    prompts = {(k,): k % 5 == 0 for k in range(100)}
    kept, held = hold_out(prompts, seed=0)
    assert {**kept, **held} == prompts and not kept.keys() & held.keys()
    assert sum(held.values()) == 2 and len(held) == 10


def test_hold_out_keeps_one_of_each_kind_to_fit_on():
    kept, held = hold_out({(1,): True, (2,): False}, seed=0)
    assert len(kept) == 2 and not held
