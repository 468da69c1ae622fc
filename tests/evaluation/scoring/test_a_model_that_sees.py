"""VQAScore of the embedded base, which sees: what is in a picture scores higher than what is not."""

import re

from transformers import AutoModelForImageTextToText, AutoProcessor

from lynx_moe.data import load_records
from lynx_moe.evaluation.protocols import Score
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.pocket import path
from synth import Settings, make

ASKED = re.compile(r"(?:Is there|Do you see|Tell me if there is|Tell me if you see) (.*?)(?: in the picture)?[?.]")


def test_what_is_there_scores_above_a_half_and_what_is_not_below(tmp_path):
    make(Settings(out=str(tmp_path), task="exists", size=12, split="heldout"))
    records = list(load_records(tmp_path, "heldout"))
    asks = [Score(image_id=r.image_id, load=r.image, text=ASKED.fullmatch(r.question)[1]) for r in records]
    model = AutoModelForImageTextToText.from_pretrained(path())
    processor = AutoProcessor.from_pretrained(path())
    # It was taught its own words, and answers in small letters: both are what the options are for.
    scorer = make_scorer("vqascore", model, processor, question="Is there {text} in the picture?", any_case=True)
    right = [(score >= 0.5) == (r.answer == "yes") for score, r in zip(scorer(asks), records, strict=True)]
    assert len(right) == 24 and sum(right) >= 22
    official = make_scorer("vqascore", model, processor, question="Is there {text} in the picture?")
    assert max(official(asks)) < 0.01
