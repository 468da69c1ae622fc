"""The report over hand-made cards: what is read, the front, the choice, and a page that no name can break."""

import base64
import html
import json
import re
from itertools import permutations
from urllib.parse import unquote

import numpy as np
import pytest

from lynx_moe.cli import main
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation import mcnemar_p
from lynx_moe.report import find_runs, front, paired_interval, pick, points, report
from tests.report.made import write_failure, write_run

# strength: (Acc@0.5, lost, won of 600); by hand: 1e-3 is beaten by 1e-2 in both, 1 by 0.1 in grounding alone.
KNOWN = {0.0: (0.80, 30, 2), 1e-3: (0.70, 20, 2), 1e-2: (0.75, 4, 3), 0.1: (0.50, 1, 1), 1.0: (0.03, 0, 0)}


@pytest.fixture
def sweep(tmp_path):
    for strength, (acc50, lost, won) in KNOWN.items():
        write_run(
            tmp_path / "sweep" / f"s{strength}", strength=strength, acc50=acc50, lost=lost, won=won, asked=600,
            gate=1 / (1 + 10 * strength),
        )  # fmt: skip
    return tmp_path / "sweep"


def test_front_is_the_known_one(sweep):
    found = points(find_runs([sweep]))
    assert [p.strength for p in found] == sorted(KNOWN)
    assert {p.strength for p in front(found)} == {0.0, 1e-2, 0.1}


def test_front_agrees_with_a_definition_by_pairs(tmp_path):
    draw = np.random.default_rng(3)
    for k in range(12):
        lost = int(draw.integers(0, 4))
        write_run(tmp_path / str(k), strength=k / 100, acc50=int(draw.integers(0, 5)) / 10, lost=lost, asked=100)
    found = points(find_runs([tmp_path]))
    beaten = set()
    for one, other in permutations(found, 2):
        at_least = one.acc50 >= other.acc50 and one.change >= other.change
        if at_least and (one.acc50 > other.acc50 or one.change > other.change):
            beaten.add(other.label)
    assert {p.label for p in front(found)} == {p.label for p in found} - beaten and beaten


def test_picks_the_best_whose_whole_interval_is_within_the_tolerance(sweep):
    found = points(find_runs([sweep]))
    assert pick(found).point.strength == 1e-2
    # The lower ends, in points: -1.0 at 0.01, -0.5 at 0.1, 0 at 1.
    assert pick(found, tolerance=0.9).point.strength == 0.1
    assert pick(found, tolerance=0.4).point.strength == 1.0
    assert pick(found, tolerance=10).point.strength == 0.0
    assert "gate_sparsity=0 points better (80.0%)" in pick(found).why


def test_of_equals_the_one_with_the_shutter_gates(tmp_path):
    for k, gate in enumerate([0.5, 0.1, 0.3]):
        write_run(tmp_path / str(k), strength=k / 10, acc50=0.6, gate=gate)
    chosen = pick(points(find_runs([tmp_path])))
    assert chosen.point.strength == 0.1 and "of 3 that point equally well" in chosen.why


def test_says_so_when_none_qualifies(tmp_path):
    write_run(tmp_path / "a", strength=0.1, lost=30, asked=600)
    write_run(tmp_path / "b", strength=0.2, lost=3, won=2, asked=60)
    chosen = pick(points(find_runs([tmp_path])))
    assert chosen.run is None and "None of 2 settings" in chosen.headline
    # b's own loss would pass at 2 points, its 60 questions would not.
    assert pick(points(find_runs([tmp_path])), tolerance=2).run is None
    assert "only 60" in pick(points(find_runs([tmp_path])), tolerance=2).why


def test_takes_nothing_that_points_no_better_than_the_base(tmp_path):
    write_run(tmp_path / "a", strength=0.1, acc50=0.0)
    write_run(tmp_path / "b", strength=0.2, acc50=0.0)
    assert pick(points(find_runs([tmp_path]))).headline == "No setting points better than the base"


def test_runs_that_differ_in_much_go_by_their_folders(tmp_path):
    write_run(tmp_path / "a", strength=0.1)
    write_run(tmp_path / "b", strength=0.2, top_k=1, num_experts=3, mix="token", attention_rank=2)
    assert [p.label for p in points(find_runs([tmp_path]))] == ["a", "b"]


def test_interval_is_that_of_resampled_answers():
    change = np.array([-1] * 12 + [1] * 5 + [0] * 183)
    draw = np.random.default_rng(5)
    means = [draw.choice(change, len(change)).mean() for _ in range(4000)]
    assert paired_interval(12, 5, 200) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.006)
    assert paired_interval(12, 5, 200) == paired_interval(12, 5, 200)


