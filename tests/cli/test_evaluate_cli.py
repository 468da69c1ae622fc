"""`lynx-moe evaluate` on protocols: what it writes, what it refuses, checkpoints, and numbers without a model."""

import json
import math
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import synth
from lynx_moe import cli
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation import Generated, Temperature, named
from lynx_moe.families.dialects import LlavaDialect
from lynx_moe.training import run
from lynx_moe.training.command import settings_from
from tests.evaluation.protocols.understanding import put_json, put_lines, put_pictures, put_table
from tests.tiny import tiny_llava_with_processor

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, records, and a run of two steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("place")
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    synth.make(synth.Settings(out=str(folder / "records"), task=["find_one", "count"], size=3, split="val"))
    paths = [f"model.path={folder / 'base'}", f"data.folder={folder / 'data'}", f"output_dir={folder / 'run'}"]
    settings = ["debug=tiny", "trainer.max_steps=2", "trainer.save_every=1", "trainer.progress=false"]
    run(settings_from(CONF, "train", [*settings, *paths]))
    return folder


def evaluate(*words, model=None, **files):
    first = ["evaluate"] + ([str(model)] if model else [])
    return cli.main([*first, *map(str, words)])


def asked(place, out, *words, model="base"):
    protocols = ["--protocols", f"records={place / 'records'},split=val", "--out", out]
    return evaluate(*protocols, "--limit", 8, "--max-new-tokens", 8, *words, model=place / model)


