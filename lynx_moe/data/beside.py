"""Rows that objectives read beside those of a record: prompts about its pictures, and texts alone, nothing of them
learned.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lynx_moe.data.records import Record
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.data.targets import Target
from lynx_moe.errors import RecordError


def rows_beside(builder: SampleBuilder, record: Record) -> list[Tokens]:
    """What the builder's makers of targets want read beside the record; none for most.

    Raises:
        DialectError, RecordError: as for the record itself.
    """
    made = []
    for row in (row for maker in builder.targets if maker.adds_rows for row in maker.rows(record)):
        tokens = alone(builder, row.text) if row.asked is None else builder.prompts([row.asked])[0]
        length = len(tokens.ids)
        # Rows of a batch bear the same marks.
        marks = {"in_box": np.zeros(length, dtype=bool)} if builder.mark_boxes else {}
        marks |= {"in_step": np.zeros(length, dtype=np.int8)} if builder.mark_steps else {}
        made.append(replace(tokens, targets=(*tokens.targets, Target(length - 1, row.values)), **marks))
    return made


def alone(builder: SampleBuilder, text: str) -> Tokens:
    """A text without a chat template and without a picture.

    Raises:
        RecordError: it has no tokens, or writes the token that stands for a picture.
    """
    ids = np.asarray(builder.tokenizer(text)["input_ids"], dtype=np.int32)
    if not len(ids) or (ids == builder.image_token_id).any():
        raise RecordError(
            f"{text!r} cannot be read alone",
            why=f"it writes {builder.image_token!r}, and there is no picture" if len(ids) else "it has no tokens",
            fix="take the text out",
        )
    return Tokens(ids=ids, answer_at=len(ids), pictures_at=(), is_grounding=False)
