"""Who words a record and who says what is in a picture. A new engine is one file here and one row in ``ENGINES``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from synth.engines.base import Engine
from synth.engines.client import needed_library
from synth.engines.guards import load_guards
from synth.engines.llm import LlmEngine
from synth.engines.teacher import TeacherEngine
from synth.errors import SettingsError, nearest, refuse_unused

if TYPE_CHECKING:
    from synth.settings import Settings

ENGINES: dict[str, Callable[..., Engine]] = {
    "template": lambda settings, work, tick: Engine(),
    "llm": LlmEngine,
    "teacher": TeacherEngine,
}
_SENT = {"llm": "the text of questions and steps, no picture", "teacher": "pictures and the questions about them"}
_LOCAL = ("localhost", "127.0.0.1", "::1")


@contextmanager
def open_engine(settings: Settings, work: Path, tick: Callable[[], None]) -> Iterator[Engine]:
    """Yield the engine that ``settings`` name; see `synth/engines/base.py` for ``work`` and ``tick``."""
    engine = ENGINES[settings.engine](settings, work, tick)
    try:
        yield engine
    finally:
        engine.close()


def check(settings: Settings) -> None:
    """Raise ``SettingsError`` for an unknown engine, or options with which it cannot run."""
    if settings.engine not in ENGINES:
        raise SettingsError(
            f"unknown engine {settings.engine!r}", why=f"known engines are {', '.join(ENGINES)}",
            fix=f"engine={nearest(settings.engine, ENGINES)}",
        )  # fmt: skip
    if settings.source == "pictures" and settings.engine != "teacher":
        raise SettingsError(
            f"source=pictures cannot be used with engine={settings.engine}",
            why="its pictures have no annotations, and only a teacher can say what is in them",
            fix="engine=teacher, or an annotated source",
        )
    refuse_unused(settings, "engine", {"llm": ("llm", "teacher"), "teacher": ("teacher",)})
    if settings.engine == "template":
        return
    settings.llm.check(settings.engine)
    if settings.engine == "teacher":
        settings.teacher.check()
        if settings.balance:
            raise SettingsError(
                "balance=true cannot be used with engine=teacher",
                why="answers are counted before the first is written, and the teacher's are not known by then",
                fix="leave balance out, and look at what python -m synth report says of the answers",
            )
    else:
        load_guards(settings.language)
    needed_library()


def fingerprint(settings: Settings) -> dict:
    """Return what of the engine's options decides what records say."""
    if settings.engine == "template":
        return {}
    found = {"llm": settings.llm.fingerprint()}
    return found if settings.engine == "llm" else {**found, "teacher": asdict(settings.teacher)}


def notices(settings: Settings) -> Iterator[str]:
    """Yield what a user must know before anything is sent: what leaves the machine, and where it goes."""
    if settings.engine == "template":
        return
    parts = urlsplit(settings.llm.url)
    yield f"engine={settings.engine}: {_SENT[settings.engine]} go to {parts.netloc}; nothing else leaves"
    if parts.scheme == "http" and parts.hostname not in _LOCAL and settings.llm.key():
        yield f"warning: the key goes to {parts.netloc} unencrypted; use https where others share the network"
