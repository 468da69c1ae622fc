"""`evaluate` end to end on a tiny base, and on a model that is told the truth."""

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lynx_moe.data import SampleBuilder, load_records, target_text
from lynx_moe.evaluation import compare, evaluate, evaluation_sheet, print_report
from lynx_moe.families.dialects import Geometry, PercentDialect, get_dialect
from tests.data.written import small_folder
from tests.tiny import tiny_llava_with_processor


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(small_folder(tmp_path_factory.mktemp("records")), "train")


class Parrot(torch.nn.Module):
    """Answers each prompt with the answer it was given for it: a model that is always right."""

    def __init__(self, builder, records):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.generation_config = None
        self.answers = {}
        for record in records:
            tokens = builder.tokens([record])[0]
            ids = builder.spread(tokens, record.sizes).tolist()
            prompt = builder.spread(builder.prompts([record])[0], record.sizes).tolist()
            self.answers[tuple(prompt)] = ids[len(prompt) :]
        self.end = builder.tokenizer.eos_token_id

    def generate(self, input_ids, attention_mask, max_new_tokens, **others):
        prompts = [tuple(row[mask.bool()].tolist()) for row, mask in zip(input_ids, attention_mask, strict=True)]
        answers = [self.answers[prompt][:max_new_tokens] for prompt in prompts]
        longest = max(map(len, answers))
        padded = torch.tensor([answer + [0] * (longest - len(answer)) for answer in answers])
        return SimpleNamespace(sequences=torch.cat([input_ids, padded], dim=1), logits=None)


def test_a_model_that_says_the_truth_scores_one_everywhere(records):
    processor = tiny_llava_with_processor()[1]
    dialect = get_dialect("percent", processor)
    result = evaluate(Parrot(SampleBuilder(processor, dialect), records), processor, records, dialect, progress=False)
    grounding, retention = result["grounding"], result["retention"]
    assert (grounding["acc50"], grounding["find_all"]["f1"], grounding["absent"]["says_none"]) == (1.0, 1.0, 1.0)
    assert grounding["steps"]["acc50"] == retention["accuracy"] == 1.0
    # Pictures of 48 pixels: a hundredth of the side is half a pixel.
    assert grounding["mean_iou"] > 0.9 and grounding["errors"] == {} and all(s["right"] for s in result["samples"])


def test_result_is_json_with_one_sample_per_record_in_order(records):
    model, processor = tiny_llava_with_processor()
    result = evaluate(model, processor, records, PercentDialect(), batch_size=3, max_new_tokens=6, progress=False)
    assert json.loads(json.dumps(result)) == result
    assert [s["id"] for s in result["samples"]] == records.column("id")
    assert result["n"] == 7 and result["retention"]["n"] == 3 and result["grounding"]["n"] == 2


def test_same_model_twice_flips_nothing(records, capsys):
    model, processor = tiny_llava_with_processor()
    results = [
        evaluate(model, processor, records, PercentDialect(), batch_size=size, max_new_tokens=6, progress=False)
        for size in (2, 64)
    ]
    change = compare(*results)
    assert (change["flips"], change["same_text"], change["mcnemar_p"]) == ([], 1.0, 1.0)
    print_report(*results)
    assert "0 lost, 0 won of 3" in capsys.readouterr().out


def test_record_whose_box_cannot_be_seen_is_a_miss_and_no_error(records):
    model, processor = tiny_llava_with_processor()
    dialect = PercentDialect(Geometry(resize={"shortest_edge": 24}, crop=(8, 24)))
    result = evaluate(model, processor, [records[3]], dialect, max_new_tokens=4, progress=False)
    assert result["samples"][0]["right"] is False and "{box:0}" in result["samples"][0]["truth"]


def test_answers_are_cut_a_little_beyond_the_longest_truth(records):
    model, processor = tiny_llava_with_processor()
    lengths = [len(processor.tokenizer(target_text(r, PercentDialect()))["input_ids"]) for r in records]
    seen = []
    generate = model.generate

    def short(**settings):
        seen.append(settings["max_new_tokens"])
        return generate(**{**settings, "max_new_tokens": 1})

    model.generate = short
    evaluate(model, processor, records, PercentDialect(), progress=False)
    assert seen == [max(lengths) + 16]


def test_sheet_of_a_result_can_be_opened(records, tmp_path):
    model, processor = tiny_llava_with_processor()
    result = evaluate(model, processor, records, PercentDialect(), max_new_tokens=4, progress=False)
    path = evaluation_sheet(result, records, tmp_path / "sheet.png", limit=3, columns=3)
    assert Image.open(path).width > 3 * 256
