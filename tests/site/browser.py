"""A real browser on the built site: headless Chromium runs one page of ours, which opens the site's pages in frames.

The frames have the width of a screen or of a phone, so one start of the browser measures all of them. What the page
found comes back as JSON.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell")
MEASURE = Path(__file__).with_name("measure.html")


def chromium() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class _Site(SimpleHTTPRequestHandler):
    """The folder, the measuring page under /measure.html, and an ear for its report."""

    server: _Server

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/measure.html":
            super().do_GET()
            return
        page = MEASURE.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self) -> None:
        self.server.report = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.reported.set()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Site, directory=str(folder)))
        self.report: dict[str, Any] = {}
        self.reported = threading.Event()


def measured(site: Path, work: Path, tasks: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    """What tests/site/measure.html found on a site.

    Parameters
    ----------
    site : the built site
    work : an empty folder, for the browser's profile
    tasks : `pages`, their paths; `widths`, in CSS pixels; `searches`, words to search for
    seconds : after which a browser without a report is a failure
    """
    program = chromium()
    assert program
    with _Server(site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/measure.html#{quote(json.dumps(tasks))}"
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--window-size=1400,1000", f"--user-data-dir={work / 'profile'}", "--remote-debugging-port=0",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", address,
        ]  # fmt: skip
        with (work / "browser.log").open("wb") as log:
            browser = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            assert server.reported.wait(seconds), (work / "browser.log").read_text(errors="replace")[-2000:]
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
    return server.report
