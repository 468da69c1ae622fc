"""lmms-eval finds our models by entry point and scores what they answer to its own tasks."""

import importlib
import tomllib
from types import SimpleNamespace

import datasets
import pytest
import torch
from PIL import Image

from lynx_moe.data import Record
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation import generate_answers
from lynx_moe.integrations import lmms_eval as ours
from tests.architecture.source_tree import ROOT
from tests.tiny import tiny_llava_with_processor

QUESTIONS = [("red", "Is it red ?", "yes"), ("blue", "Is it red ?", "no"), ("green", "What colour is the star ?", "no")]
ENDING = "\nAnswer with a word ."

UTILS = """
def visual(doc):
    return [doc["image"].convert("RGB")]

def text(doc, kwargs=None):
    return "<image> " + doc["question"] + "\\nAnswer with a word ."

def score(doc, results):
    return {"exact": float(results[0] == doc["answer"]), "length": float(len(results[0]))}
"""

TASK = """
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {folder}/test.parquet
task: tiny_yes_no
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  top_p: 1.0
  num_beams: 1
  do_sample: false
process_results: !function utils.score
metric_list:
  - metric: exact
    aggregation: mean
    higher_is_better: true
  - metric: length
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 0.0
"""


def lmms_eval(part="evaluator"):
    """A module of lmms-eval; the test is skipped where it is not installed."""
    return pytest.importorskip(f"lmms_eval.{part}", reason="lmms-eval is not installed: pip install 'lynx-moe[lmms]'")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def model(base):
    lmms_eval()
    made = ours.LynxMoe.create_from_arg_string(f"pretrained={base},gate=auto", {"batch_size": 2, "device": "cpu"})
    documents = [{"image": Image.new("RGB", (40, 30), colour), "answer": answer} for colour, _, answer in QUESTIONS]
    made.task_dict["t"] = {"test": documents}
    return made


def request(number, settings, question=None):
    question = QUESTIONS[number][1] if question is None else question
    return SimpleNamespace(args=(question, settings, lambda doc: [doc["image"]], number, "t", "test"))


def test_entry_point_names_a_manifest_that_is_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["lmms_eval.models"]["lynx_moe"].partition(":")
    assert getattr(importlib.import_module(module), name) is ours.manifest


def test_registry_of_lmms_eval_takes_the_manifest_and_the_class():
    registry = lmms_eval("models.registry_v2").ModelRegistryV2()
    registry.register_manifest(ours.manifest())
    assert registry.get_model_class("lynx_moe") is ours.LynxMoe


def test_a_task_of_lmms_eval_is_run_by_its_own_evaluator(base, tmp_path):
    evaluator, models, tasks = map(lmms_eval, ("evaluator", "models", "tasks"))
    rows = [{"image": Image.new("RGB", (40, 30), c), "question": q, "answer": a} for c, q, a in QUESTIONS]
    made = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    made.to_parquet(tmp_path / "test.parquet")
    (tmp_path / "utils.py").write_text(UTILS)
    (tmp_path / "tiny.yaml").write_text(TASK.format(folder=tmp_path))
    models.MODEL_REGISTRY_V2.register_manifest(ours.manifest(), overwrite=True)
    found = evaluator.simple_evaluate(
        model="lynx_moe", model_args=f"pretrained={base},gate=auto", tasks=["tiny_yes_no"], batch_size=2, device="cpu",
        task_manager=tasks.TaskManager(include_path=str(tmp_path), include_defaults=False), log_samples=True,
    )  # fmt: skip
    answers = written(base, [f"{question}{ENDING}" for _, question, _ in QUESTIONS], 8)
    assert [sample["filtered_resps"][0] for sample in found["samples"]["tiny_yes_no"]] == answers
    lengths = [len(answer) for answer in answers]
    assert found["results"]["tiny_yes_no"]["length,none"] == pytest.approx(sum(lengths) / 3) and sum(lengths) > 0


def written(base, questions, limit):
    from lynx_moe.data import SampleBuilder
    from lynx_moe.loading import load

    loaded = load(base)
    records = [
        Record(
            id=str(k), question=question, answer="", kind="understanding", task="t", size=(40, 30), image_id=str(k),
            load=lambda k=k: Image.new("RGB", (40, 30), QUESTIONS[k][0]),
        )
        for k, question in enumerate(questions)
    ]  # fmt: skip
    builder = SampleBuilder(loaded.processor, loaded.dialect)
    return [a.text for a in generate_answers(loaded.model, builder, records, max_new_tokens=limit, progress=False)]


def test_answers_come_in_order_whatever_their_limits(model, base):
    short = written(base, [question for _, question, _ in QUESTIONS], 2)
    long = written(base, [question for _, question, _ in QUESTIONS], 6)
    limits = [{"max_new_tokens": 6}, {"max_new_tokens": 2}, {"max_new_tokens": 6}]
    assert model.generate_until([request(k, limits[k]) for k in range(3)]) == [long[0], short[1], long[2]]


def test_answers_end_at_a_stop_string(model):
    (whole,) = model.generate_until([request(0, {"max_new_tokens": 6})])
    stop = whole[len(whole) // 2]
    settings = {"max_new_tokens": 6, "until": [stop]}
    assert model.generate_until([request(0, settings)]) == [whole[: whole.index(stop)].strip()]


def test_likelihood_is_that_of_the_processors_own_prompt(model):
    answer = "yes it is"
    to_visual = lambda doc: [doc["image"]]  # noqa: E731
    (found,) = model.loglikelihood([SimpleNamespace(args=(QUESTIONS[0][1], answer, to_visual, 0, "t", "test"))])
    _, processor = tiny_llava_with_processor()
    prompt = f"USER: <image>\n {QUESTIONS[0][1]} ASSISTANT:"
    whole = processor(text=f"{prompt} {answer}", images=model.task_dict["t"]["test"][0]["image"], return_tensors="pt")
    length = len(processor.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        log_LV = model.model(**whole).logits[0].log_softmax(-1)
    ids_L = whole["input_ids"][0]
    expected = log_LV[-length - 1 : -1].gather(-1, ids_L[-length:, None]).sum()
    assert found[0] == pytest.approx(float(expected), abs=1e-4) and found[1] is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"typo": 1}, "typo"), ({"batch_size": "auto"}, "batch_size 'auto'"), ({"gate": "open"}, "gate 'open'"),
     ({"gate": "on"}, "cannot be forced")],
)  # fmt: skip
def test_settings_that_nothing_can_honour_are_refused(base, arguments, said):
    lmms_eval()
    with pytest.raises(ConfigError, match=said):
        ours.LynxMoe(pretrained=str(base), device="cpu", **arguments)


def test_several_processes_are_refused_and_not_counted_twice(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        ours.refuse_settings({}, 1)


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"do_sample": True}, {"num_beams": 3}])
def test_sampling_is_refused_and_not_ignored(settings):
    with pytest.raises(ConfigError, match="greedy"):
        ours.refuse_sampling(settings, "t")
    ours.refuse_sampling({"temperature": 0, "top_p": 1.0, "num_beams": 1, "do_sample": False}, "t")


def test_text_is_cut_at_the_earliest_stop():
    assert ours.cut_at("one. two\n\nthree", ["\n\n", ". "]) == "one"
    assert ours.cut_at("one", ["", "x"]) == "one"


def test_no_other_name_is_made_up():
    with pytest.raises(AttributeError, match="LynxMoo"):
        ours.LynxMoo  # noqa: B018