def test_a_run_against_its_base_writes_rows_numbers_and_page(place, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--against", place / "base", "--json", tmp_path / "r.json", "--dialect", "percent"]
    assert asked(place, out, *words, model="run") == 0
    content = json.loads((out / "results.json").read_text())
    assert [(r["side"], r["n"]) for r in content["results"]] == [("before", 8), ("after", 8)]
    assert content["changes"][0]["n"] == 8 and content["dialects"] == {"before": "percent", "after": "percent"}
    printed = json.loads((tmp_path / "r.json").read_text())
    assert printed["ok"] is True and printed["results"] == content["results"]
    table = pq.read_table(out / "rows.parquet")
    assert table.num_rows == 16 and set(table.column("side").to_pylist()) == {"before", "after"}
    assert (out / "page.html").read_text().startswith("<!doctype html>")
    assert "McNemar" in capsys.readouterr().out


def test_the_same_command_again_asks_nothing_and_ends_with_the_same_bytes(place, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert asked(place, out) == 0
    names = ("rows.parquet", "results.json", "page.html")
    first = {name: (out / name).read_bytes() for name in names}
    monkeypatch.setattr("lynx_moe.evaluation.asking.generate_answers", lambda *a, **k: pytest.fail("asked again"))
    assert asked(place, out) == 0
    assert {name: (out / name).read_bytes() for name in names} == first
    (out / "results.json").write_text((out / "results.json").read_text().replace('"value": ', '"value": 9'))
    assert evaluate("--from", out) == 0
    assert {name: (out / name).read_bytes() for name in names} == first


def test_changed_pictures_give_a_curve_of_numbers_and_a_picture(place, tmp_path):
    out = tmp_path / "out"
    assert asked(place, out, "--corrupt", "noise,crop", "--levels", "1,5") == 0
    content = json.loads((out / "results.json").read_text())
    assert [c["along"] for c in content["curves"]] == ["crop", "noise"]
    assert [p["at"] for p in content["curves"][1]["points"]] == [0, 1, 5]
    crop = [r for r in content["results"] if r["variant"] == "crop 5"][0]
    assert crop["n"] + sum(crop["faults"].values()) == 8
    assert (out / "robustness.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "page.html").read_text().count("data:image/png") == 1


def test_every_checkpoint_of_a_run_is_asked(place, tmp_path):
    out = tmp_path / "out"
    assert asked(place, out, "--over-checkpoints", model="run") == 0
    content = json.loads((out / "results.json").read_text())
    (curve,) = content["curves"]
    assert [p["at"] for p in curve["points"]] == [1, 2] and {"best", "last", "mean"} <= curve.keys()
    known = json.loads((out / "asked.json").read_text())
    weights = [known[f"model after{step}"]["weights"] for step in (" step 1", " step 2", "")]
    # The last checkpoint is what was published; the first is another model.
    assert weights[0] != weights[1] == weights[2]


def test_a_torn_checkpoint_is_not_asked(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "checkpoint-1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    words = ["--protocols", f"records={place / 'records'}", "--out", tmp_path / "out", "--limit", 2]
    assert evaluate(*words, "--over-checkpoints", "--max-new-tokens", 2, model=tmp_path / "run") == 1
    assert "torn" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to evaluate on"),
        (["--data", "x", "--protocols", "records=x"], "two things to evaluate on"),
        (["--data", "x", "--corrupt", "blur"], "--corrupt means nothing beside --data"),
        (["--protocols", "records=x", "--sheet", "s.png"], "--sheet means nothing beside --protocols"),
        (["--from", "x"], "path means nothing beside --from"),
        (["--protocols", "records=x"], "--out is missing"),
        (["--protocols", "records=x", "--out", "o", "--levels", "2"], "--levels of nothing"),
        (["--protocols", "recrods=x", "--out", "o"], "'records'"),
        (["--protocols", "records", "--out", "o"], "no name=value"),
        (["--protocols", "records=x,splt=val", "--out", "o"], "did you mean split"),
        (["--protocols", "records=x", "records=x", "--out", "o"], "asked twice"),
        (["--protocols", "pope=x", "--out", "o", "--corrupt", "crop"], "boxes_in"),
        (["--protocols", "records=x", "--out", "o", "--over-checkpoints"], "no checkpoints"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_loaded(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert evaluate(*words, model="nowhere") == 1
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_no_records_in_the_split_is_refused(place, tmp_path, capsys):
    words = ["--protocols", f"records={place / 'records'},split=nosuch", "--out", tmp_path / "out"]
    assert evaluate(*words, model=place / "base") == 1
    assert "nosuch" in capsys.readouterr().err


def test_a_family_without_a_dialect_is_named_with_what_to_do(place, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(LlavaDialect, "families", ())
    assert asked(place, tmp_path / "out") == 1
    shown = capsys.readouterr().err
    assert (
        "'llava', the family of this model" in shown and "--dialect" in shown and "lynx_moe/families/dialects" in shown
    )
    assert asked(place, tmp_path / "out", "--dialect", "percent") == 0


def test_a_scorer_gets_its_options_as_its_types(place, tmp_path, capsys):
    words = ["--scorer", "likelihood,batch_size=2,total=yes"]
    assert asked(place, tmp_path / "out", *words) == 1
    assert "'yes' is no total of the scorer likelihood" in capsys.readouterr().err
    assert asked(place, tmp_path / "out", "--scorer", "likelihood,batch_size=2,total=true", "--restart") == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["scorers"]["after"]["scorer"] == "likelihood"


def test_labels_tell_the_same_protocol_apart_by_its_settings():
    texts = ["records=a,split=val", "records=a,split=test", "pope=b"]
    assert [label for label, _ in named.parsed_protocols(texts)] == [
        "records,split=val",
        "records,split=test",
        "pope",
    ]
    protocols = dict(named.parsed_protocols(texts))
    assert protocols["records,split=test"].split == "test" and protocols["pope"].folder == Path("b")


def test_two_folders_of_one_protocol_are_both_asked():
    texts = ["records=a,split=val", "records=b,split=val", "records=b,split=test"]
    assert [label for label, _ in named.parsed_protocols(texts)] == [texts[0], texts[1], "records,split=test"]


def test_settings_become_the_types_that_are_declared():
    assert named.typed("float | str", "0.25", "x") == 0.25
    assert named.typed("float | str", "dev", "x") == "dev"
    assert named.typed("bool", "false", "x") is False and named.typed("int | None", "3", "x") == 3
    with pytest.raises(ConfigError, match="is no x"):
        named.typed("int", "many", "x")


@pytest.fixture
def pointing(monkeypatch):
    """The model writes the same box to every question, sure of each token by two in three; drawn answers have it in
    one of two.
    """

    def answers(model, builder, records, *, with_probabilities=False, temperature=0.0, **how):
        texts = ["[0.10, 0.10, 0.60, 0.60]", "[0.80, 0.80, 0.90, 0.90]"]
        found = []
        for number, _ in enumerate(records):
            ids = builder.tokenizer(texts[number % 2 if temperature else 0], add_special_tokens=False)["input_ids"]
            logs = tuple(math.log(2 / 3) for _ in ids) if with_probabilities else ()
            found.append(Generated(builder.tokenizer.decode(ids), tuple(ids), logs))
        return found

    monkeypatch.setattr("lynx_moe.evaluation.asking.generate_answers", answers)


def test_how_sure_boxes_are_is_held_against_how_often_they_are_right(place, tmp_path, pointing, capsys):
    fitted = tmp_path / "temperature.json"
    assert asked(place, tmp_path / "a", "--dialect", "llava", "--fit-calibration", fitted) == 0
    (first,) = json.loads((tmp_path / "a" / "results.json").read_text())["results"]
    assert first["calibration"]["n"] >= 3 and first["calibration"]["confidence"] == pytest.approx(2 / 3)
    gap = abs(first["calibration"]["accuracy"] - 2 / 3)
    assert first["calibration"]["ece"] == pytest.approx(gap)
    shown = " ".join(capsys.readouterr().out.split())  # the terminal's lines end anywhere
    assert "calibration error" in shown and "temperature" in shown
    assert "Brier" in (tmp_path / "a" / "page.html").read_text()

    assert asked(place, tmp_path / "b", "--dialect", "llava", "--calibration", fitted) == 0
    (second,) = json.loads((tmp_path / "b" / "results.json").read_text())["results"]
    assert second["calibration"]["confidence"] == pytest.approx(Temperature.load(fitted)(2 / 3))
    # One temperature moves a confidence of 2/3 anywhere above 1/2, and to no other side of it.
    assert second["calibration"]["brier"] <= first["calibration"]["brier"] and second["value"] == first["value"]

    assert asked(place, tmp_path / "c", "--dialect", "llava", "--samples", 4) == 0
    (third,) = json.loads((tmp_path / "c" / "results.json").read_text())["results"]
    assert third["calibration"]["confidence"] == 0.5
    assert asked(place, tmp_path / "d", "--calibration", fitted, "--fit-calibration", fitted) == 1


def test_nothing_to_fit_a_temperature_on_is_said(place, tmp_path, capsys):
    assert asked(place, tmp_path / "out", "--fit-calibration", tmp_path / "t.json") == 1
    assert "no confidence" in capsys.readouterr().err and not (tmp_path / "t.json").exists()


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """What'sUp (scored, two ways to choose), Winoground (scored, two by two), POPE and MMVP (written)."""
    folder = tmp_path_factory.mktemp("benchmarks")
    words = {"left_of": "to the left of", "right_of": "to the right of", "on": "on", "under": "under"}
    paths = {name: f"controlled_images/cat_{name}_car.jpeg" for name in words}
    captions = {name: f"a cat {said} a car" for name, said in words.items()}
    rows = [
        {
            "image_path": f"data/{paths[k]}",
            "caption_options": [captions[k], *(c for n, c in captions.items() if n != k)],
        }
        for k in words
    ]
    put_json(folder / "whatsup_a/controlled_images_dataset.json", rows)
    put_pictures(folder / "whatsup_a", *paths.values())
    row = {"id": 0, "caption_0": "a cat on a dog", "caption_1": "a dog on a cat", "image_0": "a", "image_1": "b",
           "tag": "Noun", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": "Object"}  # fmt: skip
    put_lines(folder / "winoground/data/examples.jsonl", [row])
    put_pictures(folder / "winoground", "data/images/a.png", "data/images/b.png")
    asked = [{"question_id": k, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a cat?",
              "label": "yes" if k % 2 else "no"} for k in (1, 2)]  # fmt: skip
    put_lines(folder / "pope/coco_pope_random.json", asked)
    put_pictures(folder / "pope", "val2014/COCO_val2014_000000000001.jpg")
    questions = [[k, "Open or closed?", "(a) Open (b) Closed", "(a)"] for k in (1, 2)]
    put_table(folder / "mmvp/Questions.csv", ["Index", "Question", "Options", "Correct Answer"], questions)
    put_pictures(folder / "mmvp", "MMVP Images/1.jpg", "MMVP Images/2.jpg")
    return folder


@pytest.mark.parametrize("scorer", ["vqascore", "likelihood", "embedding"])
def test_benchmarks_of_all_kinds_are_asked_of_a_plain_model_in_one_command(place, benchmarks, scorer, tmp_path):
    names = ("whatsup_a", "winoground", "mmvp")
    pope = f"pope={benchmarks / 'pope'},kind=random"
    protocols = ["--protocols", pope, *(f"{name}={benchmarks / name}" for name in names)]
    how = ["--scorer", scorer, "--max-new-tokens", 4, "--batch-size", 4, "--out", tmp_path / "out"]
    assert evaluate(*protocols, *how, model=place / "base") == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    found = {r["protocol"]: r for r in content["results"]}
    assert {name: r["n"] for name, r in found.items()} == {"whatsup_a": 2, "winoground": 1, "pope": 2, "mmvp": 1}
    assert not any(r["faults"] for r in found.values())
    rows = pq.read_table(tmp_path / "out" / "rows.parquet").to_pylist()
    scored = [row for row in rows if row["protocol"] in ("whatsup_a", "winoground")]
    assert all(len(set(row["scores"])) > 1 for row in scored), "a scorer that sees nothing gives all the same"
    assert content["scorers"]["after"]["scorer"] == scorer
