"""`vibelite export --push`, against a stand-in of the hub that the real client talks to."""

import base64
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Takes what the client of huggingface.co sends: repositories and files, by its token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.created = {}
        self.files = {}
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer right":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created = asked
            self.answer({"url": f"{self.server.address}/owner/{asked['name']}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files[line["value"]["path"]] = content
            url = f"{self.server.address}/owner/sums/commit/{COMMIT}"
            self.answer({"commitUrl": url, "commitOid": COMMIT})
        else:
            self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.answer({"error": "Repository not found"}, 404)

    def answer(self, value, status=200):
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format, *arguments):
        """The tests' output is not for requests."""


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def push(run_dir, to, hub, monkeypatch, *, name="owner/sums", token="right", offline="0"):
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    command = [sys.executable, "-m", "vibelite", "export", run_dir, "--to", to, "--push", name]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_model_is_uploaded_with_its_card(nano_run, tmp_path, hub, monkeypatch):
    to = tmp_path / "model"
    done = push(nano_run, to, hub, monkeypatch)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(to), f"{hub.address}/owner/sums/commit/{COMMIT}"]
    assert (hub.created["name"], hub.created["visibility"]) == ("sums", "private")
    assert hub.files == {path.name: path.read_bytes() for path in to.iterdir()}
    assert {"README.md", "config.json", "model.safetensors"} <= hub.files.keys()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"token": "wrong"}, "--push owner/sums: "),
        ({"name": "sums"}, "--push sums: name it OWNER/NAME"),
        ({"name": "owner/su ms"}, "--push owner/su ms: "),
        ({"offline": "1"}, "--push owner/sums: "),
    ],
)
def test_what_the_hub_refuses_is_told_before_anything_is_written(
    nano_run, tmp_path, hub, monkeypatch, options, said
):
    done = push(nano_run, tmp_path / "model", hub, monkeypatch, **options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(said)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists() and not hub.files
