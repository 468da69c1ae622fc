"""A whole run in its folder: fingerprints, two models side by side, numbers without a model, curves and the page."""

import base64
import io
import json
import re
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from lynx_moe.errors import CheckpointError, ConfigError, InUseError
from lynx_moe.evaluation import curves
from lynx_moe.evaluation.page import page, thumbnail
from lynx_moe.evaluation.protocol_run import Job, Opened, Stage, done_again, owned, results_of, run_protocols
from lynx_moe.evaluation.protocols.base import PROTOCOLS
from lynx_moe.evaluation.robustness import Changed
from lynx_moe.evaluation.rows import RowKey, read_rows, write_rows
from lynx_moe.evaluation.table import print_results
from lynx_moe.grounding.drawing import GUESS_COLOUR
from tests.evaluation.asked import Choices, brightness_scorer, tiny_asker, write_choices

ENTRIES = [(f"{k}", "red" if k % 3 else "blue", "red", "blue") for k in range(12)]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"
ABOUT = {"model": "m", "against": None, "gate": "auto", "dialect": "llava", "scorer": "brightness"}


@pytest.fixture
def choices(monkeypatch):
    """Found by its name, as every protocol is."""
    monkeypatch.setitem(PROTOCOLS._entries, "choices", Choices)


def upside_down(asks):
    return [-score for score in brightness_scorer(asks)]


def stage(side, jobs, scorer=brightness_scorer, **identity):
    opened = Opened(tiny_asker(scorer=scorer), {"weights": side, **identity})
    return Stage(side, jobs, lambda: nullcontext(opened))


def asked(out, *stages, settings=None, **options):
    return run_protocols(out, stages, settings=settings or {"batch_size": 2}, progress=False, **options)


def both(out, folder):
    jobs = [Job("choices", Choices(folder))]
    return asked(out, stage("before", jobs, upside_down), stage("after", jobs))


def test_two_models_are_asked_the_same_and_every_flip_is_listed(tmp_path):
    done = both(tmp_path / "out", write_choices(tmp_path / "data", ENTRIES))
    content = results_of(done)
    assert [(r["side"], r["value"]) for r in content["results"]] == [("before", 4 / 12), ("after", 8 / 12)]
    change = content["changes"][0]
    assert (change["won"], change["lost"], len(change["flips"])) == (8, 4, 12)
    assert read_rows(tmp_path / "out" / "rows.parquet") == done.rows


@pytest.mark.parametrize(
    ("part", "again"),
    [
        ("weights", lambda s: {"stages": [stage("after", s, weights="other")]}),
        ("gate", lambda s: {"stages": [stage("after", s, gate="off")]}),
        ("strict", lambda s: {"stages": [stage("after", [Job("choices", replace(s[0].protocol, strict=False))])]}),
        ("batch_size", lambda s: {"stages": [stage("after", s)], "settings": {"batch_size": 3}}),
        ("limit", lambda s: {"stages": [stage("after", s)], "limit": 5}),
    ],
)
def test_another_model_protocol_or_setting_is_noticed(tmp_path, part, again):
    jobs = [Job("choices", Choices(write_choices(tmp_path / "data", ENTRIES)))]
    asked(tmp_path / "out", stage("after", jobs))
    changed = again(jobs)
    stages = changed.pop("stages")
    with pytest.raises(ConfigError, match=part):
        asked(tmp_path / "out", *stages, **changed)
    done = asked(tmp_path / "out", *stages, **changed, restart=True)
    assert len(done.rows[RowKey("after", "", "choices")]) == changed.get("limit", 12)


def test_only_one_process_writes_into_a_folder(tmp_path):
    with owned(tmp_path), pytest.raises(InUseError), owned(tmp_path):
        pass
    with owned(tmp_path):
        pass


def test_models_are_closed_before_the_next_is_opened(tmp_path):
    events = []

    def opening(side):
        @contextmanager
        def opens():
            events.append(f"open {side}")
            yield Opened(tiny_asker(scorer=brightness_scorer), {"weights": side})
            events.append(f"close {side}")

        return opens

    jobs = [Job("choices", Choices(write_choices(tmp_path / "data", ENTRIES)))]
    asked(tmp_path / "out", *(Stage(side, jobs, opening(side)) for side in ("before", "after")))
    assert events == ["open before", "close before", "open after", "close after"]


def write_results(out, content):
    (out / "results.json").write_text(json.dumps(ABOUT | content))


def test_numbers_come_again_from_rows_alone(tmp_path, choices):
    out = tmp_path / "out"
    folder = write_choices(tmp_path / "data", ENTRIES)
    jobs = [Job("choices", Choices(folder)), Job("choices", Changed(Choices(folder), "blur", 2), "blur 2")]
    done = asked(out, stage("before", jobs, upside_down), stage("after", jobs))
    content = results_of(done)
    write_results(out, content)
    (folder / "choices.json").unlink()
    again, kept = done_again(out)
    assert results_of(again) == content and kept["model"] == "m" and kept["unknown_rows"] == 0
    assert page(ABOUT | content | {"curves": []}, again, {})  # without its pictures


