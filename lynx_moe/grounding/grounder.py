"""The one-line way to point: a picture and a phrase in, boxes out.

This file loads models, so it reaches up to rooms that know them, and does so only inside its functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from PIL import Image

from lynx_moe.errors import ConfigError, DialectError
from lynx_moe.grounding.box import Box
from lynx_moe.grounding.masks import Mask

if TYPE_CHECKING:
    from lynx_moe.data import Record
    from lynx_moe.evaluation import Temperature
    from lynx_moe.families.dialects import Dialect

DEFAULT_DIALECT = "percent"
REGION = re.compile(r"\{region:([0-9]{1,6})\}")
Region = Box | tuple[float, float] | Mask


class Grounder:
    """Points at what a phrase names: `Grounder.from_pretrained(path)(image, "the cracked gear")`.

    Args:
        model: a VLM that generates, with or without an adapter.
        processor: its processor.
        dialect: how it writes boxes; a registered name, or a `Dialect`.
        constrain: let only well-formed boxes through while it writes.
        calibration: what confidences are corrected by, fitted before (`lynx_moe.evaluation.Temperature`).
    """

    def __init__(
        self,
        model,
        processor,
        dialect: str | Dialect = DEFAULT_DIALECT,
        *,
        constrain: bool = False,
        calibration: Temperature | None = None,
    ):
        from lynx_moe.data import SampleBuilder
        from lynx_moe.families.dialects import get_dialect
        from lynx_moe.objectives.masks import mask_word_of

        self.model = model.eval()
        named = isinstance(dialect, str)
        word = mask_word_of(model)
        self.dialect = get_dialect(dialect, processor, word) if named else dialect
        if word is not None and self.dialect.mask_word is None:
            self.dialect = self.dialect.with_mask_word(word)
        self.constrain, self.calibration = constrain, calibration
        self._builder = SampleBuilder(processor, self.dialect)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike,
        *,
        base: str | os.PathLike | None = None,
        dialect: str | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        trust_remote_code: bool = False,
        constrain: bool = False,
        calibration: str | os.PathLike | None = None,
    ) -> Grounder:
        """Load what training or export left behind.

        Args:
            path: an exported model, a run folder (with `adapter/`), or an adapter alone.
            base: folder or Hub name of the base under an adapter; None takes the one that the adapter names.
            dialect: None takes the one the run was trained with, or "percent" where nothing says.
            device: where the model goes.
            dtype: number type of the weights; None takes the run's, and the stored one where nothing says.
            trust_remote_code: needed for exports that carry their own modelling code; read that code first.
            constrain: let only well-formed boxes through while it writes.
            calibration: a file that `lynx_moe.evaluation.Temperature.save` wrote.

        Raises:
            CheckpointError: there is no model at `path`, or the base of the adapter is not to be found; or there is no
                temperature in `calibration`.
        """
        from lynx_moe.evaluation import Temperature
        from lynx_moe.loading import load

        temperature = None if calibration is None else Temperature.load(calibration)
        found = load(path, base=base, dialect=dialect, dtype=dtype, trust_remote_code=trust_remote_code)
        return cls(found.model.to(device), found.processor, found.dialect, constrain=constrain, calibration=temperature)

    def __call__(self, image: Image.Image | str | os.PathLike, phrase: str, *, samples: int = 0) -> list[Box]:
        """The boxes of what `phrase` names, in pixels of `image`; empty when the model sees none.

        Args:
            image: a picture, or the path of one.
            phrase: what to find ("the red star"); a whole sentence, ending in "." or "?", is asked as it stands.
            samples: as of `ask`.

        Returns:
            Boxes with the phrase as label and a `confidence`.
        """
        _, boxes = self.ask(image, question_about(phrase), samples=samples)
        return [replace(box, label=phrase) for box in boxes]

    def ask(
        self,
        image: Image.Image | str | os.PathLike,
        question: str,
        *,
        regions: Sequence[Region] = (),
        samples: int = 0,
    ) -> tuple[str, list[Box]]:
        """The whole answer to a question about `image`, and the boxes of its final part.

        Args:
            image: a picture, or the path of one.
            question: as it is put to the model; "{region:0}" in it is the first of `regions`: "What is at {region:0}?".
            regions: places in pixels of `image`: a box, a point (x, y), or a mask. A model that was trained with visual
                prompts sees them on the picture; others are told boxes and points in text.
            samples: 0: a box's confidence comes from the probabilities of the tokens of its numbers
                (`lynx_moe.evaluation.box_confidences`). Else so many further answers are drawn, and it is the share of
                them that have the box too (`agreement`); the draws are the same each time.

        Raises:
            DialectError: the model cannot see a region, or the question names one that is not there; or a mask is shown
                to a model that was not trained with visual prompts. RecordError: more regions than it has vectors for.
        """
        from lynx_moe.data import final_answer
        from lynx_moe.evaluation import agreement, box_confidences, generate_answers

        record = asked(image, question, regions)
        how = {"progress": False, "constrain": self.constrain}
        answer = generate_answers(self.model, self._builder, [record], with_probabilities=True, **how)[0]
        parsed = self.dialect.decode(final_answer(answer.text), record.size)
        if samples:
            others = generate_answers(self.model, self._builder, [record] * samples, temperature=1.0, **how)
            drawn = [self.dialect.decode(final_answer(other.text), record.size).boxes for other in others]
            confidences = agreement(parsed.boxes, drawn)
        else:
            confidences = box_confidences(answer, parsed, self._builder.tokenizer, self.dialect)
        if self.calibration is not None:
            confidences = tuple(map(self.calibration, confidences))
        return answer.text, [replace(box, confidence=sure) for box, sure in zip(parsed.boxes, confidences, strict=True)]

    def masks(self, image: Image.Image | str | os.PathLike, phrase: str) -> list[Mask]:
        """The masks of what `phrase` names, in pixels of `image`; empty when the model speaks of none.

        Args:
            image: a picture, or the path of one.
            phrase: what to outline ("the red star"); a whole sentence, ending in "." or "?", is asked as it stands.

        Raises:
            ConfigError: the model has no head that draws masks, and its dialect writes no outlines.
        """
        from lynx_moe.data import final_answer
        from lynx_moe.evaluation import generate_answers
        from lynx_moe.evaluation.spoken_masks import final_masks

        if self.dialect.mask_word is None and not self.dialect.writes_outlines:
            raise ConfigError(
                "this model has no head that draws masks",
                why="it was not trained with the objective `masks`, or its heads.safetensors is not beside the adapter",
                fix="train with +objective/extra=masks, or ask for boxes",
            )
        record = asked(image, question_about(phrase, "Segment"))
        answer = generate_answers(self.model, self._builder, [record], progress=False, constrain=self.constrain)[0]
        parsed = self.dialect.decode(final_answer(answer.text), record.size)
        return [mask for mask in final_masks(answer.masks, parsed, record.size) if mask is not None]


def asked(image: Image.Image | str | os.PathLike, question: str, regions: Sequence[Region] = ()) -> Record:
    """A question about a picture, or about the one at a path, and places in it, as a record without an answer."""
    from lynx_moe.data import Record

    picture = image if isinstance(image, Image.Image) else Image.open(image)
    return Record(
        id="asked",
        answer="",
        kind="grounding",
        task="asked",
        size=picture.size,
        load=lambda: picture,
        **shown(question, regions),
    )


def shown(question: str, regions: Sequence[Region]) -> dict[str, Any]:
    """The fields of a record whose question shows `regions`, its "{region:k}" put as the placeholders of records.

    >>> shown("What is at {region:0}?", [(3, 4)])["question"]
    'What is at {point:0}?'

    Raises:
        DialectError: there is no such region, or it is an empty mask.
    """
    boxes, masks, points, places = [], [], [], []
    for region in regions:
        if isinstance(region, Mask):
            places.append(f"{{mask:{len(boxes)}}}")
            boxes.append(bounds(region))
            masks.append(region)
        elif len(corners := tuple(map(float, region))) == 2:
            places.append(f"{{point:{len(points)}}}")
            points.append(corners)
        else:
            places.append(f"{{box:{len(boxes)}}}")
            boxes.append(corners)
            masks.append(None)

    def placed(found: re.Match[str]) -> str:
        if int(found[1]) >= len(places):
            raise DialectError(
                f"the question names {found[0]}, and there are {len(places)} regions",
                why="they are counted from 0",
                fix="give a region for each that the question names",
            )
        return places[int(found[1])]

    return {
        "question": REGION.sub(placed, question),
        "question_boxes": tuple(boxes),
        "question_points": tuple(points),
        "question_masks": tuple(masks),
    }


def bounds(mask: Mask) -> tuple[float, float, float, float]:
    """The box around a mask's pixels; raises DialectError for a mask without any."""
    rows, columns = mask.array().any(axis=1).nonzero()[0], mask.array().any(axis=0).nonzero()[0]
    if not len(rows):
        raise DialectError(
            "a region is a mask without a pixel", why="there is no place that it shows", fix="leave the region out"
        )
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def question_about(phrase: str, verb: str = "Find") -> str:
    """A phrase as the question that training asked most plainly; a sentence stays as it is.

    >>> question_about("the red star"), question_about("Where is the cat?"), question_about("cat", "Segment")
    ('Find the red star.', 'Where is the cat?', 'Segment the cat.')
    """
    phrase = phrase.strip()
    if phrase.endswith((".", "?", "!")):
        return phrase
    first, _, rest = phrase.partition(" ")
    return f"{verb} the {rest if first.lower() in ('the', 'a', 'an') and rest else phrase}."
