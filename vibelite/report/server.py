"""The live report: a page on 127.0.0.1, and a short text that changes when the page would.

Requests whose Host is not this machine by name are refused, so that no site that the same browser
has open can read the report through a name of its own (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vibelite.errors import VibeLiteError
from vibelite.report.build import page_of
from vibelite.telemetry.run_state import read_state

HOST = "127.0.0.1"
# What a page is made of; models and training state are not read. The ledger changes while nothing
# happens: its process says that it lives.
WATCHED = (
    "recipe.resolved.yaml",
    "manifest.json",
    "summary.json",
    "stages/*/*.json",
    "stages/*/*.jsonl",
)


class LiveReport:
    """The page about `run_dirs`, made anew only when their files have changed."""

    def __init__(self, run_dirs: Sequence[Path]) -> None:
        self._run_dirs = run_dirs
        self._lock = threading.Lock()
        self._made: tuple[str, str] | None = None

    def version(self) -> str:
        """Changes whenever a file of the report does."""
        digest = hashlib.sha256()
        for run_dir in self._run_dirs:
            for path in sorted(path for glob in WATCHED for path in run_dir.glob(glob)):
                status = path.stat()
                digest.update(f"{path}\0{status.st_mtime_ns}\0{status.st_size}\0".encode())
            digest.update(read_state(run_dir).state.encode())
        return digest.hexdigest()

    def page(self) -> str:
        """The page as it stands now."""
        with self._lock:
            version = self.version()
            if self._made is None or self._made[0] != version:
                self._made = version, page_of(self._run_dirs, is_live=True)
            return self._made[1]


def make_server(report: LiveReport, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1; port 0 = any that is free. VibeLiteError when the port is taken."""
    try:
        server = ThreadingHTTPServer((HOST, port), handler_of(report))
    except OSError as error:
        raise VibeLiteError(
            f"port {port}: cannot be used ({error.strerror}); choose another with --port"
        ) from error
    server.daemon_threads = True
    return server


def handler_of(report: LiveReport) -> type[BaseHTTPRequestHandler]:
    """What answers a request about `report`."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "vibelite", ""

        def do_GET(self) -> None:
            if not self._is_local():
                self._answer(HTTPStatus.FORBIDDEN, "this report is read at 127.0.0.1 only\n")
            elif self.path == "/":
                self._answer(HTTPStatus.OK, report.page(), kind="text/html")
            elif self.path == "/version":
                self._answer(HTTPStatus.OK, report.version())
            else:
                self._answer(HTTPStatus.NOT_FOUND, "nothing here; the report is at /\n")

        do_HEAD = do_GET

        def _is_local(self) -> bool:
            port = self.connection.getsockname()[1]
            hosts = self.headers.get_all("Host", [])
            return len(hosts) == 1 and hosts[0] in (f"{HOST}:{port}", f"localhost:{port}")

        def _answer(self, status: HTTPStatus, text: str, *, kind: str = "text/plain") -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A page that asks every two seconds would drown the terminal."""

    return Handler
