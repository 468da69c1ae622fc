"""engine=teacher: a vision-language model says what is in pictures that nobody has annotated.

Every picture is read twice, in another order and with another seed; what both readings agree on becomes a scene, and
the tasks ask about it as about any other. Stepwise questions of the model's own, as in the paper, are kept when their
boxes are those of agreed objects and the model gives the same answer a second time.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from synth.engines.agree import Listed, agreed, without_repeats
from synth.engines.base import AskingEngine, Made, request_seed
from synth.engines.client import Dropped
from synth.engines.guards import speaks_to_a_model
from synth.engines.prompts import load_prompts
from synth.engines.questions import read_question, same_answer
from synth.engines.reading import read_box, read_json, read_listing
from synth.scene import Obj, Question, Scene
from synth.sources.fault import Fault, PictureFault

if TYPE_CHECKING:
    from synth.settings import Settings

_MOST_OBJECTS = 100  # a reading that lists more has run away
_NAME = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+){0,3}")
_LONGEST_NAME = 40
_QUALITY = 90  # of the JPEG that is sent
_BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
_TEXTS = {"type": "array", "items": {"type": "string"}}


def _schema(**properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_LISTING = _schema(
    objects={"type": "array", "items": _schema(name={"type": "string"}, box=_BOX, colour={"type": "string"})}
)
_PROPOSED = _schema(questions={
    "type": "array", "items": _schema(question={"type": "string"}, steps=_TEXTS, answer={"type": "string"})
})  # fmt: skip
_ANSWERED = _schema(answers=_TEXTS)


class TeacherEngine(AskingEngine):
    """Fills scenes with what the model sees in them; what their source knows of objects is set aside."""

    def __init__(self, settings: Settings, work: Path, tick: Callable[[], None]) -> None:
        self._options, self._prompts = settings.teacher, load_prompts("teacher")
        super().__init__(settings, work, tick)

    def scenes(self, scenes: Iterable[Scene], quarantine: Callable[[Fault], None]) -> Iterator[Scene]:
        limit = self.settings.llm.concurrency  # two readings each
        for _, found in self.ahead.map(scenes, self._annotated, lambda scene: 1, limit):
            if isinstance(found, Fault):
                quarantine(found)
            elif isinstance(found, str):
                self.rejected[f"picture: {found}"] += 1
            else:
                for obj in found.objects:
                    self.confidence[f"{int(obj.confidence * 10) / 10:.1f}"] += 1
                yield found

    def rows(self, made: Iterable[Made]) -> Iterator[Made]:
        for scenes, rows in made:
            yield scenes, [{**row, "engine": "teacher"} if row["image_id"] else row for row in rows]

    async def _annotated(self, scene: Scene) -> Scene | Fault | str:
        """The scene as the model sees it, or why there is none: a fault of the picture, or a reason to reject it."""
        try:
            picture = await asyncio.to_thread(_Shown, scene, self._options.max_side)
        except PictureFault as problem:
            return problem.fault
        try:
            first, second = await asyncio.gather(*(self._reading(scene, picture, k) for k in range(2)))
        except Dropped as problem:
            return problem.reason
        options = self._options
        (one, unsure), (other, also) = first, second
        objects = agreed(one, other, unsure | also, options.min_iou, options.min_score, self.rejected)
        if not objects:
            return "no object is certain"
        named = {entry.name for entry in (*one, *other)} | unsure | also
        vocabulary = {obj.name for obj in objects} | (set(map(_plain, options.names)) - named)
        made = Scene(
            index=scene.index, width=scene.width, height=scene.height, objects=objects, image_bytes=scene.image_bytes,
            source="teacher", licence=scene.licence, complete=False, vocabulary=tuple(sorted(vocabulary)),
            colours=scene.colours, file=scene.file,
        )  # fmt: skip
        try:
            return replace(made, questions=await self._questions(made, picture) if options.questions else [])
        except Dropped as problem:  # the objects are good all the same
            self.rejected[f"question: {problem.reason}"] += options.questions
            return made

    async def _reading(self, scene: Scene, picture: _Shown, k: int) -> tuple[list[Listed], set[str]]:
        """What the k-th reading lists, and the names of which it lists something unreadable."""
        prompts, names = self._prompts, self._options.names
        told = prompts["these_names"].substitute(names=", ".join(names)) if names else prompts["any_names"].template
        text = prompts["listing"].substitute(
            order=prompts[f"order_{k}"].template, names=told, colours=", ".join(scene.colours)
        )
        rows = await self._asked(scene, picture, text, f"reading {k}", _LISTING, read_listing)
        if len(rows) > _MOST_OBJECTS:
            raise Dropped("too many objects listed")
        known = set(map(_plain, names))
        listed, unsure = [], set()
        for name, written, colour in rows:
            name = _plain(name)
            box = read_box(written, self._options.coordinates, picture.size, (scene.width, scene.height))
            if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or self._speaks(name):
                self.rejected["object: no name"] += 1
                unsure |= {asked for asked in known if asked in name}  # "cat 2", "black cats": there is a cat
            elif known and name not in known:
                self.rejected["object: name not asked for"] += 1
                unsure |= {asked for asked in known if asked in name}
            elif box is None:
                self.rejected["object: no box inside the picture"] += 1
                unsure.add(name)
            else:
                listed.append(Listed(name, box, colour if colour in scene.colours else ""))
        return without_repeats(listed, self.rejected), unsure

    async def _questions(self, scene: Scene, picture: _Shown) -> list[Question]:
        """The model's own questions that hold; raises ``Dropped`` where it gives nothing readable."""
        options, prompts = self._options, self._prompts
        known = json.dumps([{"name": o.name, "box": self._written(scene, picture, o)} for o in scene.objects],
                           ensure_ascii=False)  # fmt: skip
        text = prompts["questions"].substitute(objects=known, number=options.questions)
        proposed = await self._asked(scene, picture, text, "questions", _PROPOSED, partial(_list_in, "questions"))
        place = partial(read_box, coordinates=options.coordinates, shown=picture.size, size=(scene.width, scene.height))
        kept: dict[str, Question] = {}
        for written in proposed[: options.questions]:
            try:
                question = read_question(written, scene.objects, place, options.min_iou, self.settings.language)
            except Dropped as problem:
                self.rejected[problem.reason] += 1
            else:
                if question.text in kept:
                    self.rejected["question: asked twice"] += 1
                kept.setdefault(question.text, question)
        if not kept:
            return []
        text = prompts["answers"].substitute(questions=json.dumps(list(kept), ensure_ascii=False))
        given = await self._asked(scene, picture, text, "answers", _ANSWERED, partial(_list_in, "answers"))
        given += [None] * (len(kept) - len(given))
        same = [q for q, answer in zip(kept.values(), given, strict=False) if same_answer(q.answer, answer)]
        self.rejected["question: answered otherwise the second time"] += len(kept) - len(same)
        return same

    async def _asked(
        self, scene: Scene, picture: _Shown, text: str, what: str, schema: dict, read: Callable[[str], list | None]
    ) -> list:
        """What ``read`` makes of the answer to ``text``; raises ``Dropped`` after ``llm.max_tries`` useless answers."""
        prompts, reason, told = self._prompts, "", text
        scale = prompts[f"scale_{self._options.coordinates}"].substitute(width=picture.size[0], height=picture.size[1])
        system = prompts["system"].substitute(language=self.settings.language, scale=scale)
        settings = self.settings
        for attempt in range(settings.llm.max_tries):
            content: list[dict[str, Any]] = [
                {"type": "image_url", "image_url": {"url": picture.url}}, {"type": "text", "text": told}
            ]  # fmt: skip
            messages = [{"role": "system", "content": system}, {"role": "user", "content": content}]
            seed = request_seed(settings.seed, settings.split, "teacher", scene.index, what, attempt)
            try:
                answer = await self.client.ask(
                    messages, seed=seed, temperature=settings.llm.temperature, attempt=attempt, schema=schema
                )
                found = read(answer)
            except Dropped as problem:
                found, reason, told = None, problem.reason, text
            else:
                reason, told = "answer of another form", f"{text}\n{_again(prompts, schema)}"
            if found is not None:
                return found
        raise Dropped(reason)

    def _written(self, scene: Scene, picture: _Shown, obj: Obj) -> list[int]:
        """The object's box as the model writes boxes."""
        ends = {"percent": (100, 100), "permille": (1000, 1000), "pixels": picture.size}[self._options.coordinates]
        return [round(v / (scene.width, scene.height)[k % 2] * ends[k % 2]) for k, v in enumerate(obj.box)]

    def _speaks(self, text: str) -> bool:
        return speaks_to_a_model(text, self.settings.language)


class _Shown:
    """A picture as it is sent: a data URL of a JPEG, and its (width, height)."""

    def __init__(self, scene: Scene, max_side: int) -> None:
        data, _ = scene.image_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image = image.convert("RGB")
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITY)
        self.size = image.size
        self.url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _again(prompts: dict, schema: dict) -> str:
    return prompts["again"].substitute(complaint=f"it must be JSON of this schema: {json.dumps(schema)}")


def _list_in(key: str, text: str) -> list | None:
    """The list under ``key``, or the bare list, of a JSON answer."""
    content = read_json(text)
    found = content.get(key) if isinstance(content, dict) else content
    return found if isinstance(found, list) else None


def _plain(name: str) -> str:
    return re.sub(r"^(an?|the) ", "", " ".join(name.lower().split()))
