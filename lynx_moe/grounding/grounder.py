"""The one-line way to point: a picture and a phrase in, boxes out.

This file loads models, so it reaches up to rooms that know them, and does so only inside its functions.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from lynx_moe.grounding.box import Box

if TYPE_CHECKING:
    from lynx_moe.evaluation import Temperature
    from lynx_moe.families.dialects import Dialect

DEFAULT_DIALECT = "percent"


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

        self.model = model.eval()
        self.dialect = get_dialect(dialect, processor) if isinstance(dialect, str) else dialect
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

    def ask(self, image: Image.Image | str | os.PathLike, question: str, *, samples: int = 0) -> tuple[str, list[Box]]:
        """The whole answer to a question about `image`, and the boxes of its final part.

        Args:
            image: a picture, or the path of one.
            question: as it is put to the model.
            samples: 0: a box's confidence comes from the probabilities of the tokens of its numbers
                (`lynx_moe.evaluation.box_confidences`). Else so many further answers are drawn, and it is the share of
                them that have the box too (`agreement`); the draws are the same each time.
        """
        from lynx_moe.data import Record, final_answer
        from lynx_moe.evaluation import agreement, box_confidences, generate_answers

        picture = image if isinstance(image, Image.Image) else Image.open(image)
        record = Record(
            id="asked",
            question=question,
            answer="",
            kind="grounding",
            task="asked",
            size=picture.size,
            load=lambda: picture,
        )
        how = {"progress": False, "constrain": self.constrain}
        answer = generate_answers(self.model, self._builder, [record], with_probabilities=True, **how)[0]
        parsed = self.dialect.decode(final_answer(answer.text), picture.size)
        if samples:
            others = generate_answers(self.model, self._builder, [record] * samples, temperature=1.0, **how)
            drawn = [self.dialect.decode(final_answer(other.text), picture.size).boxes for other in others]
            confidences = agreement(parsed.boxes, drawn)
        else:
            confidences = box_confidences(answer, parsed, self._builder.tokenizer, self.dialect)
        if self.calibration is not None:
            confidences = tuple(map(self.calibration, confidences))
        return answer.text, [replace(box, confidence=sure) for box, sure in zip(parsed.boxes, confidences, strict=True)]


def question_about(phrase: str) -> str:
    """A phrase as the question that training asked most plainly; a sentence stays as it is.

    >>> question_about("the red star"), question_about("Where is the cat?")
    ('Find the red star.', 'Where is the cat?')
    """
    phrase = phrase.strip()
    if phrase.endswith((".", "?", "!")):
        return phrase
    first, _, rest = phrase.partition(" ")
    return f"Find the {rest if first.lower() in ('the', 'a', 'an') and rest else phrase}."
