"""The report of a run that is still training, served to this machine alone and made anew as its files grow.

Nothing is written and nothing can be asked for but the page, and whether there is another one by now.
"""

from __future__ import annotations

import os
import threading
import time
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..runs.directory import load_info
from ..runs.files import RunError
from ..runs.tables import TABLES
from .canvas import PlotError, require_matplotlib
from .report import make_page

HOST = "127.0.0.1"
WATCHED = ("config.json", "agent.npz", "transitions.npz", *(f"{table}.csv" for table in TABLES))
PAUSE = 5.0  # seconds between two pages, at least, and as long again as one takes to make: training needs the core too

WAITING = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'">
<title>Waiting</title></head><body><p id="waiting">{}</p><p>This page asks again every other second.</p></body></html>
"""


class Pages:
    """The newest page of a run directory. pause: see PAUSE."""

    def __init__(self, directory: str | os.PathLike[str], pause: float = PAUSE):
        self.directory, self.pause = Path(directory), pause
        self._lock = threading.Lock()  # one page at a time is made
        self._version, self._page, self._next = "", "", 0.0

    def version(self) -> str:
        """Of the newest page to be had: another one when a file has changed, and the pause is over."""
        with self._lock:
            return self._newest()

    def page(self) -> str:
        """The newest page, or one that says what there is to wait for."""
        with self._lock:
            version = self._newest()
            if version != self._version:
                started = time.monotonic()
                self._page, self._version = self._make(version), version
                now = time.monotonic()
                self._next = now + max(self.pause, now - started)
            return self._page

    def _newest(self) -> str:
        if self._version and time.monotonic() < self._next:
            return self._version
        return "-".join(self._look(name) for name in WATCHED)

    def _look(self, name: str) -> str:
        try:
            found = os.stat(self.directory / name)
        except OSError:
            return ""
        return f"{found.st_mtime_ns:x}.{found.st_size:x}"

    def _make(self, version: str) -> str:
        try:
            return make_page(self.directory, version=version)
        except (RunError, PlotError) as error:  # no agent yet, or a file that is being replaced
            return WAITING.format(escape(str(error)))


def make_server(pages: Pages, port: int = 0) -> ThreadingHTTPServer:
    """A server of these pages on this machine's own address, to be started with `serve_forever`. port 0: a free one.

    Raises OSError where the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds for a request to come: a browser may open connections ahead

        def do_GET(self) -> None:
            if self.headers.get("Host") not in (f"{HOST}:{server.server_port}", f"localhost:{server.server_port}"):
                self.send_error(403, "another name for this machine")  # a foreign page that had its name point here
            elif self.path == "/":
                self._answer(pages.page(), "text/html")
            elif self.path == "/version":
                self._answer(pages.version(), "text/plain")
            else:
                self.send_error(404)

        def _answer(self, text: str, kind: str) -> None:
            content = text.encode(errors="replace")
            self.send_response(200)
            for name, value in (("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(content))),
                                ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the browser has gone
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, port), Handler)
    server.daemon_threads = True
    return server


def check_run(directory: str | os.PathLike[str]) -> None:
    """Raises RunError where there is no run, PlotError where matplotlib is missing."""
    load_info(directory)
    require_matplotlib()
