"""One record as the numbers a model reads.

Text and picture go separate ways, so that the text of a record is tokenised once and the picture of many records is
prepared once. They meet where the processor puts its picture tokens: how many there are depends only on the picture's
size, so they are asked of the processor once per size and put in place of the single picture token that the chat
template writes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from lynx_moe.data.marking import in_boxes, in_steps
from lynx_moe.data.pictures import side_by_side
from lynx_moe.data.prompts import NO_SIZE, STEPWISE_SUFFIX, messages, question_text, step_starts, target_text
from lynx_moe.data.records import Record
from lynx_moe.data.targets import Target, TargetMaker, Told
from lynx_moe.errors import FamilyError, RecordError
from lynx_moe.families.dialects import Dialect
from lynx_moe.families.picture_tokens import (
    is_prefix_model,
    model_inputs_of_picture,
    picture_alone,
    picture_token_ids,
)

IGNORED = -100  # label of a token that is not learned, as everywhere in transformers
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised record before its picture tokens are spread out.

    `ids` (L,) int32 holds one picture token for each picture, at `pictures_at`, all of them before the answer, which is
    learned and begins at `answer_at`; of a stepwise one the first `given` tokens may be given instead, as the steps
    before the one that is learned. `in_box` (L,) says which tokens spell a box of the answer, `in_step` (L,) int8
    which step of a stepwise grounding answer a token belongs to (1, 2, .., `ANSWER`; 0: none); None unless asked for.
    `targets` are what objectives beside the answer ask for.
    """

    ids: np.ndarray
    answer_at: int
    pictures_at: tuple[int, ...]
    is_grounding: bool
    given: int = 0
    in_box: np.ndarray | None = None
    in_step: np.ndarray | None = None
    targets: tuple[Target, ...] = ()

    @property
    def picture_at(self) -> int | None:
        """Where the first picture stands; None for a text-only record."""
        return self.pictures_at[0] if self.pictures_at else None

    def shown(self, sizes: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Which of a record's pictures stand in it: all, or none in a text alone."""
        return sizes if self.pictures_at else ()


class SampleBuilder:
    """Turns records into samples through the base's own processor and chat template.

    Args:
        processor: a transformers processor with an image processor, a tokenizer and a chat template.
        dialect: how boxes are written.
        mark_boxes: give samples `in_box` as well, for a loss that weighs the tokens of boxes.
        mark_steps: give samples `in_step` as well, for a loss that weighs steps, or to cut answers into them.
        targets: give samples what these make as well, for objectives beside the answer.

    Raises:
        FamilyError: the processor has no chat template or no picture token; or boxes or steps are to be marked or
            targets made, and its tokenizer does not say which characters a token stands for.
    """

    def __init__(
        self,
        processor,
        dialect: Dialect,
        *,
        mark_boxes: bool = False,
        mark_steps: bool = False,
        targets: Sequence[TargetMaker] = (),
    ):
        self.processor = processor
        self.dialect = dialect
        self.tokenizer = processor.tokenizer
        self.mark_boxes = mark_boxes
        self.mark_steps = mark_steps
        self.targets = tuple(targets)
        self._refuse_slow_tokenizer()
        self._is_prefix_model = is_prefix_model(processor)
        self._picture_ids: dict[tuple[int, int], np.ndarray] = {}
        self._picture_targets: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._token_types: tuple[str, ...] | None = None
        self._others: dict[str, SampleBuilder] = {}
        if getattr(processor, "chat_template", None) is None and getattr(self.tokenizer, "chat_template", None) is None:
            raise FamilyError(
                f"{type(processor).__name__} has no chat template",
                why="prompts are worded by the base's own template, and nothing can stand in for it",
                fix="set processor.chat_template to the template the base was trained with",
            )
        if getattr(processor, "image_token", None) is None:
            raise FamilyError(
                f"{type(processor).__name__} names no picture token",
                why="samples are built by putting the picture's tokens in its place",
                fix="use a base whose processor has image_token",
            )
        self.image_token = str(processor.image_token)
        self.image_token_id = self.tokenizer.convert_tokens_to_ids(self.image_token)

    def with_targets(self, targets: Sequence[TargetMaker], key: str = "") -> SampleBuilder:
        """The same, for samples with other targets; for one `key` the same again, with what it remembers.

        Raises:
            FamilyError: as when it was made.
        """
        if key in self._others:
            return self._others[key]
        if self._token_types is None:
            # Learned with a picture's tokens, which all copies share: one that finds them known would never learn it.
            self.picture_ids((64, 64))
        other = copy.copy(self)
        other.targets, other._picture_targets = tuple(targets), {}
        other._refuse_slow_tokenizer()
        if key:
            self._others[key] = other
        return other

    @property
    def adds_rows(self) -> bool:
        """Whether objectives want rows read beside those of records."""
        return any(maker.adds_rows for maker in self.targets)

    def _refuse_slow_tokenizer(self) -> None:
        if (self.mark_boxes or self.mark_steps or self.targets) and not self.tokenizer.is_fast:
            what = "box" if self.mark_boxes else "step" if self.mark_steps else "phrase"
            raise FamilyError(
                f"{type(self.tokenizer).__name__} cannot tell which tokens spell a {what}",
                why="only tokenizers of the tokenizers library know the characters behind a token",
                fix="load the fast tokenizer of this family, or leave objective.box_weight, stepwise and step_weights "
                "and the objectives beside the answer",
            )

    def __call__(self, record: Record) -> dict[str, torch.Tensor]:
        """The training sample of `record`, without batch axis on token tensors.

        Returns:
            `input_ids`, `labels` (-100 outside the answer), `attention_mask`, `is_grounding` and, if asked for,
            `in_box`, `in_step` and targets, each (L,), with the processor's own token types if it has them; items of
            targets; and, when there are pictures, what the image processor returns for them and targets of pictures,
            each joined along the first axis.

        Raises:
            DialectError: a box of the record cannot be written. RecordError: the text cannot be tokenised as a sample.
        """
        sample = self.sample(self.tokens([record])[0], record.sizes)
        images = [record.image(k) for k in range(len(record.sizes))]
        return sample | side_by_side([self.pixels(image) | self.picture_targets(image) for image in images])

    def question(self, record: Record, suffix: str = STEPWISE_SUFFIX) -> str:
        """The question as it is put to the model, in words.

        Raises:
            DialectError, RecordError: it cannot be.
        """
        for maker in self.targets:
            record = maker.worded(record)
        return question_text(record, self.dialect, suffix)

    def tokens(self, records: Sequence[Record], suffix: str = STEPWISE_SUFFIX) -> list[Tokens]:
        """Prompt and true answer of each record, tokenised; `suffix` ends the questions of stepwise records."""
        return [self._tokens(record, target_text(record, self.dialect), suffix) for record in records]

    def prompts(self, records: Sequence[Record]) -> list[Tokens]:
        """The prompt of each record alone, up to where the answer begins; targets are those of the prompt's tokens."""
        return [self._tokens(record, None) for record in records]

    def spread(self, tokens: Tokens, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """(L,) int64 ids with all tokens of pictures of `sizes`, one for each of `tokens.pictures_at`, in place."""
        parts, start = [], 0
        for at, size in zip(tokens.pictures_at, sizes, strict=True):
            parts += [tokens.ids[start:at], self.picture_ids(size)]
            start = at + 1
        return np.concatenate([*parts, tokens.ids[start:]]).astype(np.int64)

    def length(self, tokens: Tokens, sizes: Sequence[tuple[int, int]]) -> int:
        """How many tokens the sample has with all tokens of its pictures in place."""
        return len(tokens.ids) + sum(len(self.picture_ids(size)) - 1 for size in tokens.shown(sizes))

    def sample(self, tokens: Tokens, sizes: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """The token tensors of a sample, each (L,), and items of targets, (items, ..)."""
        sizes = tokens.shown(sizes)
        ids = self.spread(tokens, sizes)
        answer_at = tokens.answer_at + len(ids) - len(tokens.ids)
        learned_at = answer_at + tokens.given
        labels = np.full_like(ids, IGNORED)
        labels[learned_at:] = ids[learned_at:]
        marked = {}
        for name, values in (("in_box", tokens.in_box), ("in_step", tokens.in_step)):
            if values is not None:
                marked[name] = torch.zeros(len(ids), dtype=torch.from_numpy(values).dtype)
                marked[name][learned_at:] = torch.from_numpy(values[tokens.answer_at + tokens.given :])
        return {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "attention_mask": torch.ones(len(ids), dtype=torch.long),
            "is_grounding": torch.full((len(ids),), tokens.is_grounding),
            **marked,
            **self.target_tensors(tokens, sizes, len(ids)),
            **self.token_types(ids, answer_at),
        }

    def target_tensors(self, tokens: Tokens, sizes: Sequence[tuple[int, int]], length: int) -> dict[str, torch.Tensor]:
        """(L,) each target over tokens, those of the pictures' tokens with them; and (items, ..) those of items."""
        if not self.targets:
            return {}
        found = {name: torch.zeros(length, dtype=t) for maker in self.targets for name, t in maker.names.items()}
        before = np.zeros(len(tokens.ids), dtype=np.int64)  # tokens that pictures add before each one
        size_at = dict(zip(tokens.pictures_at, sizes, strict=True))
        for at, size in zip(tokens.pictures_at, sizes, strict=True):
            count, start = len(self.picture_ids(size)), at + before[at]
            for name, values in self._of_picture(size).items():
                found[name][start : start + count] = torch.from_numpy(values[:count])
            before[at + 1 :] += count - 1
        for target in tokens.targets:
            start = target.place + before[target.place]
            for name, value in target.values.items():
                found[name][start] = value
            if target.place in size_at and target.item is not None:
                maker = next(maker for maker in self.targets if maker.makes(target))
                for name, values in maker.of_shown(self.processor, size_at[target.place], target.item).items():
                    found[name][start : start + len(values)] = torch.from_numpy(values)
        for maker in self.targets:
            own = [t for t in tokens.targets if t.item is not None and maker.makes(t)]
            made = maker.of_items(self.processor, [t.item for t in sorted(own, key=lambda t: t.place)])
            found |= {name: torch.from_numpy(values) for name, values in made.items()}
        return found

    def _of_picture(self, size: tuple[int, int]) -> dict[str, np.ndarray]:
        if size not in self._picture_targets:
            made = [maker.of_picture(self.processor, size) for maker in self.targets]
            self._picture_targets[size] = {name: values for each in made for name, values in each.items()}
        return self._picture_targets[size]

    def token_types(self, ids: np.ndarray, answer_at: int | None = None) -> dict[str, torch.Tensor]:
        """The processor's own per-token types of `ids` (L,), for processors that give them; else nothing.

        Args:
            answer_at: where the answer begins; None for a prompt alone. Prefix models see the prompt as a whole and
                mark the answer.
        """
        if self._token_types is None:
            self.picture_ids((64, 64))
        if not self._token_types:
            return {}
        if self._is_prefix_model:
            types = torch.zeros(len(ids), dtype=torch.long)
            types[len(ids) if answer_at is None else answer_at :] = 1
        else:
            types = torch.tensor(self.processor.create_mm_token_type_ids([ids.tolist()])[0])
        return {name: types for name in self._token_types}

    def pixels(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """What the image processor makes of one picture, all that the model takes."""
        return model_inputs_of_picture(self.processor, image)

    def picture_targets(self, image: Image.Image) -> dict[str, torch.Tensor]:
        """(1, ..) what objectives beside the answer want of one picture; nothing for most."""
        makers = [maker for maker in self.targets if maker.reads_pictures]
        made = {name: value for maker in makers for name, value in maker.of_image(self.processor, image).items()}
        return {name: torch.from_numpy(value) for name, value in made.items()}

    def picture_ids(self, size: tuple[int, int]) -> np.ndarray:
        """(P,) the token ids that stand for a picture of `size` (width, height)."""
        if size not in self._picture_ids:
            # A blank picture of that size gets as many tokens as any other, and its content does not matter.
            made = picture_alone(self.processor, Image.new("RGB", size))
            ids = picture_token_ids(self.processor, made).astype(np.int32)
            self._picture_ids[size] = ids
            self._token_types = tuple(name for name in TOKEN_TYPES if name in made)
        return self._picture_ids[size]

    def _tokens(self, record: Record, answer: str | None, suffix: str = STEPWISE_SUFFIX) -> Tokens:
        question = self.question(record, suffix)
        pictures = len(record.sizes)
        prompt = self._render(question, pictures, None)
        full = None if answer is None else self._render(question, pictures, answer)
        try:
            tokens = self._tokens_of(prompt, full, pictures, record.is_grounding)
            if full is None:
                tokens = replace(tokens, targets=self._told(tokens, record, question, prompt))
            elif self.mark_boxes or self.mark_steps or self.targets:
                tokens = self._marked(tokens, record, prompt, full, answer, question)
        except RecordError as error:
            raise RecordError(f"record {record.id!r}: {error.message}", why=error.why, fix=error.fix) from None
        return tokens

    def _marked(self, tokens: Tokens, record: Record, prompt: str, full: str, answer: str, question: str) -> Tokens:
        """`tokens` with what was asked to be marked."""
        # An EOS that `_ended` added stands behind all characters; what the template wrote after its own was cut off.
        spans = self._encoded(full, return_offsets_mapping=True)["offset_mapping"][: len(tokens.ids)]
        spans = spans + [(len(full), len(full))] * (len(tokens.ids) - len(spans))
        if self.mark_boxes:
            tokens = replace(tokens, in_box=in_boxes(self.dialect, prompt, full, record.sizes or (NO_SIZE,), spans))
        if self.mark_steps:
            in_step = np.zeros(len(spans), dtype=np.int8)
            if record.is_grounding and record.steps:
                starts = step_starts(record, self.dialect)
                in_step[tokens.answer_at :] = in_steps(starts, full, answer, spans[tokens.answer_at :])
            tokens = replace(tokens, in_step=in_step)
        return replace(tokens, targets=self._told(tokens, record, question, prompt, full, answer, spans))

    def _told(
        self, tokens: Tokens, record: Record, question: str, prompt: str, full: str = "", answer: str = "", spans=None
    ) -> tuple[Target, ...]:
        """What the makers of targets say of a worded record; with no answer, of its prompt alone."""
        if not self.targets:
            return ()
        text = full or prompt
        if spans is None:
            spans = self._encoded(text, return_offsets_mapping=True)["offset_mapping"]
        at = prompt.rfind(question), full.rfind(answer) if answer else -1
        at = tuple(place if place >= 0 else None for place in at)
        told = Told(
            record, self.dialect, text, question, at[0], answer, at[1], spans, tokens.answer_at, tokens.pictures_at
        )
        return tuple(target for maker in self.targets for target in maker.of_text(told))

    def _tokens_of(self, prompt: str, full: str | None, pictures: int, is_grounding: bool) -> Tokens:
        ids = prompt_ids = self._tokenise(prompt)
        answer_at = len(prompt_ids)
        if full is not None:
            ids = self._ended(self._tokenise(full), len(prompt_ids))
            # A tokenizer may merge the prompt's last characters with the answer's first ones: learn from there on.
            answer_at = next(
                (k for k, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), len(prompt_ids)
            )
        places = [k for k, token in enumerate(ids) if token == self.image_token_id]
        if len(places) != pictures:
            raise RecordError(
                f"the text holds {len(places)} picture tokens {self.image_token!r}, not {pictures}",
                why="the chat template writes one per picture, and a question or answer must write none",
                fix="take the token out of the record's text",
            )
        return Tokens(
            ids=np.asarray(ids, dtype=np.int32),
            answer_at=answer_at,
            pictures_at=tuple(places),
            is_grounding=is_grounding,
        )

    def _render(self, question: str, pictures: int, answer: str | None) -> str:
        turn = messages(question, pictures=pictures, answer=answer)
        return self.processor.apply_chat_template(turn, add_generation_prompt=answer is None)

    def _tokenise(self, text: str) -> list[int]:
        return self._encoded(text)["input_ids"]

    def _encoded(self, text: str, **options):
        # As transformers does it: a template that writes the BOS token itself, at the start or behind its first
        # pictures, must not get a second one.
        bos, behind = self.tokenizer.bos_token, text
        while behind.startswith(self.image_token):
            behind = behind.removeprefix(self.image_token)
        writes_bos = bool(bos) and behind.startswith(bos)
        made = self.tokenizer(text, add_special_tokens=not writes_bos, **options)
        if not (writes_bos and behind != text):
            return made
        # What SentencePiece puts before a text's first token is not before the picture's (Fuyu's processor says so).
        start = made["input_ids"].index(self.image_token_id)
        return {name: made[name][start:] for name in ("input_ids", "offset_mapping") if name in made}

    def _ended(self, ids: list[int], start: int) -> list[int]:
        """`ids` with the answer ending in exactly one EOS, where generation stops.

        It is added if the template writes none; what the template writes after it (a newline, often) is cut off.
        """
        end = self.tokenizer.eos_token_id
        if end is None:
            return ids
        for place in range(len(ids) - 1, start - 1, -1):
            if ids[place] == end:
                return ids[: place + 1]
        return [*ids, end]
