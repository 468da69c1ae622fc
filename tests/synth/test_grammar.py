"""Sentences a person would write: articles, plurals, lists, spaces and full stops, over thousands of records."""

import random
import re
from dataclasses import replace

import pytest

from synth.languages import LANGUAGES, load_pack
from synth.languages.grammar import EnglishWord, JapaneseWord, Words
from synth.render import COLOURS, SHAPES, photos, things
from synth.scene import Obj, Relation, Scene
from synth.settings import Settings
from synth.shard import scene_records
from synth.sources.rendered import RenderedOptions, RenderedSource
from synth.tasks import TASKS

COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,"
    "snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,"
    "fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
).split(",")


@pytest.mark.parametrize(
    "one, many",
    [("cat", "cats"), ("person", "people"), ("mouse", "mice"), ("sheep", "sheep"), ("scissors", "scissors"),
     ("knife", "knives"), ("pair of skis", "pairs of skis"), ("skis", "skis"), ("wine glass", "wine glasses"),
     ("bus", "buses"), ("box", "boxes"), ("man", "men"), ("child", "children"), ("butterfly", "butterflies"),
     ("fish", "fish"), ("glass of water", "glasses of water"), ("tv", "tvs"), ("lens", "lenses")],
)  # fmt: skip
def test_plurals(one, many):
    assert f"{EnglishWord(one):plural}" == many


@pytest.mark.parametrize(
    "phrase, said",
    [("apple", "an apple"), ("umbrella", "an umbrella"), ("red apple", "a red apple"),
     ("orange star", "an orange star"), ("hour hand", "an hour hand"), ("uniform", "a uniform"),
     ("unicorn", "a unicorn"), ("hot dog", "a hot dog"),
     ("oven", "an oven")],
)  # fmt: skip
def test_articles(phrase, said):
    assert f"{EnglishWord(phrase):a}" == said


def test_lists():
    words = Words(map(EnglishWord, ("apple", "red star", "oven")))
    assert f"{words:a}" == "an apple, a red star and an oven" and f"{Words(words[:2])}" == "apple and red star"
    assert f"{Words(map(JapaneseWord, ('猫', '犬')))}" == "猫、犬"


@pytest.mark.parametrize(
    "word, spec, said",
    [("赤色の星", "imasu", "あります"), ("猫", "imasu", "います"), ("男の人", "iru", "いる"), ("鍵", "iru", "ある"),
     ("人", "how_many", "何人"), ("猫", "how_many", "何匹"), ("象", "how_many", "何頭"), ("鳥", "how_many", "何羽"),
     ("鍵", "how_many", "いくつ"), ("車", "counter", "台"), ("本", "counter", "冊"), ("鍵", "counter", "個"),
     ("テディベア", "imasu", "あります"), ("ホットドッグ", "imasen", "ありません"), ("犬", "plural", "犬")],
)  # fmt: skip
def test_japanese_counts_and_speaks_of_the_living_as_such(word, spec, said):
    assert format(JapaneseWord(word), spec) == said


def test_predicates_take_the_form_that_their_place_needs():
    verb = EnglishWord.verb
    assert [verb("wearing", "man", asked) for asked in ("subject", "object")] == ["wearing", "is wearing"]
    assert [verb("has", "man", asked) for asked in ("subject", "object")] == ["that has", "has"]
    assert [verb("is on", "cup", asked) for asked in ("subject", "object")] == ["on", "is on"]
    assert verb("ride", "man", "subject") == verb("has", "scissors", "subject") == verb("", "man", "object") == ""
    assert JapaneseWord.verb("の上にある", "猫", "subject") == "の上にいる"
    assert JapaneseWord.verb("に乗っている", "人", "object") == "乗っている"
    assert JapaneseWord.verb("の上にある", "猫", "object") == ""


def everyday(rng: random.Random) -> Scene:
    """Things of COCO's names at random places, some twice: as annotated photographs are."""
    names = rng.choices(COCO, k=4)
    objects = []
    for k, name in enumerate([*names, *names[:2], names[0]]):
        x, y, side = rng.randrange(500), rng.randrange(300), rng.randrange(20, 140)
        known = {"size": "small" if side < 70 else "large"} if rng.random() < 0.7 else {}
        traits = ("wooden",) if rng.random() < 0.3 else ()
        box = (float(x), float(y), float(x + side), float(y + side * 0.8))
        objects.append(Obj(id=k, name=name, box=box, attributes=known, depth=rng.uniform(1, 9), traits=traits))
    said = [Relation(subject=k, predicate=rng.choice(("on", "wearing", "has")), object=k + 1) for k in range(4)]
    return Scene(
        index=rng.getrandbits(30), width=640, height=480, objects=objects, image_bytes=lambda: (b"", "jpg"),
        source="everyday", licence="none", complete=rng.random() < 0.5, vocabulary=tuple(COCO), relations=said,
    )  # fmt: skip


