"""What an engine is: two stages of the way from a source's scenes to a shard's rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from synth.engines.ahead import Ahead
from synth.engines.answers import Answers
from synth.engines.client import Client
from synth.scene import Scene
from synth.sources.fault import Fault

if TYPE_CHECKING:
    from synth.settings import Settings

# A scene with its rows; behind it the neighbours that rows about several pictures need.
Made = tuple[tuple[Scene, ...], list[dict]]


class Engine:
    """The template engine, and what the others are made of: scenes and rows pass as they are.

    ``rejected`` counts what was refused by reason, ``confidence`` kept objects by score in tenths, ``requests``
    what was sent and what was found among the kept answers.
    """

    def __init__(self) -> None:
        self.rejected, self.confidence, self.requests = Counter(), Counter(), Counter()

    def scenes(self, scenes: Iterable[Scene], quarantine: Callable[[Fault], None]) -> Iterator[Scene]:
        """Yield the scenes that questions are asked about; a picture that cannot be read goes to ``quarantine``."""
        return iter(scenes)

    def rows(self, made: Iterable[Made]) -> Iterator[Made]:
        """Yield every scene, its neighbours behind it, with the rows that are written."""
        return iter(made)

    def report(self) -> dict:
        """Return the counts for the shard's report."""
        return {name: dict(+getattr(self, name)) for name in ("rejected", "confidence", "requests")}

    def close(self) -> None:
        """Let go of all connections."""


class AskingEngine(Engine):
    """An engine that asks a server: a client, an event loop and kept answers, let go of by ``close``.

    Args:
        work: folder of the unfinished split; answers are kept there where the settings name no folder for good.
        tick: called now and then while answers are waited for; raises to leave.
    """

    def __init__(self, settings: Settings, work: Path, tick: Callable[[], None]) -> None:
        super().__init__()
        self.settings, options = settings, settings.llm
        place = {True: work, False: None}.get(options.cache) if type(options.cache) is bool else Path(options.cache)
        self._answers = Answers(place)
        self.client = Client(options, self._answers, settings.workers, self.requests)
        self.ahead = Ahead(tick)

    def close(self) -> None:
        self.ahead.close(self.client.close)
        self._answers.close()


def request_seed(*parts: object) -> int:
    """Return the 31-bit number that goes with a request, drawn from the stream that ``parts`` name."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
