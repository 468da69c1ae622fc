"""engine=llm: a language model puts questions and steps into other words; answers and boxes stay as they are.

Nothing it says is believed: a rewording is kept only when the checker finds no fault and its words are those of the
original and neutral ones (`synth/engines/guards`). The picture is not sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from synth.check import faults
from synth.engines.base import AskingEngine, Made, request_seed
from synth.engines.client import Dropped
from synth.engines.guards import Terms, complaints, load_guards, terms_of
from synth.engines.prompts import load_prompts
from synth.engines.reading import read_json
from synth.errors import RecordError
from synth.languages import load_pack
from synth.record import check_record
from synth.scene import Scene

if TYPE_CHECKING:
    from synth.settings import Settings

_SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["question", "steps"],
    "properties": {"question": {"type": "string"}, "steps": {"type": "array", "items": {"type": "string"}}},
}  # fmt: skip
_FIT = 8192  # characters of an answer that is looked at at all


class LlmEngine(AskingEngine):
    """Rewords every row that has a picture; rows of text alone ask about their very words and stay.

    A row whose rewordings are all refused is dropped or keeps its first wording, as ``llm.on_failure`` says, and is
    counted under the last reason.
    """

    def __init__(self, settings: Settings, work: Path, tick: Callable[[], None]) -> None:
        self._guards, self._prompts = load_guards(settings.language), load_prompts("reword")
        super().__init__(settings, work, tick)

    def rows(self, made: Iterable[Made]) -> Iterator[Made]:
        limit = 2 * self.settings.llm.concurrency
        for (scenes, _), rows in self.ahead.map(made, self._reworded, lambda pair: max(1, len(pair[1])), limit):
            yield scenes, rows

    async def _reworded(self, made: Made) -> list[dict]:
        scenes, rows = made
        pack = load_pack(self.settings.language)
        about = [scenes[: 1 + len(row["more_image_ids"])] for row in rows]
        terms = {n: terms_of(map(pack.translate, scenes[:n]), pack, self._guards) for n in set(map(len, about))}
        done = await asyncio.gather(*(self._row(s, row, terms[len(s)]) for s, row in zip(about, rows, strict=True)))
        return [row for row in done if row is not None]

    async def _row(self, scenes: tuple[Scene, ...], row: dict, terms: Terms) -> dict | None:
        if not row["image_id"]:
            return row
        reason = said = ""
        for attempt in range(self.settings.llm.max_tries):
            try:
                answer = await self.client.ask(
                    self._messages(row, said), seed=request_seed(row["seed"], row["id"], "llm", attempt),
                    temperature=self.settings.llm.temperature, attempt=attempt, schema=_SCHEMA,
                )  # fmt: skip
                reworded, reason, said = self._judged(scenes, row, answer, terms)
            except Dropped as problem:
                reworded, reason, said = None, problem.reason, ""
            if reworded is not None:
                return reworded
        self.rejected[reason] += 1
        return row if self.settings.llm.on_failure == "template" else None

    def _messages(self, row: dict, said: str) -> list[dict]:
        prompts, language = self._prompts, row["language"]
        record = json.dumps(_texts(row), ensure_ascii=False)
        user = prompts["record"].substitute(language=language, record=record)
        if said:
            user += "\n" + prompts["again"].substitute(complaints=said)
        system = prompts["system"].substitute(language=language, schema=json.dumps(_SCHEMA))
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]

    def _judged(self, scenes: tuple[Scene, ...], row: dict, answer: str, terms: Terms) -> tuple[dict | None, str, str]:
        """(row, "", "") of an answer that passes, else (None, reason, what to tell the model)."""
        content = read_json(answer[:_FIT])
        if not _is_rewording(content):
            return None, "answer of another form", "the answer must be JSON with question and steps, nothing else"
        found = list(complaints(_texts(row), content, row["answer"], terms, row["language"]))
        if found:
            return None, found[0][0], "; ".join(said for _, said in found[:4])
        steps = [{**step, "text": text} for step, text in zip(row["steps"], content["steps"], strict=True)]
        reworded = {**row, "question": content["question"], "steps": steps, "engine": "llm"}
        try:
            first, *more = ((scene.width, scene.height) for scene in scenes)
            check_record(reworded, *first, *more)
        except RecordError as problem:
            return None, "breaks the record format", problem.message
        if next(faults(reworded, *scenes), None):
            return None, "not borne out by the picture", "it must say what the original says"
        return reworded, "", ""


def _texts(row: dict) -> dict:
    return {"question": row["question"], "steps": [step["text"] for step in row["steps"]]}


def _is_rewording(content: object) -> bool:
    return (
        isinstance(content, dict) and set(content) == {"question", "steps"}
        and isinstance(content["question"], str) and isinstance(content["steps"], list)
        and all(isinstance(text, str) for text in content["steps"])
    )  # fmt: skip
