"""The client against a real server: patient where waiting helps, quick where it does not, and taken in by nothing."""

import asyncio
import email.utils
import json
import socket
import time
from collections import Counter

import pytest

from synth.engines.ahead import Ahead
from synth.engines.answers import Answers
from synth.engines.client import Client, Dropped
from synth.engines.options import LlmOptions
from synth.errors import EngineError, OutputError, SettingsError
from tests.synth.engines.chat_server import Reply, chat, html, serving

KEY = "sk-very-secret-0123456789"


class Asking:
    """A client with everything around it; ``ask`` waits for the answer."""

    def __init__(self, url, place=None, share=1, **options):
        options = {"model": "m", "max_tries": 3, "backoff": 0.01, "timeout": 5.0, "key_env": "", **options}
        self.counts = Counter()
        self.answers = Answers(place)
        self.client = Client(LlmOptions(url=url, **options), self.answers, share, self.counts)
        self.ahead = Ahead(lambda: None)

    def coroutine(self, text="hello", seed=1, attempt=0):
        messages = [{"role": "user", "content": text}]
        return self.client.ask(messages, seed=seed, temperature=0.5, attempt=attempt, schema={"type": "object"})

    def ask(self, *args, **changes):
        return self.ahead.run(self.coroutine(*args, **changes))

    def reason(self, *args):
        with pytest.raises(Dropped) as caught:
            self.ask(*args)
        return caught.value.reason

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ahead.close(self.client.close)
        self.answers.close()


def in_turn(*replies):
    """The replies one after the other, the last one for ever."""
    return lambda body, n: replies[min(n, len(replies) - 1)]