@pytest.fixture(scope="module")
def records():
    """Thousands of records by language, of rendered and of everyday scenes, both wordings."""
    found = {language: [] for language in LANGUAGES}
    rng = random.Random(0)
    scenes = [RenderedSource().scene(k, "grammar", 0) for k in range(25)] + [everyday(rng) for _ in range(60)]
    scenes += [RenderedSource(RenderedOptions(text=0.6)).scene(k, "grammar", 1) for k in range(12)]
    for language in LANGUAGES:
        for split in ("train", "unseen"):
            settings = Settings(language=language, split=split, task=["all", "several"])
            names = [name for name in settings.task_names() if name not in ("words", "numbers")]
            for scene, other in zip(scenes, [*scenes[1:], scenes[0]], strict=True):
                pair = {2: (scene, replace(other, index=scene.index + 1))}
                found[language] += scene_records(scene, settings, names, pair)[0]
    return found


def texts(record):
    return [record["question"], record["answer"], record["phrase"], *(step["text"] for step in record["steps"])]


def test_english_reads_well(records):
    assert len(records["en"]) > 3000
    plurals = {name: f"{EnglishWord(name):plural}" for name in (*COCO, *things(), *SHAPES, "thing")}
    singular_after_many = re.compile(rf"\b[02-9] (?:{'|'.join(n for n, p in plurals.items() if n != p)})\b(?! \w)")
    plural_after_one = re.compile(rf"\b1 (?:{'|'.join(p for n, p in plurals.items() if n != p)})\b")
    wrong = [
        re.compile(r"  |^ | $| [,.?]|,,|\.\.|\bthe the\b|\ba an\b|\ban a\b"),
        re.compile(r"\ban? (?:people|mice|knives|buses|scissorss|skiss)\b"),
        re.compile(r"\b[Aa] (?:[aeio]|u(?!ni))"), re.compile(r"\b[Aa]n [^aeioul]"),
        re.compile(r"\{(?!(?:box|point):\d+\})"), singular_after_many, plural_after_one,
    ]  # fmt: skip
    for record in records["en"]:
        for text in texts(record):
            for pattern in wrong:
                assert not pattern.search(text), (record["id"], text, pattern.pattern)
        assert re.fullmatch(r"[A-Z].*[.?]", record["question"]), (record["id"], record["question"])


def test_japanese_reads_well(records):
    assert len(records["ja"]) > 3000
    living = "猫|犬|象|魚|蝶|カエル|カメ|アヒル|人|鳥|馬|羊|牛|熊|シマウマ|キリン"
    wrong = re.compile(
        r"[A-Za-z]|。。|、、|をを|はは|にに|がが|[,?!.]$|(?<![\]}]) (?![\[{])"
        rf"|(?:{living})[はが](?:\[\]に)?あり|(?:星|円|ハート|鍵|帽子|椅子|本)[はが](?:\[\]に)?い[まる]"
    )
    for record in records["ja"]:
        for text in texts(record):
            # Boxes, points and lists of numbers; what is painted on the picture, in quotes or read.
            plain = re.sub(r"\{(?:box|point):\d+\}|\[[^\]]*\]", "[]", text)
            plain = re.sub("「[A-Z]+」", "「字」", plain)
            if record["task"] == "read_word" and text == record["answer"]:
                continue
            assert not wrong.search(plain), (record["id"], text)
        assert re.fullmatch(r".*[。？]", record["question"]), (record["id"], record["question"])


def test_japanese_has_a_word_of_its_own_for_everything_drawn_and_for_coco():
    pack = load_pack("ja")
    for group in ((*things(), *SHAPES), COCO, ("plain", "noise", *photos())):
        said = [pack.names[name] for name in group]
        assert len(set(said)) == len(said) and all(pack.writes(word) for word in said)
    colours = [pack.attribute(colour) for colour in COLOURS]
    assert len(set(colours)) == len(COLOURS) and all(map(pack.writes, colours))


@pytest.mark.parametrize("language", LANGUAGES)
def test_new_tasks_are_asked_in_many_ways(language):
    pack = load_pack(language)
    fewest = {name: min(len(seen) for key, (seen, _) in entry.items() if len(seen) > 1) for name, entry in
              pack.tasks.items() if name in NEW}  # fmt: skip
    assert set(fewest) == set(NEW) <= set(TASKS)
    assert min(fewest.values()) >= 6, fewest
    for name in NEW:
        for key, (seen, unseen) in pack.tasks[name].items():
            assert len(seen) == 1 or len(unseen) >= 2, (name, key)


NEW = (
    "find_attribute", "ordinal", "superlative", "multi_hop", "predicate", "compare_counts", "odd_one_out",
    "name_region", "describe_region", "find_region", "refer", "grounded_caption", "nearer", "in_front", "which_picture",
    "same_in_both", "more_in", "difference",
)  # fmt: skip
