"""The wording of prompts and answers: the same code for training, evaluation and use.

A stepwise answer is one string in which the last step is the answer, as in the paper's figure (arXiv 2410.10491):
`Step 1: Find the man at [0, 13, 29, 100]. Step 2: The object is orange.` So the final answer of any text is what
follows its last `Step n:`, and the whole text when there is none.
"""

from __future__ import annotations

import re
from itertools import accumulate

from lynx_moe.data.records import Record
from lynx_moe.errors import DialectError, RecordError
from lynx_moe.families.dialects import Dialect
from lynx_moe.grounding import Mask

# The suffix that the paper shows at inference, and ours in training too unless `lynx_moe.data.steps` says otherwise.
STEPWISE_SUFFIX = " Let's think step-by-step."
STEP = re.compile(r"Step [0-9]{1,3}: ?")

NO_SIZE = (1, 1)  # a text-only record has no picture and, by the record format, no boxes


def frame(record: Record, picture: int) -> tuple[int, int]:
    """(width, height) that the boxes of one of the record's pictures are spelled in.

    Raises:
        RecordError: the record has no such picture.
    """
    sizes = record.sizes
    if not sizes:
        return NO_SIZE
    if not 0 <= picture < len(sizes):
        raise RecordError(
            f"record {record.id!r} has boxes in picture {picture} of {len(sizes)}",
            why="pictures are counted from 0", fix="make the data again",
        )  # fmt: skip
    return sizes[picture]


def question_text(record: Record, dialect: Dialect, suffix: str = STEPWISE_SUFFIX) -> str:
    """The question as put to the model: boxes and points that it shows spelled by `dialect`, and the stepwise `suffix`
    when a grounding record has steps. Braces in the question of a record that shows neither are left alone.

    Raises:
        DialectError: a box or point cannot be written, for example because the model cannot see it; or a mask is shown,
            which text cannot do.
    """
    shown = record.question
    if record.shows_places:
        if "{mask:" in shown:
            raise DialectError(
                f"the question of record {record.id!r} shows a mask: {shown!r}",
                why="text shows boxes and points; a mask is seen by models that were trained with visual prompts",
                fix="+objective/extra=prompts in training; or show the box of what the mask is of",
            )
        shown = dialect.render(shown, record.question_boxes, frame(record, 0), record.question_points)
    return shown + suffix if record.is_grounding and record.steps else shown


def target_text(record: Record, dialect: Dialect) -> str:
    """The true answer in the words the model should use: steps first, boxes and masks spelled by `dialect`, each in the
    frame of the picture that it lies in.

    Raises:
        DialectError: a box cannot be written, for example because the model cannot see it, or a mask cannot.
    """
    return " ".join(target_parts(record, dialect))


def target_parts(record: Record, dialect: Dialect) -> list[str]:
    """What `target_text` joins: each step with its number, the answer last; the answer alone when there are none.

    Raises:
        DialectError: a box or a mask cannot be written.
    """
    return ["".join(piece for piece, _ in part) for part in _parts(record, dialect)]


def mask_places(record: Record, dialect: Dialect) -> list[tuple[int, Mask, int]]:
    """Where `target_text` has the mask word: the index behind its last character, the mask that it stands for, and
    which of the record's pictures that lies in. Nothing in a dialect without such a word.

    Raises:
        DialectError: a box or a mask cannot be written.
    """
    if dialect.mask_word is None:
        return []
    found, end = [], 0
    pictures = [*(step.picture for step in record.steps), record.picture]
    for part, picture in zip(_parts(record, dialect), pictures, strict=True):
        for piece, mask in part:
            end += len(piece)
            if mask is not None:
                found.append((end, mask, picture))
        end += 1  # the space that joins parts
    return found


def _parts(record: Record, dialect: Dialect) -> list[list[tuple[str, Mask | None]]]:
    """The parts of the answer in pieces (`Dialect.pieces`)."""
    said = [*((step.text, step) for step in record.steps), (record.answer, record)]
    parts = [list(dialect.pieces(text, of.boxes, frame(record, of.picture), masks=of.masks)) for text, of in said]
    if not record.steps:
        return parts
    return [[(f"Step {number}: ", None), *part] for number, part in enumerate(parts, start=1)]


def step_starts(record: Record, dialect: Dialect) -> list[int]:
    """Where in `target_text` each part begins; from the second on with the space that comes before it."""
    ends = list(accumulate(len(part) + 1 for part in target_parts(record, dialect)))
    return [0, *(end - 1 for end in ends[:-1])]


def final_answer(text: str) -> str:
    """What follows the last `Step n:` of an answer.

    >>> final_answer("Step 1: Find the man at [0, 13, 29, 100]. Step 2: The object is orange.")
    'The object is orange.'
    >>> final_answer("Three.")
    'Three.'
    """
    return STEP.split(text)[-1].strip()


def step_texts(text: str) -> list[str]:
    """The steps of an answer before its final one, without their numbers.

    >>> step_texts("Step 1: Find the man at [0, 13, 29, 100]. Step 2: The object is orange.")
    ['Find the man at [0, 13, 29, 100].']
    """
    return [part.strip() for part in STEP.split(text)[1:-1]]


def messages(question: str, *, pictures: int, answer: str | None = None) -> list[dict]:
    """A conversation of one turn, its pictures before the question, in the form that chat templates read."""
    content = [{"type": "image"} for _ in range(pictures)]
    turns = [{"role": "user", "content": [*content, {"type": "text", "text": question}]}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns
