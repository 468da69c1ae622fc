"""What the engines are told: the settings ``llm.*`` (the server) and ``teacher.*`` (how a picture is read)."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from synth.errors import SettingsError

RESPONSE_FORMATS = ("json_schema", "json_object", "none")
COORDINATES = ("percent", "permille", "pixels")


@dataclass(kw_only=True, slots=True)
class LlmOptions:
    """A server that speaks the OpenAI protocol (`/chat/completions`), and how it is asked."""

    url: str = field(default="", metadata={"help": "base address of the server, such as http://localhost:8000/v1"})
    model: str = field(default="", metadata={"help": "name of the model on the server"})
    key_env: str = field(
        default="OPENAI_API_KEY",
        metadata={"help": "NAME of the environment variable with the key; unset: no key is sent"},
    )
    temperature: float = field(default=0.7, metadata={"help": "sampling temperature"})
    max_tokens: int = field(default=2048, metadata={"help": "longest answer, in tokens"})
    max_tries: int = field(
        default=4, metadata={"help": "sendings of one request, and answers of the model per record or picture"}
    )
    timeout: float = field(default=120.0, metadata={"help": "seconds for one whole answer"})
    backoff: float = field(default=1.0, metadata={"help": "seconds before a request is sent again, doubled each time"})
    concurrency: int = field(default=16, metadata={"help": "requests in flight, shared by all workers"})
    requests_per_minute: int | None = field(
        default=None, metadata={"help": "highest rate, shared by all workers; null: no limit"}
    )
    response_format: str = field(
        default="json_object", metadata={"help": f"asked of the server: {', '.join(RESPONSE_FORMATS)}"}
    )
    cache: Any = field(
        default=True,
        metadata={"help": "true: answers are kept until the split is finished; false: never; or a folder for good"},
    )
    on_failure: str = field(
        default="drop", metadata={"help": "engine=llm, when no rewording passes: drop, or template (the first wording)"}
    )

    def check(self, engine: str) -> None:
        """Raise ``SettingsError`` for a value that no run with this engine can use."""
        try:
            parts = urlsplit(self.url)
            plain = parts.hostname and not (parts.username or parts.password or parts.query or parts.fragment)
            usable = parts.scheme in ("http", "https") and plain and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable:  # the address is not repeated: a key may have been put into it
            raise SettingsError(
                f"engine={engine} needs llm.url, the address of a server",
                why="it must be http:// or https://, a host and a path, without user, password and query",
                fix="for example llm.url=http://localhost:8000/v1; the key goes into the environment (llm.key_env)",
            )
        if not self.model.strip():
            _refuse("llm.model", self.model, "the server must know which model is asked", "llm.model=name-on-server")
        for name in ("max_tokens", "max_tries", "concurrency", "requests_per_minute"):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and not (name == "requests_per_minute" and value is None):
                _refuse(f"llm.{name}", value, "it is a whole number of at least 1", f"llm.{name}=4")
        for name, least in (("timeout", 0.01), ("temperature", 0.0), ("backoff", 0.0)):
            value = getattr(self, name)
            if type(value) not in (int, float) or not math.isfinite(value) or value < least:
                _refuse(f"llm.{name}", value, f"it is a number of at least {least}", f"llm.{name}=1")
        if self.response_format not in RESPONSE_FORMATS:
            known = ", ".join(RESPONSE_FORMATS)
            _refuse("llm.response_format", self.response_format, f"known are {known}", "llm.response_format=none")
        if self.on_failure not in ("drop", "template"):
            _refuse("llm.on_failure", self.on_failure, "known are drop and template", "llm.on_failure=drop")
        if type(self.cache) is not bool and not (isinstance(self.cache, str) and self.cache):
            _refuse("llm.cache", self.cache, "it is true, false or a folder", "llm.cache=true")
        self.key()

    def key(self) -> str:
        """Return the key out of the environment, or nothing; it is never stored and never shown."""
        if self.key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_env):
            raise SettingsError(  # what was given is not repeated: it may be the key
                "llm.key_env is not the name of an environment variable", why="it may hold letters, digits and _",
                fix="export OPENAI_API_KEY=..., and llm.key_env=OPENAI_API_KEY; the key itself is no setting",
            )  # fmt: skip
        key = os.environ.get(self.key_env, "").strip() if self.key_env else ""
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SettingsError(
                f"the environment variable {self.key_env} holds no key", why="a key is printable ASCII in one piece",
                fix=f"export {self.key_env}=... again, without line breaks or quotes inside",
            )  # fmt: skip
        return key

    def fingerprint(self) -> dict:
        """Return what decides which answers are asked for; neither the address nor anything of the key."""
        names = ("model", "temperature", "max_tokens", "max_tries", "response_format", "on_failure")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True, slots=True)
class TeacherOptions:
    """How engine=teacher shows pictures to the model and what it believes."""

    coordinates: str = field(
        default="percent",
        metadata={"help": "how the model writes boxes: percent (0-100, as in the paper), permille (0-1000), pixels"},
    )
    max_side: int = field(default=1024, metadata={"help": "pictures are sent with no side longer than this, in pixels"})
    min_iou: float = field(default=0.5, metadata={"help": "overlap at which two boxes are the same object"})
    min_score: float = field(
        default=0.5, metadata={"help": "least score of a kept object: overlap of its boxes x agreement on the picture"}
    )
    questions: int = field(default=3, metadata={"help": "stepwise questions the model proposes per picture; 0: none"})
    names: list[str] = field(
        default_factory=list,
        metadata={"help": "the names to look for; empty: whatever the model sees, and nothing is said to be absent"},
    )

    def check(self) -> None:
        """Raise ``SettingsError`` for a value that no run can use."""
        if self.coordinates not in COORDINATES:
            known = ", ".join(COORDINATES)
            _refuse("teacher.coordinates", self.coordinates, f"known are {known}", "teacher.coordinates=percent")
        for name, least in (("max_side", 16), ("questions", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                _refuse(f"teacher.{name}", value, f"it is a whole number of at least {least}", f"teacher.{name}=64")
        for name in ("min_iou", "min_score"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= 1:
                _refuse(f"teacher.{name}", value, "it is a number above 0 and at most 1", f"teacher.{name}=0.5")
        if not all(isinstance(name, str) and name.strip() for name in self.names):
            _refuse("teacher.names", self.names, "it is a list of words", "teacher.names=[cat,dog]")


def _refuse(name: str, value: object, why: str, fix: str) -> None:
    raise SettingsError(f"{name}={value!r} cannot be used", why=why, fix=fix)