def test_seeds_are_one_point_with_mean_and_spread(tmp_path):
    for seed, acc50 in enumerate([0.5, 0.6, 0.7]):
        write_run(tmp_path / f"a{seed}", strength=0.1, acc50=acc50, seed=seed, lost=seed, asked=600)
    write_run(tmp_path / "b", strength=0.2, acc50=0.1)
    several, one = points(find_runs([tmp_path]))
    assert len(several.runs) == 3 and several.acc50 == pytest.approx(0.6) and several.spread("acc50") == (0.5, 0.7)
    assert several.label == "gate_sparsity=0.1" and one.label == "gate_sparsity=0.2"
    # Not narrower than the least certain of its seeds.
    assert several.interval == (paired_interval(2, 0, 600)[0], paired_interval(0, 0, 600)[1])
    assert pick([several, one]).run.settings["seed"] == 2


def test_baselines_are_called_by_their_method_and_have_no_strength(tmp_path):
    write_run(tmp_path / "a", strength=0.1)
    write_run(tmp_path / "b", strength=0.2)
    write_run(tmp_path / "c", strength=0.1, method="lora", gate=None, acc50=0.9, lost=90)
    write_run(tmp_path / "d", strength=0.2, method="lora", gate=None, acc50=0.9, lost=90)
    found = points(find_runs([tmp_path]))
    assert [p.label for p in found] == ["gate_sparsity=0.1", "gate_sparsity=0.2", "lora"]
    assert found[2].gate_use is None and len(found[2].runs) == 2


def test_page_holds_everything_and_needs_nothing_else(sweep):
    write_failure(sweep / "top_k=5")
    (sweep / "half" / "checkpoints").mkdir(parents=True)
    (sweep / "torn").mkdir()
    (sweep / "torn" / "run.json").write_text('{"settings": {"adapter')
    made = report([sweep])
    page = (sweep / "report" / "report.html").read_text()
    assert html.escape(made["pick"]["headline"]).replace("&#x27;", "&#39;") in page and "use top_k=4" in page
    assert [row["state"] for row in made["runs"]] == ["done"] * 5 + ["unfinished", "failed", "broken"]
    embedded = [base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([\w+/=]+)", page)]
    assert embedded == [(sweep / "report" / name).read_bytes() for name in ("trade-off.png", "gates.png")]
    assert not re.search(r"(src|href)=\"(https?:|//|file:|/)", page)
    for link in re.findall(r'href="(\.\.[^"]*)"', page):
        assert (sweep / "report" / unquote(link)).is_dir(), link
    assert json.loads((sweep / "report" / "report.json").read_text())["points"] == json.loads(
        json.dumps(made["points"])
    )


def test_hostile_names_stay_text(tmp_path):
    name = "<script>alert(1)<"
    write_run(tmp_path / name, strength=0.1, expert_width=None, sparsity_penalty='"><img src=x>$\\frac{$')
    write_run(tmp_path / "b $x_{", strength=0.1, sparsity_penalty="l1")
    write_failure(tmp_path / "c", "<b>bold</b> & <img onerror=x>")
    report([tmp_path])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page and "<b>bold" not in page and "&lt;script&gt;alert" in page
    assert page.count("<img") == 2 and "javascript:" not in page


@pytest.mark.parametrize("missing", ["measure", "grounding", "all"])
def test_missing_numbers_are_dashes_not_errors(tmp_path, missing):
    write_run(tmp_path / "a", **({"acc50": None} if missing == "grounding" else {"before": None}))
    if missing != "all":
        write_run(tmp_path / "b", strength=0.3, gate=None)
    made = report([tmp_path])
    assert len(made["points"]) == (missing != "all")
    assert (tmp_path / "report" / "trade-off.png").exists() == (missing != "all")
    assert (made["pick"]["run"] is None) == (missing == "all")


def test_two_sweeps_and_a_single_run_on_one_page(sweep, tmp_path):
    write_run(tmp_path / "single", strength=0.5)
    made = report([sweep, tmp_path / "single"], tmp_path / "both")
    assert {row["name"] for row in made["runs"]} == {f"sweep/s{strength}" for strength in KNOWN} | {"single"}


def test_command_line(sweep, tmp_path, capsys):
    assert main(["report", str(sweep), "--out", str(tmp_path / "r"), "--json", str(tmp_path / "r.json")]) == 0
    assert "Take gate_sparsity=0.01" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["pick"]["label"] == "gate_sparsity=0.01"
    assert main(["report", str(tmp_path / "nowhere")]) == 1


def test_mistakes_are_named(tmp_path):
    with pytest.raises(RecordError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(ConfigError, match="below 0"):
        report([tmp_path], tolerance=-1)


def test_p_of_the_card_is_shown(sweep):
    card = json.loads((sweep / "s0.0" / "run.json").read_text())
    card["evaluation"]["change"]["mcnemar_p"] = mcnemar_p(30, 2)
    (sweep / "s0.0" / "run.json").write_text(json.dumps(card))
    report([sweep])
    assert f"{mcnemar_p(30, 2):.2g}" in (sweep / "report" / "report.html").read_text()
