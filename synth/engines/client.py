"""Talking to a server of the OpenAI protocol: bounded, patient, and never taken in by what comes back."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import json
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from synth.engines.answers import Answers
from synth.engines.options import LlmOptions
from synth.errors import EngineError, SettingsError
from synth.sources.index import is_text

if TYPE_CHECKING:
    import httpx2

_LARGEST = 1 << 20  # bytes of a response; an answer of max_tokens tokens is far smaller
_LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not coming back for this request
_LONGEST_BACKOFF = 30.0


class Dropped(Exception):
    """A request came to nothing; ``reason`` can be counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Client:
    """Asks one server; belongs to one event loop.

    Args:
        share: how many processes share ``options.concurrency`` and ``options.requests_per_minute``.
        counts: gets "sent" and "cached" requests.

    A key that is refused, or a server that cannot be reached before it ever answered, raises ``EngineError``.
    """

    def __init__(self, options: LlmOptions, answers: Answers, share: int, counts: Counter) -> None:
        http = needed_library()
        self._http, self._options, self._answers, self._counts = http, options, answers, counts
        self._key = options.key()
        # Uncompressed only: a small body that swells to gigabytes is then no possibility.
        headers = {"Accept-Encoding": "identity", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._slots = asyncio.Semaphore(max(1, options.concurrency // share))
        self._client = http.AsyncClient(
            headers=headers, timeout=options.timeout,
            limits=http.Limits(max_connections=None, max_keepalive_connections=options.concurrency),
        )  # fmt: skip
        try:
            self._url = http.URL(options.url.rstrip("/") + "/chat/completions")
        except http.InvalidURL as problem:
            raise SettingsError(
                f"llm.url={options.url!r} is no address", why=str(problem), fix="llm.url=http://localhost:8000/v1"
            ) from problem
        self._spacing = 60.0 * share / options.requests_per_minute if options.requests_per_minute else 0.0
        self._next = self._not_before = 0.0
        self._answered = False
        self._fatal: EngineError | None = None

    async def ask(self, messages: list[dict], *, seed: int, temperature: float, attempt: int, schema: dict) -> str:
        """Return the model's text; raises ``Dropped`` with the reason when there is none.

        ``seed`` goes with the request; ``attempt`` tells apart repetitions of the same one. The answer, good or bad,
        is kept under the digest of all of it.
        """
        body: dict[str, Any] = {
            "model": self._options.model, "messages": messages, "temperature": temperature, "seed": seed,
            "max_tokens": self._options.max_tokens,
        }  # fmt: skip
        if self._options.response_format == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif self._options.response_format == "json_schema":
            shape = {"name": "answer", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        data = json.dumps(body, ensure_ascii=False, sort_keys=True).encode()
        request = hashlib.sha256(data + b"\0%d" % attempt).hexdigest()
        found = self._answers.get(request)
        if found is not None:
            self._counts["cached"] += 1
        else:
            found = self._read(await self._fetch(data, random.Random(f"{seed}/{attempt}")))
            self._answers.put(request, *found)
        text, fault = found
        if fault:
            raise Dropped(fault)
        return text

    async def close(self) -> None:
        await self._client.aclose()

    async def _fetch(self, data: bytes, rng: random.Random) -> bytes:
        """Return the body of a good response, sending again what may go better next time."""
        reason = ""
        for k in range(self._options.max_tries):
            if k:
                wait = min(_LONGEST_BACKOFF, self._options.backoff * 2 ** (k - 1))
                await asyncio.sleep(wait * (0.5 + rng.random() / 2))
            async with self._slots:
                await self._pace()
                if self._fatal:
                    raise self._fatal
                self._counts["sent"] += 1
                try:
                    status, headers, body = await self._send(data)
                except (TimeoutError, self._http.TimeoutException):
                    reason = "timeout"
                    continue
                except self._http.ConnectError as problem:
                    reason, problem_said = "server unreachable", str(problem)
                    if k + 1 == self._options.max_tries and not self._answered:
                        raise self._stop(*_unreachable(self._options, problem_said)) from None
                    continue
                except self._http.TransportError:
                    reason = "connection lost"
                    continue
            if status in (401, 403):
                raise self._stop(*_refused_key(self._options, status, bool(self._key)))
            if not self._answered and (status in (404, 405) or 300 <= status < 400):
                raise self._stop(*_wrong_place(self._options, status))
            if status == 200:
                self._answered = True
                return body
            if status == 429:
                reason = "rate limited"
            elif status == 408 or status >= 500:
                reason = "server error"
            else:
                raise Dropped(f"request refused ({status})")
            wait = _retry_after(headers)
            if wait > _LONGEST_WAIT:
                raise Dropped(reason)
            self._not_before = max(self._not_before, time.monotonic() + wait)
        raise Dropped(reason)

    async def _send(self, data: bytes) -> tuple[int, httpx2.Headers, bytes]:
        # httpx times each wait for bytes; a server that trickles them would hold the slot for ever.
        async with asyncio.timeout(self._options.timeout):
            headers = {"Content-Type": "application/json"}
            async with self._client.stream("POST", self._url, content=data, headers=headers) as response:
                received = bytearray()
                if response.status_code == 200:
                    async for chunk in response.aiter_raw():
                        received += chunk
                        if len(received) > _LARGEST:
                            break
                return response.status_code, response.headers, bytes(received)

    async def _pace(self) -> None:
        """Wait for this request's turn: by the rate limit, and by when the server said that it may be asked again."""
        turn = max(self._next, time.monotonic())
        self._next = turn + self._spacing
        while (wait := max(turn, self._not_before) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def _stop(self, message: str, why: str, fix: str) -> EngineError:
        self._fatal = EngineError(message, why=why, fix=fix)
        return self._fatal

    def _read(self, body: bytes) -> tuple[str, str]:
        """(text, "") of a response's body, or ("", fault)."""
        if len(body) > _LARGEST:
            return "", "answer too large"
        if self._key and self._key.encode() in body:
            return "", "answer repeats the key"
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return "", "response is no JSON"
        choices = content.get("choices") if isinstance(content, dict) else None
        if not isinstance(choices, list):
            return "", "response of another form"
        if not choices:
            return "", "no choices"
        choice = choices[0]
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            return "", "response of another form"
        if choice.get("finish_reason") == "length":
            return "", "answer cut off"
        text = message.get("content")
        if text is None or text == "":
            return "", "empty answer"
        if not isinstance(text, str) or not is_text(text):
            return "", "response of another form"
        return ("", "answer repeats the key") if self._key and self._key in text else (text, "")  # spelled in escapes


def needed_library():
    """Return the HTTP library; raises ``SettingsError`` when it is not installed."""
    try:
        import httpx2
    except ImportError as problem:
        raise SettingsError(
            "asking a server needs httpx2", why="it is not installed", fix='pip install "lynx-moe[engines]"'
        ) from problem
    return httpx2


def _retry_after(headers) -> float:
    """Seconds that the server asks for: a number or a date; 0 when it asks for none."""
    said = headers.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _unreachable(options: LlmOptions, said: str) -> tuple[str, str, str]:
    return (
        f"no server answers at {options.url}", f"{options.max_tries} tries failed: {said}",
        "start the server, or correct llm.url; finished shards and kept answers are not lost",
    )  # fmt: skip


def _refused_key(options: LlmOptions, status: int, has_key: bool) -> tuple[str, str, str]:
    why = f"it answered {status}; the environment variable {options.key_env} is {'set' if has_key else 'not set'}"
    return f"{options.url} refuses the key", why, f"export {options.key_env}=... with a key for this server"


def _wrong_place(options: LlmOptions, status: int) -> tuple[str, str, str]:
    return (
        f"{options.url} has no /chat/completions for model {options.model!r}", f"it answered {status}",
        "llm.url is the address up to and with /v1; llm.model is a name that the server lists under /models",
    )  # fmt: skip
