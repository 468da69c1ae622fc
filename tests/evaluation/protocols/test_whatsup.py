"""What'sUp A and B: individual, pair and set accuracy, 2-way and 4-way, against the published loops."""

import numpy as np
import pytest

from lynx_moe.evaluation.protocols import PROTOCOLS, Reply
from tests.evaluation.protocols.understanding import ask_all, put_json, put_pictures

WORDS = {"left": "to the left of", "right": "to the right of", "on": "on", "under": "under"}
WORDS_B = {"left": "to the left of", "right": "to the right of", "in-front": "in front of", "behind": "behind"}
THINGS = [("beer-bottle", "armchair"), ("mug", "table"), ("book", "chair"), ("cap", "stool"), ("pan", "bed")]


def write(folder, words, file, where, things=THINGS):
    rows = []
    for first, second in things:
        for relation in words:
            end = "_of" if relation not in ("on", "under", "behind") else ""
            captions = {r: f"A {first.replace('-', ' ')} {said} a {second}" for r, said in words.items()}
            path = f"data/{where}/{first}_{relation}{end}_{second}.jpeg"
            others = [c for r, c in captions.items() if r != relation]
            rows.append({"image_path": path, "caption_options": [captions[relation], *others]})
            put_pictures(folder, path.removeprefix("data/"))
    put_json(folder / file, rows)
    return rows


@pytest.fixture(params=["a", "b"])
def whatsup(request, tmp_path):
    if request.param == "a":
        rows = write(tmp_path, WORDS, "controlled_images_dataset.json", "controlled_images")
    else:
        rows = write(tmp_path, WORDS_B, "controlled_clevr_dataset.json", "controlled_clevr")
    return PROTOCOLS.get(f"whatsup_{request.param}")(folder=tmp_path), rows


def published(rows, score, four):
    """Individual, pair and set accuracy as the repositories count them, without argmax's kindness to ties."""
    opposite = {"left": "right", "on": "under", "front": "behind"}
    opposite |= {b: a for a, b in opposite.items()}
    right = {}
    for row in rows:
        true, *others = row["caption_options"]
        word = next(w for w in true.split() if w in opposite)
        if not four:
            others = [c for c in others if opposite[word] in c.split()]
        parts = row["image_path"].split("/")[-1].split("_")
        won = all(score(row["image_path"], true) > score(row["image_path"], other) for other in others)
        right.setdefault((parts[0], parts[-1]), {})[word] = won
    pairs = [
        r[a] and r[b]
        for r in right.values()
        for a, b in (("left", "right"), ("on", "under"), ("front", "behind"))
        if a in r
    ]
    singles = [won for r in right.values() for won in r.values()]
    return np.mean(singles), np.mean(pairs), np.mean([all(r.values()) for r in right.values()])


def test_accuracies_are_those_of_the_published_loops(whatsup):
    protocol, rows = whatsup
    names = {row["image_path"] for row in rows}
    texts = sorted({c for row in rows for c in row["caption_options"]})
    for seed in range(5):
        draw = np.random.default_rng(seed)
        # The true caption is favoured, so that pairs and sets are not all wrong; few values, so that there are ties.
        table = {(n, t): float(draw.integers(0, 4)) for n in sorted(names) for t in texts}
        for row in rows:
            table[row["image_path"], row["caption_options"][0]] += 2
        found = protocol.summarise(ask_all(protocol, lambda ask, table=table: table[ask.image_id, ask.text]))
        for end, four in (("", False), ("_4way", True)):
            single, pair, whole = published(rows, lambda n, t, table=table: table[n, t], four)
            assert found[f"individual{end}"] == pytest.approx(single) and found[f"pair{end}"] == pytest.approx(pair)
            assert found[f"set{end}"] == pytest.approx(whole)
            assert found["interval"][f"set{end}"][0] <= whole <= found["interval"][f"set{end}"][1]
        assert found["n"] == 10 and found["sets"] == 5 and 0 < found["pair"] < 1


def test_a_model_that_sees_nothing_new_in_the_picture_gets_no_pair(whatsup):
    protocol, _ = whatsup
    found = protocol.summarise(ask_all(protocol, lambda ask: float("left" in ask.text)))
    assert found["pair"] == found["set"] == 0 and found["individual"] == pytest.approx(1 / 4)
    assert found["chance"]["pair"] == 0.25 and found["chance"]["set_4way"] == pytest.approx(1 / 256)


def test_questions_name_both_arrangements_or_all_four(tmp_path):
    write(tmp_path, WORDS, "controlled_images_dataset.json", "controlled_images", THINGS[:1])
    item = next(PROTOCOLS.get("whatsup_a")(folder=tmp_path).items())
    assert {ask.question for ask in item.asks} == {
        "Is the beer bottle to the left of or to the right of the armchair?",
        "Is the beer bottle to the left of, to the right of, on, or under the armchair?",
    }
    assert len(item.asks) == 12 and item.group == "left_right"


def test_pairs_without_both_pictures_and_sets_without_both_pairs_are_left_out(tmp_path):
    rows = write(tmp_path, WORDS, "controlled_images_dataset.json", "controlled_images", THINGS[:2])
    (tmp_path / rows[0]["image_path"].removeprefix("data/")).unlink()
    put_json(
        tmp_path / "controlled_images_dataset.json", [*rows, rows[5], {"image_path": "x", "caption_options": ["a"] * 4}]
    )
    protocol = PROTOCOLS.get("whatsup_a")(folder=tmp_path)
    found = protocol.summarise([protocol.judge(i, [Reply(score=1.0)] * 12) for i in protocol.items()])
    assert found["n"] == 3 and found["sets"] == 1 and found["individual"] == 0
    assert protocol.faults == {
        "missing picture": 1, "pair without both pictures": 1, "duplicate id": 1,
        "row without four captions of arrangements": 1,
    }  # fmt: skip
