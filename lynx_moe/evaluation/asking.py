"""A model that answers what protocols ask: batched across items, and what cannot be asked is counted, not fatal."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from PIL import Image

from lynx_moe.data import Record, SampleBuilder, final_answer
from lynx_moe.data.dataset import askable, visible
from lynx_moe.data.prompts import frame
from lynx_moe.errors import ConfigError, DialectError, RecordError
from lynx_moe.evaluation.answered import read_steps
from lynx_moe.evaluation.calibration import Temperature
from lynx_moe.evaluation.confidence import agreement, box_confidences
from lynx_moe.evaluation.generate import Generated, generate_answers
from lynx_moe.evaluation.protocols.base import Item, Protocol, Reply, Score, Write
from lynx_moe.evaluation.spoken_masks import final_masks
from lynx_moe.families.dialects import Dialect, Parsed
from lynx_moe.objectives.attached import serving_heads, targets_of

NO_PICTURE = "picture that cannot be opened"
UNSEEN = "question about a place that the model cannot see"
UNASKABLE = "question that cannot be put to the model"


class Asker:
    """Puts the asks of items to one model.

    Args:
        model: a generating VLM, plain or with an adapter, on its device.
        processor: the base's processor.
        dialect: how the model writes boxes.
        scorer: what answers `Score` asks, one number for each; None where no protocol has any.
        batch_size: prompts per forward.
        max_new_tokens: answers are cut there; None: where the protocol says.
        constrain: only let well-formed boxes be written.
        samples: 0: a box's confidence comes from its tokens' probabilities; else so many further answers are drawn,
            and it is the share of them that have the box too.
        calibration: corrects every confidence; fitted before, on other pictures.
    """

    def __init__(
        self,
        model,
        processor,
        dialect: Dialect,
        *,
        scorer: Callable[[Sequence[Score]], list[float]] | None = None,
        batch_size: int = 64,
        max_new_tokens: int | None = None,
        constrain: bool = False,
        samples: int = 0,
        calibration: Temperature | None = None,
    ):
        self.model = model
        self.processor = processor
        self.dialect = dialect
        self.scorer = scorer
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.constrain = constrain
        self.samples = samples
        self.calibration = calibration
        self._builder = SampleBuilder(processor, dialect).with_targets(targets_of(serving_heads(model)))
        self._pictures: dict[str, str] = {}

    def check(self, protocol: Protocol) -> None:
        """Raises ConfigError when nothing that this model and its scorer say could mean anything to `protocol`.

        To be called before the first of its items: a picture's name means something in one protocol only.
        """
        self._pictures = {}
        if getattr(protocol, "needs_probability", False) and not getattr(self.scorer, "is_probability", False):
            raise ConfigError(
                f"{protocol.name} compares scores with a threshold, and these are no probabilities",
                why="the same number would mean another thing",
                fix="--scorer vqascore, or let the protocol fit its threshold: threshold=dev",
            )

    def __call__(
        self, items: Sequence[Item], max_new_tokens: int, *, progress: bool = False
    ) -> tuple[list[tuple[Reply, ...] | None], Counter[str]]:
        """One reply per ask of each item, None for an item that cannot be asked; and why not, counted by kind.

        Raises:
            ConfigError: an item is to be scored, and there is no scorer.
        """
        left_out: Counter[str] = Counter()
        kept: list[int] = []
        for number, item in enumerate(items):
            trouble = next(filter(None, map(self._trouble, item.asks)), None)
            if trouble:
                left_out[trouble] += 1
            else:
                kept.append(number)
        asks = [ask for number in kept for ask in items[number].asks]
        writes = [ask.record for ask in asks if isinstance(ask, Write)]
        scores = [ask for ask in asks if isinstance(ask, Score)]
        written = iter(self._written(writes, self.max_new_tokens or max_new_tokens, progress))
        scored = iter(self._scored(scores))
        replies: list[tuple[Reply, ...] | None] = [None] * len(items)
        in_order = (next(written) if isinstance(ask, Write) else next(scored) for ask in asks)
        for number in kept:
            replies[number] = tuple(islice(in_order, len(items[number].asks)))
        return replies, left_out

    def _written(self, records: list[Record], max_new_tokens: int, progress: bool) -> list[Reply]:
        if not records:
            return []

        def answers(asked: list[Record], **how) -> list[Generated]:
            return generate_answers(
                self.model, self._builder, asked, batch_size=self.batch_size, max_new_tokens=max_new_tokens,
                progress=progress, constrain=self.constrain, **how,
            )  # fmt: skip

        written = answers(records, with_probabilities=not self.samples)
        again = [record for record in records for _ in range(self.samples)]
        drawn = answers(again, temperature=1.0) if again else []
        return [
            self._read(record, answer, drawn[k * self.samples : (k + 1) * self.samples])
            for k, (record, answer) in enumerate(zip(records, written, strict=True))
        ]

    def _read(self, record: Record, answer: Generated, drawn: Sequence[Generated]) -> Reply:
        parsed = self._parsed(record, answer)
        if self.samples:
            sure = agreement(parsed.boxes, [self._parsed(record, other).boxes for other in drawn])
        else:
            sure = box_confidences(answer, parsed, self._builder.tokenizer, self.dialect)
        if self.calibration is not None:
            sure = tuple(map(self.calibration, sure))
        return Reply(
            text=answer.text,
            parsed=parsed,
            confidences=sure,
            steps=read_steps(record, answer.text, self.dialect),
            masks=final_masks(answer.masks, parsed, frame(record, record.picture)),
        )

    def _parsed(self, record: Record, answer: Generated) -> Parsed:
        return self.dialect.decode(final_answer(answer.text), frame(record, record.picture))

    def _scored(self, asks: list[Score]) -> list[Reply]:
        if not asks:
            return []
        if self.scorer is None:
            raise ConfigError(
                "a protocol asks how well a text fits a picture, and nothing says how the model is to tell",
                why="no scorer was chosen",
                fix="--scorer vqascore",
            )
        return [Reply(score=float(score)) for score in self.scorer(asks)]

    def digest(self, item: Item) -> str:
        """sha256 of all that decides what comes back for `item`: its words, its truth and its pictures' pixels.

        Empty when a picture cannot be opened.
        """
        pictures = [self._picture(*picture) for ask in item.asks for picture in pictures_of(ask)]
        if not all(pictures):
            return ""
        said = [
            [ask.text, ask.question]
            if isinstance(ask, Score)
            else [ask.record.question, ask.record.kind, ask.record.question_boxes, ask.record.question_points]
            + [[mask and mask.to_coco() for mask in ask.record.question_masks]] * any(ask.record.question_masks)
            for ask in item.asks
        ]
        return hashlib.sha256(json.dumps([item.id, item.truth, said, pictures]).encode()).hexdigest()

    def _trouble(self, ask: Write | Score) -> str | None:
        """Why `ask` cannot be put to the model, if so."""
        if not all(self._picture(*picture) for picture in pictures_of(ask)):
            return NO_PICTURE
        if isinstance(ask, Score):
            return None
        try:
            if not visible(ask.record, self._builder):
                return UNSEEN
            if not askable(ask.record, self._builder):
                return UNASKABLE
            self._builder.prompts([ask.record])
        except DialectError:
            return UNSEEN
        except RecordError:
            return UNASKABLE
        return None

    def _picture(self, name: str, load: Callable[[], Image.Image]) -> str:
        """sha256 of a picture's pixels, "" if it cannot be opened. It is decoded for that, and not kept."""
        if not name or name not in self._pictures:
            try:
                image = load()
                image.load()
                found = hashlib.sha256(f"{image.mode} {image.size}".encode() + image.tobytes()).hexdigest()
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                found = ""
            if not name:
                return found
            self._pictures[name] = found
        return self._pictures[name]


def pictures_of(ask: Write | Score) -> list[tuple[str, Callable[[], Image.Image]]]:
    """Name and loader of every picture that is asked about."""
    if isinstance(ask, Score):
        return [(ask.image_id, ask.load)]
    record = ask.record
    if not record.has_image:
        return []
    names = [record.image_id, *(more.image_id for more in record.more)]
    return [(name, partial(record.image, number)) for number, name in enumerate(names)]
