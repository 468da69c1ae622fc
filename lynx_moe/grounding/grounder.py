"""The one-line way to point: a picture and a phrase in, boxes out.

This file loads models, so it reaches up to rooms that know them, and does so only inside its functions.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from lynx_moe.grounding.box import Box

if TYPE_CHECKING:
    from lynx_moe.evaluation import Generated
    from lynx_moe.families.dialects import Dialect

DEFAULT_DIALECT = "percent"


class Grounder:
    """Points at what a phrase names: `Grounder.from_pretrained(path)(image, "the cracked gear")`.

    Args:
        model: a VLM that generates, with or without an adapter.
        processor: its processor.
        dialect: how it writes boxes; a registered name, or a `Dialect`.
    """

    def __init__(self, model, processor, dialect: str | Dialect = DEFAULT_DIALECT):
        from lynx_moe.data import SampleBuilder
        from lynx_moe.families.dialects import get_dialect

        self.model = model.eval()
        self.dialect = get_dialect(dialect, processor) if isinstance(dialect, str) else dialect
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
    ) -> Grounder:
        """Load what training or export left behind.

        Args:
            path: an exported model, a run folder (with `adapter/`), or an adapter alone.
            base: folder or Hub name of the base under an adapter; None takes the one that the adapter names.
            dialect: None takes the one the run was trained with, or "percent" where nothing says.
            device: where the model goes.
            dtype: number type of the weights; None takes the run's, and the stored one where nothing says.
            trust_remote_code: needed for exports that carry their own modelling code; read that code first.

        Raises:
            CheckpointError: there is no model at `path`, or the base of the adapter is not to be found.
        """
        from lynx_moe.loading import load

        found = load(path, base=base, dialect=dialect, dtype=dtype, trust_remote_code=trust_remote_code)
        return cls(found.model.to(device), found.processor, found.dialect)

    def __call__(self, image: Image.Image | str | os.PathLike, phrase: str) -> list[Box]:
        """The boxes of what `phrase` names, in pixels of `image`; empty when the model sees none.

        Args:
            image: a picture, or the path of one.
            phrase: what to find ("the red star"); a whole sentence, ending in "." or "?", is asked as it stands.

        Returns:
            Boxes with the phrase as label; `confidence` is the geometric mean of the probabilities of the box's tokens.
        """
        _, boxes = self.ask(image, question_about(phrase))
        return [replace(box, label=phrase) for box in boxes]

    def ask(self, image: Image.Image | str | os.PathLike, question: str) -> tuple[str, list[Box]]:
        """The whole answer to a question about `image`, and the boxes of its final part."""
        from lynx_moe.data import Record, final_answer
        from lynx_moe.evaluation import generate_answers

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
        answer = generate_answers(self.model, self._builder, [record], progress=False, with_probabilities=True)[0]
        last = final_answer(answer.text)
        parsed = self.dialect.decode(last, picture.size)
        start = len(answer.text) - len(last)
        return answer.text, [
            replace(box, confidence=self._confidence(answer, start + first, start + end))
            for box, (first, end) in zip(parsed.boxes, parsed.spans, strict=True)
        ]

    def _confidence(self, answer: Generated, first: int, end: int) -> float:
        """Geometric mean of the probabilities of the tokens that write characters `first` to `end` of the text."""
        decode = self._builder.tokenizer.decode
        whole = decode(answer.ids, skip_special_tokens=True)
        shift = len(whole) - len(whole.lstrip())
        logs, written = [], 0
        for count, log in enumerate(answer.log_probabilities, start=1):
            upto = len(decode(answer.ids[:count], skip_special_tokens=True)) - shift
            if upto > first and written < end:
                logs.append(log)
            written = upto
        return math.exp(sum(logs) / len(logs)) if logs else 0.0


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