def test_rows_that_nobody_asked_for_count_for_nothing_and_are_counted(tmp_path, choices):
    out = tmp_path / "out"
    done = both(out, write_choices(tmp_path / "data", ENTRIES))
    content = results_of(done)
    write_results(out, content)
    key = RowKey("after", "", "choices")
    forged = {
        **done.rows,
        key: [*done.rows[key], replace(done.rows[key][0], right=True)],
        RowKey("x", "", "y"): done.rows[key],
    }
    write_rows(out / "rows.parquet", forged)
    again, kept = done_again(out)
    assert kept["unknown_rows"] == 12 and again.rows == done.rows
    assert again.faults[key] == {"row of an id that came before": 1}


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no finished evaluation"):
        done_again(tmp_path)


def printed(content):
    console = Console(width=200, record=True)
    print_results(ABOUT | content, console)
    return console.export_text()


def test_the_terminal_shows_every_number_with_its_interval_and_what_was_left_out(tmp_path):
    entries = [*ENTRIES, ("broken", "", "red", "blue")]
    content = results_of(both(tmp_path / "out", write_choices(tmp_path / "data", entries)))
    shown = printed(content)
    low, high = content["changes"][0]["interval"]
    assert f"{low:+.3f} to {high:+.3f}" in shown and "+0.333" in shown
    assert shown.count("picture that cannot be opened 1") == 2
    content["results"][0]["protocol"] = "[bold]x[/nothing]"  # a label that is no markup
    assert "[bold]x[/nothing]" in printed(content)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_shows_flips_escapes_hostile_text_and_fetches_nothing(tmp_path):
    done = both(tmp_path / "out", write_choices(tmp_path / "data", ENTRIES))
    for rows in done.rows.values():
        rows[0].answers, rows[0].group = [HOSTILE], HOSTILE
    content = ABOUT | {"against": HOSTILE} | results_of(done)
    text = page(content | {"curves": [{"said": [HOSTILE]}]}, done, {}).decode()
    tags = Tags(text)
    assert not {"script", "link", "iframe", "object", "form"} & set(tags.tags)
    assert len(tags.sources) == 12 and all(source.startswith("data:image/") for source in tags.sources)
    assert "&lt;script&gt;" in text and "{{ 7*7 }}" in text and "default-src 'none'" in text
    assert len(re.findall(r'class="card lost"', text)) == 4 and text.index("card lost") < text.index("card won")


def test_the_page_is_made_of_texts_and_pictures_of_any_form(tmp_path):
    done = both(tmp_path / "out", write_choices(tmp_path / "data", ENTRIES))
    for rows in done.rows.values():
        rows[0].truth = {"label": "half of a character: \ud83d"}
    assert page(ABOUT | results_of(done) | {"curves": []}, done, {}).startswith(b"<!doctype html>")
    for size in ((2000, 1), (1, 2000)):
        assert thumbnail(Image.new("RGB", size), []).startswith("data:image/jpeg")


def test_boxes_are_drawn_on_the_page_where_they_are(tmp_path):
    uri = thumbnail(Image.new("RGB", (100, 50)), [(GUESS_COLOUR, [[20, 10, 60, 40]])])
    drawn = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert drawn.size == (320, 160)
    coloured = [(x, y) for x in range(320) for y in range(160) if drawn.getpixel((x, y))[0] > 128]
    xs, ys = zip(*coloured, strict=True)
    assert (min(xs), min(ys), max(xs), max(ys)) == pytest.approx((64, 32, 192, 128), abs=2)


def result(variant, value, **changes):
    entry = {"side": "after", "protocol": "p", "variant": variant, "headline": "acc", "higher_is_better": True, "n": 9,
             "value": value, "interval": (value - 0.1, value + 0.1) if value is not None else None}  # fmt: skip
    return entry | changes


def test_best_last_and_mean_over_checkpoints():
    found = curves.curves_of([result("", 0.9), *(result(f"step {s}", v) for s, v in ((30, 0.4), (4, 0.2), (100, 0.3)))])
    (curve,) = found
    assert [p["at"] for p in curve["points"]] == [4, 30, 100]
    assert (curve["best"], curve["last"], curve["mean"]) == ({"value": 0.4, "step": 30}, 0.3, pytest.approx(0.3))
    low = [result(f"step {s}", v, higher_is_better=False) for s, v in ((1, 0.4), (2, 0.2))]
    assert curves.curves_of(low)[0]["best"] == {"value": 0.2, "step": 2}


def test_curves_of_changes_begin_at_the_plain_pictures_and_say_what_it_costs():
    under = [{"side": "after", "protocol": "p", "variant": "blur 3", "change": -0.2, "interval": (-0.3, -0.1), "n": 7}]
    (curve,) = curves.curves_of([result("blur 3", 0.5), result("", 0.8)], under)
    assert [(p["at"], p["value"]) for p in curve["points"]] == [(0, 0.8), (3, 0.5)]
    assert [curves.heights(curve, p) for p in curve["points"]] == [(0, 0, 0), (-0.2, -0.3, -0.1)]
    assert curve["points"][1]["change"] == -0.2 and "-0.200 (-0.300 to -0.100, 7 items)" in curve["said"][0]


def test_curves_are_drawn_as_pictures_and_an_empty_one_is_no_mistake():
    made = curves.curves_of([result("", 0.8), result("blur 3", None), result("blur 5", 0.4), result("step 3", None)])
    assert curves.draw([c for c in made if c["along"] == "blur"], "t $x", "level").startswith(b"\x89PNG")
    assert "no value" in next(c for c in made if c["along"] == "step")["said"][0]
