"""The chat template as it comes out, with the tokens that are learned marked; and whether they are the right ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lynx_moe.data import Record, RecordSet, SampleBuilder, target_text
from lynx_moe.data.sample import IGNORED
from lynx_moe.data.steps import WHOLE, Stepwise, step_tokens

KINDS = ("grounding", "stepwise", "understanding")
LOOKED_THROUGH = 10_000  # records, for one of each kind


@dataclass(frozen=True)
class Marked:
    """A sample in words: `before` is shown to the model, `learned` is what it learns to say, `after` (nothing, if all
    is well) is not learned again. `wrong` says what is not as it should be.
    """

    id: str
    kind: str
    before: str
    learned: str
    after: str
    wrong: str = ""

    def plain(self) -> str:
        return f"{self.before}[[{self.learned}]]{self.after}"


def one_of_each(records: RecordSet) -> dict[str, int]:
    """Position of the first grounding record without steps, of the first with, and of the first understanding one."""
    found: dict[str, int] = {}
    for position, kind in enumerate(records.column("kind")[:LOOKED_THROUGH]):
        if kind == "grounding" and not {"grounding", "stepwise"} <= found.keys():
            kind = "stepwise" if records[position].steps else "grounding"
        found.setdefault(kind, position)
    return {kind: found[kind] for kind in KINDS if kind in found}


def marked(builder: SampleBuilder, record: Record, kind: str, stepwise: Stepwise = WHOLE) -> list[Marked]:
    """The samples of `record` decoded, with their learned tokens apart; what is wrong stands at the first.

    Most records have one sample; a stepwise answer whose steps are learned apart has one for each.
    """
    shown, learned, wrong = [], [], ""
    builder = builder.with_targets(())  # rows that objectives read beside it learn nothing
    for tokens in step_tokens(builder, record, stepwise):
        sample = builder.sample(tokens, record.sizes)
        ids, labels = sample["input_ids"].tolist(), sample["labels"].tolist()
        places = [k for k, label in enumerate(labels) if label != IGNORED]
        if not places:
            wrong = wrong or "nothing is learned"
        elif places != list(range(places[0], places[-1] + 1)):
            wrong = wrong or "the learned tokens have gaps"
        elif any(labels[k] != ids[k] for k in places):
            wrong = wrong or "a label is not the token at its place"
        first, last = (places[0], places[-1] + 1) if places else (len(ids), len(ids))
        learned += ids[first:last]
        read = builder.tokenizer.decode
        parts = [read(part) for part in (shortened(builder, ids[:first]), ids[first:last], ids[last:])]
        shown.append(Marked(record.id, kind, *parts))
    wrong = wrong or not_the_answer(builder, learned, target_text(record, builder.dialect))
    return [replace(shown[0], wrong=wrong), *shown[1:]]


def not_the_answer(builder: SampleBuilder, learned: list[int], answer: str) -> str:
    """What is wrong with learning these tokens for `answer`; nothing when they spell it and then end the turn."""
    tokenizer = builder.tokenizer
    end = tokenizer.eos_token_id
    if end is not None and learned[-1] != end:
        return f"the last learned token is {tokenizer.decode(learned[-1:])!r}, not the end of the text"
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    closing = len(learned)
    while closing and (learned[closing - 1] in special or not tokenizer.decode(learned[closing - 1 : closing]).strip()):
        closing -= 1
    text = tokenizer.decode(learned[:closing]).strip()
    # A tokenizer that normalises says otherwise what it was given; so does its own round trip.
    own = tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"]).strip()
    if text in (answer.strip(), own):
        return ""
    return f"{text!r} is learned, the answer is {answer!r}"


def shortened(builder: SampleBuilder, ids: list[int]) -> list[int]:
    """With one token for each run of a picture's."""
    picture = builder.image_token_id
    return [token for k, token in enumerate(ids) if token != picture or k == 0 or ids[k - 1] != picture]
