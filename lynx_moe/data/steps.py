"""Step-wise tuning: into which forwards a stepwise answer is cut, and what each of them learns.

The paper (arXiv 2410.10491, figure) learns every step in a forward of its own, the true earlier steps given:

    picture, "<question> Let's think of the next step."                          learns "Step 1: ..."
    picture, "<question> Let's think of the next step." "Step 1: ..."            learns "Step 2: ..."
    picture, "<question> Let's think of the next step." "Step 1: ... Step 2: .." learns "Step 3: ...", the answer

and asks "Let's think step-by-step." at inference, where all steps come out in one string. Which turn of a conversation
the earlier steps stand in, and where an answer ends, the figure does not say. Ours: they stand in the assistant's turn,
and only the last step ends with EOS, because a model that was taught so writes all steps in one turn. So every forward
is the beginning of one string, cut behind its step, and no tokenizer can cut a step differently than inference does.

For that reason, too, steps that share a suffix are one causal forward: behind "Step 2:" a token sees the same text
whether the string goes on or not. `packed` uses it, and lays segments beside each other (`lynx_moe.data.packing`) only
where suffixes differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lynx_moe.data.beside import rows_beside
from lynx_moe.data.marking import ANSWER
from lynx_moe.data.prompts import STEPWISE_SUFFIX
from lynx_moe.data.records import Record
from lynx_moe.data.sample import SampleBuilder, Tokens
from lynx_moe.data.targets import TargetMaker

NEXT_STEP_SUFFIX = "Let's think of the next step."  # the paper's, while learning


@dataclass(frozen=True, slots=True)
class Stepwise:
    """How stepwise grounding answers are learned; other records are always learned whole.

    Attributes:
        mode: "whole": one forward with the suffix of inference. "faithful": one per step, the picture in each.
            "packed": the supervision of "faithful" in one forward.
        suffixes: what ends the question while step 1, 2, .. is learned; the last goes on for later steps. Not for
            "whole".
    """

    mode: str = "whole"
    suffixes: tuple[str, ...] = (NEXT_STEP_SUFFIX,)

    @property
    def in_segments(self) -> bool:
        """Whether a record may need several segments of a row, which not every model can take."""
        return self.mode == "packed" and len(set(self.suffixes)) > 1

    def runs(self, count: int) -> Iterator[tuple[str, int, int]]:
        """(suffix, first step, last step) of each forward that `count` steps, the answer among them, need."""
        first = 1
        for number in range(1, count + 1):
            suffix = self._suffix(number)
            if number == count or self.mode == "faithful" or self._suffix(number + 1) != suffix:
                yield suffix, first, number
                first = number + 1

    def _suffix(self, number: int) -> str:
        return f" {self.suffixes[min(number, len(self.suffixes)) - 1]}"


WHOLE = Stepwise()


def step_tokens(builder: SampleBuilder, record: Record, stepwise: Stepwise = WHOLE) -> list[Tokens]:
    """What is learned of `record`, one entry per forward or segment, then what objectives read beside it; a single one
    for most records.

    Args:
        builder: with `mark_steps`, unless answers are learned whole.

    Raises:
        DialectError, RecordError: as from `SampleBuilder`.
    """
    if stepwise.mode == "whole" or not (record.is_grounding and record.steps):
        return [*builder.tokens([record], STEPWISE_SUFFIX), *rows_beside(builder, record)]
    count = len(record.steps) + 1
    always = [maker for maker in builder.targets if maker.of_input]
    cut = [_cut(builder.tokens([record], suffix)[0], a, b, count, always) for suffix, a, b in stepwise.runs(count)]
    return [*cut, *rows_beside(builder, record)]


def _cut(tokens: Tokens, first: int, last: int, count: int, always: Sequence[TargetMaker] = ()) -> Tokens:
    """Only steps `first` to `last` learned, and nothing behind them; targets of `always` in every such cut."""
    numbers = np.where(tokens.in_step == ANSWER, count, tokens.in_step)
    learned = np.arange(len(numbers)) >= tokens.answer_at
    begin, end = (int((~learned | (numbers < each)).sum()) for each in (first, last + 1))
    # A question, and a step that is given, stand in several forwards; what is said of their tokens counts once.
    own = (
        t
        for t in tokens.targets
        if begin <= t.place < end
        or (t.place < tokens.answer_at and (first == 1 or any(maker.makes(t) for maker in always)))
    )
    return replace(
        tokens,
        ids=tokens.ids[:end],
        given=begin - tokens.answer_at,
        in_box=None if tokens.in_box is None else tokens.in_box[:end],
        in_step=tokens.in_step[:end],
        targets=tuple(own),
    )