def test_the_request_is_what_the_protocol_asks_for(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(in_turn(chat("hi")), key=KEY) as server:
        with Asking(server.url + "/", key_env="SOME_KEY", response_format="json_schema", max_tokens=7) as asking:
            assert asking.ask("héllo", seed=5) == "hi"
    assert server.paths == ["/v1/chat/completions"]
    schema = {"name": "answer", "strict": True, "schema": {"type": "object"}}
    assert server.bodies == [
        {"model": "m", "messages": [{"role": "user", "content": "héllo"}], "temperature": 0.5, "seed": 5,
         "max_tokens": 7, "response_format": {"type": "json_schema", "json_schema": schema}}
    ]  # fmt: skip


@pytest.mark.parametrize("form, sent", [("none", None), ("json_object", {"type": "json_object"})])
def test_the_response_format_is_sent_as_told_and_no_key_where_there_is_none(form, sent):
    with serving(in_turn(chat("hi"))) as server, Asking(server.url, response_format=form) as asking:
        asking.ask()
    assert server.bodies[0].get("response_format") == sent and server.keys == [None]


@pytest.mark.parametrize(
    "bad",
    [Reply(500), Reply(503), Reply(408), Reply(429), Reply(drop=True), Reply(body=b"x" * 100, cut=10), Reply(sleep=1)],
    ids=["500", "503", "408", "429", "dropped", "cut in the middle", "slow"],
)
def test_what_may_pass_is_tried_again(bad):
    with serving(in_turn(bad, bad, chat("at last"))) as server, Asking(server.url, timeout=0.3) as asking:
        assert asking.ask() == "at last" and asking.counts["sent"] == len(server.bodies) == 3


@pytest.mark.parametrize(
    "bad, reason",
    [
        (Reply(500), "server error"), (Reply(429), "rate limited"), (Reply(drop=True), "connection lost"),
        (Reply(sleep=0.6), "timeout"),
    ],
)  # fmt: skip
def test_it_gives_up_after_max_tries_with_a_reason(bad, reason):
    with serving(in_turn(chat("first"), bad)) as server, Asking(server.url, timeout=0.2) as asking:
        asking.ask("one")
        assert asking.reason("two") == reason
        assert len(server.bodies) == 1 + 3


@pytest.mark.parametrize(
    "answer, reason",
    [
        (html(), "response is no JSON"),
        (Reply(body=chat("hi").body[:-9]), "response is no JSON"),
        (Reply(body=b'{"choices": ' + b"[" * 100_000), "response is no JSON"),
        (Reply(body=b"\xff\xfe\x00"), "response is no JSON"),
        (Reply(body=b"[]"), "response of another form"),
        (Reply(body=b'{"error": "x"}'), "response of another form"),
        (Reply(body=b'{"choices": {}}'), "response of another form"),
        (Reply(body=b'{"choices": [3]}'), "response of another form"),
        (chat(["a"]), "response of another form"),
        (Reply(body=b'{"choices": []}'), "no choices"),
        (chat(""), "empty answer"),
        (chat(None), "empty answer"),
        (chat("half a", finish_reason="length"), "answer cut off"),
        (chat("x" * 3_000_000), "answer too large"),
        (Reply(400), "request refused (400)"),
        (Reply(422), "request refused (422)"),
    ],
)
def test_a_useless_answer_is_dropped_at_once(answer, reason):
    with serving(in_turn(answer)) as server, Asking(server.url) as asking:
        assert asking.reason() == reason and len(server.bodies) == 1


def test_an_endless_body_is_left_in_the_middle():
    with serving(in_turn(Reply(body=b" " * 200_000_000))) as server, Asking(server.url) as asking:
        began = time.monotonic()
        assert asking.reason() == "answer too large" and time.monotonic() - began < 3


def test_an_answer_that_trickles_does_not_hold_on_for_ever():
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle():
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                for _ in range(100):
                    connection.sendall(b" ")
                    time.sleep(0.05)
            except OSError:
                pass

        threading.Thread(target=trickle, daemon=True).start()
        with Asking(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.4, max_tries=1) as asking:
            began = time.monotonic()
            assert asking.reason() == "timeout" and time.monotonic() - began < 2


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_holds_back_every_request(as_date):
    def answer(body, n):
        wait = email.utils.formatdate(time.time() + 2, usegmt=True) if as_date else 1
        return Reply(429, headers={"Retry-After": wait}) if n == 0 else chat("ok")

    with serving(answer) as server, Asking(server.url, concurrency=1) as asking:
        futures = [asyncio.run_coroutine_threadsafe(asking.coroutine(str(k)), asking.ahead._loop) for k in range(3)]
        assert [future.result(10) for future in futures] == ["ok"] * 3
    assert all(t - server.times[0] >= 0.95 for t in server.times[1:])


def test_a_server_that_wants_to_be_left_alone_for_days_is_not_waited_for():
    reply = Reply(429, headers={"Retry-After": "999999"})
    with serving(in_turn(reply)) as server, Asking(server.url) as asking:
        assert asking.reason() == "rate limited" and len(server.bodies) == 1


@pytest.mark.parametrize("retry_after", ["soon", "-5", "Mon, 99 Foo", "9" * 400])
def test_a_senseless_retry_after_is_survived(retry_after):
    with serving(in_turn(Reply(503, headers={"Retry-After": retry_after}))) as server, Asking(server.url) as asking:
        assert asking.reason() == "server error"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_everything_at_once(status, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(in_turn(Reply(status))) as server, Asking(server.url, key_env="SOME_KEY") as asking:
        for _ in range(2):
            with pytest.raises(EngineError, match="SOME_KEY") as caught:
                asking.ask()
        assert len(server.bodies) == 1 and KEY not in str(caught.value)


def test_a_server_that_never_answered_is_an_error_and_one_that_goes_away_is_a_reason():
    with serving(in_turn(chat("ok"))) as server:
        url = server.url
        gone = Asking(url)
        gone.ask("before")
    with gone:
        assert gone.reason("after") in ("server unreachable", "connection lost")
    with Asking(url) as asking, pytest.raises(EngineError, match="no server answers"):
        asking.ask()


@pytest.mark.parametrize("status", [301, 307, 404, 405])
def test_a_wrong_address_is_an_error_and_no_redirect_is_followed(status, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(in_turn(chat("stolen"))) as other:
        reply = Reply(status, headers={"Location": other.url + "/chat/completions"})
        with serving(in_turn(reply)) as server, Asking(server.url, key_env="SOME_KEY") as asking:
            with pytest.raises(EngineError, match=str(status)):
                asking.ask()
        assert other.keys == []


def test_no_more_are_in_flight_than_told_and_several_are():
    with serving(lambda body, n: Reply(body=chat("ok").body, sleep=0.1)) as server:
        with Asking(server.url, concurrency=4) as asking:
            made = asking.ahead.map(range(12), lambda k: asking.coroutine(str(k)), lambda k: 1, 100)
            assert [answer for _, answer in made] == ["ok"] * 12
        assert server.most_in_flight == 4
        with Asking(server.url, concurrency=4, share=4) as asking:
            list(asking.ahead.map(range(3), lambda k: asking.coroutine(f"x{k}"), lambda k: 1, 100))
    assert server.most_in_flight == 4


def test_the_rate_limit_spaces_requests():
    with serving(in_turn(chat("ok"))) as server, Asking(server.url, requests_per_minute=600) as asking:
        list(asking.ahead.map(range(5), lambda k: asking.coroutine(str(k)), lambda k: 1, 100))
    assert server.times[-1] - server.times[0] >= 0.3  # four gaps of a tenth, less what the threads of the server jitter


def test_results_come_in_order_whatever_takes_long():
    def answer(body, n):
        text = body["messages"][0]["content"]
        return Reply(body=chat(text).body, sleep=0.3 if text == "0" else 0)

    with serving(answer) as server, Asking(server.url) as asking:
        made = asking.ahead.map(range(6), lambda k: asking.coroutine(str(k)), lambda k: 1, 3)
        assert list(made) == [(k, str(k)) for k in range(6)]


def test_leaving_while_answers_are_awaited_takes_no_time():
    class Left(Exception):
        pass

    def leave():
        raise Left

    with serving(in_turn(Reply(sleep=20))) as server, Asking(server.url, timeout=60) as asking:
        asking.ahead._tick = leave
        began = time.monotonic()
        with pytest.raises(Left):
            asking.ask()
    assert time.monotonic() - began < 5


def test_kept_answers_good_and_bad_are_not_asked_again(tmp_path):
    with serving(in_turn(chat("good"), html())) as server:
        for _ in range(2):
            with Asking(server.url, tmp_path / "kept") as asking:
                assert asking.ask("a") == "good" and asking.reason("b") == "response is no JSON"
        assert len(server.bodies) == 2 and asking.counts == {"cached": 2}
        with Asking(server.url, tmp_path / "kept") as asking:
            for changes in ({"seed": 2}, {"attempt": 1}):
                with pytest.raises(Dropped):
                    asking.ask("a", **changes)
        assert len(server.bodies) == 4


def test_failures_of_the_network_are_not_kept(tmp_path):
    with serving(in_turn(Reply(500), Reply(500), Reply(500), chat("ok"))) as server:
        with Asking(server.url, tmp_path) as asking:
            assert asking.reason() == "server error" and asking.ask() == "ok"


def test_a_file_that_is_no_table_of_answers_is_refused(tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(OutputError, match="answers.sqlite"):
        Answers(tmp_path)


def test_a_server_that_repeats_the_key_gets_nothing_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with serving(lambda body, n: chat(f"your key is {KEY}")) as server:
        with Asking(server.url, tmp_path, key_env="SOME_KEY") as asking:
            assert asking.reason() == "answer repeats the key"
    assert KEY.encode() not in (tmp_path / "answers.sqlite").read_bytes()


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.setenv("SOME_KEY", key)
    with pytest.raises(SettingsError) as caught:
        LlmOptions(url="http://x", model="m", key_env="SOME_KEY").check("llm")
    assert "SOME_KEY" in str(caught.value) and key not in str(caught.value)


@pytest.mark.parametrize("url", ["http://a\x01b/v1", "http://xn--\u2603.:80/v1"])
def test_an_address_that_no_client_can_use_is_a_setting_to_correct(url):
    with pytest.raises(SettingsError, match="llm.url"):
        Client(LlmOptions(url=url, model="m"), Answers(None), 1, Counter())


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(SettingsError, match=r"lynx-moe\[engines\]"):
        Client(LlmOptions(url="http://x", model="m"), Answers(None), 1, Counter())


def test_the_request_survives_as_json_with_signs_of_all_kinds():
    with serving(lambda body, n: chat(body["messages"][0]["content"])) as server, Asking(server.url) as asking:
        text = 'quote " slash \\ null \u0000 snow ☃ 猫'
        assert asking.ask(text) == text
        assert json.loads(json.dumps(server.bodies[0]))["messages"][0]["content"] == text


def test_half_a_character_is_no_answer_and_a_key_in_escapes_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    half = '{"choices": [{"message": {"content": "\\ud800"}}]}'
    spelled = '{"choices": [{"message": {"content": "' + "".join(f"\\u{ord(c):04x}" for c in KEY) + '"}}]}'
    with serving(in_turn(Reply(body=half.encode()), Reply(body=spelled.encode()))) as server:
        with Asking(server.url, tmp_path, key_env="SOME_KEY") as asking:
            assert asking.reason("one") == "response of another form"
            assert asking.reason("two") == "answer repeats the key"
    assert KEY.encode() not in (tmp_path / "answers.sqlite").read_bytes()


def test_a_key_in_the_place_of_its_name_is_refused_without_being_shown():
    with pytest.raises(SettingsError) as caught:
        LlmOptions(url="http://localhost/v1", model="m", key_env=KEY).check("llm")
    assert KEY not in str(caught.value)
