"""VSR: a threshold that means something, or one fitted on dev, and the authors' groups of relations."""

import math

import numpy as np
import pytest

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.protocols import PROTOCOLS, Reply
from lynx_moe.evaluation.protocols.vsr import GROUP_OF, GROUPS, best_threshold
from tests.evaluation.protocols.understanding import ask_all, put_lines, put_pictures, random_scores

RELATIONS = ["in front of", "touching", "next to", "facing", "of a new kind"]


def row(k, label):
    return {
        "image": f"{k:012d}.jpg", "image_link": "http://images.cocodataset.org/x.jpg", "caption": f"The cat {k}.",
        "label": label, "relation": RELATIONS[k % 5], "annotator_id": 1, "vote_true_validator_id": [2],
        "vote_false_validator_id": [],
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for split, n in (("test", 20), ("dev", 10)):
        put_lines(tmp_path / f"data/splits/random/{split}.jsonl", [row(k, int(k % 3 == 0)) for k in range(n)])
    put_pictures(tmp_path, *(f"images/{k:012d}.jpg" for k in range(20)))
    return tmp_path


def test_right_is_a_score_of_at_least_half_where_the_label_is_true(folder):
    protocol = PROTOCOLS.get("vsr")(folder=folder)
    found, scores = random_scores(protocol)
    labels = {item.id: item.truth["label"] for item in protocol.items()}
    right = {key: (s[0] >= 0.5) == labels[key] and not math.isnan(s[0]) for key, s in scores.items()}
    summary = protocol.summarise(found)
    assert any(s[0] == 0.5 for s in scores.values()) and protocol.needs_probability
    assert summary["accuracy"] == pytest.approx(sum(right.values()) / 20) and summary["threshold"] == 0.5
    projective = [right[f"test/{k}"] for k in range(0, 20, 5)]
    assert summary["by_group"]["projective"] == {"n": 4, "accuracy": pytest.approx(np.mean(projective))}
    assert summary["by_relation"]["in front of"]["n"] == summary["by_group"]["unknown"]["n"] == 4


@pytest.mark.parametrize("score", [-3.2, 1.5, math.inf, math.nan])
def test_a_score_that_is_no_probability_is_wrong_and_counted(folder, score):
    protocol = PROTOCOLS.get("vsr")(folder=folder)
    for item in protocol.items():
        judged = protocol.judge(item, [Reply(score=score)])
        assert judged.right is False and sum(judged.errors.values()) == 1


def test_a_threshold_fitted_on_dev_is_applied_to_the_test_split_alone(folder):
    protocol = PROTOCOLS.get("vsr")(folder=folder, threshold="dev")
    assert not protocol.needs_probability

    def score(ask):  # of true ones -2, of false ones -5: no probabilities
        return -2.0 if int(ask.text.split()[-1][:-1]) % 3 == 0 else -5.0

    rows = ask_all(protocol, score)
    summary = protocol.summarise(rows)
    assert (summary["n"], summary["accuracy"], summary["threshold"]) == (20, 1.0, -2.0)
    assert "10 rows of dev" in summary["threshold_from"] and all(row.right is None for row in rows)
    only_test = [row for row in rows if row.truth["split"] == "test"]
    assert protocol.summarise(only_test)["accuracy"] is None


def test_the_best_threshold_is_the_best_of_all_that_could_be():
    draw = np.random.default_rng(0)
    for n in range(1, 60):
        scores = draw.choice([0.1, 0.2, 0.4, 0.7, math.nan], n).tolist()
        labels = draw.integers(0, 2, n).tolist()
        known = [(s, label) for s, label in zip(scores, labels, strict=True) if s == s]
        if not known:
            assert best_threshold(scores, labels) is None
            continue

        def right(t, known=known):
            return sum((s >= t) == label for s, label in known)

        assert right(best_threshold(scores, labels)) == max(map(right, [0.1, 0.2, 0.4, 0.7, math.inf]))


def test_every_relation_is_in_one_group():
    assert len(GROUPS) == 7
    assert sum(len(relations.split(", ")) for relations in GROUPS.values()) == len(GROUP_OF)


def test_settings_that_mean_nothing_are_refused(folder):
    kind = PROTOCOLS.get("vsr")
    for settings in ({"threshold": 1.5}, {"threshold": "half"}, {"split": "val"}, {"threshold": "dev", "split": "dev"}):
        with pytest.raises(ConfigError):
            kind(folder=folder, **settings)
    assert kind(folder=folder, threshold="0.25").threshold == 0.25


def test_bad_labels_and_missing_pictures_are_counted(tmp_path):
    put_lines(tmp_path / "random/test.jsonl", [row(0, 1), row(0, 2), row(1, "1"), row(2, 0)])
    put_pictures(tmp_path, f"images/{0:012d}.jpg")
    protocol = PROTOCOLS.get("vsr")(folder=tmp_path)
    assert len(list(protocol.items())) == 1
    assert protocol.faults == {"row without a usable label": 2, "missing picture": 1}
