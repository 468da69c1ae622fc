"""Pushing an export to a Hub: a local server that speaks the Hub's protocol keeps what it is sent."""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from lynx_moe.errors import ExportError
from lynx_moe.export import push


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as one commit of small files asks for."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if hub.refuses:
            return self._say(403, {"error": "you may not write here"})
        if path == "/api/repos/create":
            hub.made.append(json.loads(body))
            return self._say(200, {"url": f"{hub.address}/me/mine"})
        if path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            return self._say(
                200, {"files": [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
            )
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._say(200, {"commitUrl": f"{hub.address}/me/mine/commit/1", "commitOid": "1", "success": True})
        return self._say(200, {})

    def do_GET(self):
        self._say(404 if self.server.refuses else 200, {"id": "me/mine", "siblings": [], "sha": "0"})

    def _say(self, status: int, answer: dict) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@contextmanager
def running_hub(*, refuses: bool = False):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.refuses, server.files, server.made, server.tokens = refuses, {}, [], set()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "deeper" / "README.txt").write_bytes(bytes(range(256)))
    (tmp_path / ".aside").write_text("not meant for others")
    return tmp_path


@pytest.mark.parametrize("public", [False, True])
def test_every_file_arrives_in_one_commit_with_the_token_of_the_environment(folder, public):
    with running_hub() as hub:
        address = push(folder, "me/mine", public=public, endpoint=hub.address)
    assert hub.files == {"config.json": b"{}", "deeper/README.txt": bytes(range(256))}
    assert address.endswith("/commit/1")
    assert hub.made[0]["name"] == "mine"
    assert hub.made[0].get("private", hub.made[0].get("visibility") == "private") is not public
    assert hub.tokens == {"Bearer hf_of_the_test"}


def test_hub_that_refuses_is_said_and_the_folder_stays(folder):
    with running_hub(refuses=True) as hub, pytest.raises(ExportError, match="not pushed to me/mine") as caught:
        push(folder, "me/mine", endpoint=hub.address)
    assert "403" in caught.value.why and "hf upload me/mine" in caught.value.fix
    assert (folder / "config.json").read_text() == "{}" and not hub.files
