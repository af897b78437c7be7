"""Jobs that start at once on a cluster whose nodes do not have the weights: these are downloaded once, and whole.

huggingface_hub locks each file of its cache while it is downloaded and renames it when it is whole; no code of ours is
needed, and this test fails if that changes. The Hub here is a server on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = "unet/model.safetensors"
FILES = {
    "model_index.json": b"{}",
    "unet/config.json": b'{"a": 1}',
    WEIGHTS: os.urandom(1 << 18),
}
JOBS = 3


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as a snapshot's download asks for; weights come slowly."""

    protocol_version = "HTTP/1.1"
    fetched: ClassVar[Counter[str]] = Counter()
    requested: ClassVar[threading.Semaphore] = threading.Semaphore(0)  # how many jobs know that there are weights

    def do_HEAD(self) -> None:
        self.answer(body=False)
        if self.path.endswith(WEIGHTS):
            self.requested.release()

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        if self.path.startswith("/api/models/o/n/"):
            files = [{"rfilename": name} for name in FILES]
            tree = [{"type": "file", "path": name, "size": len(data), "oid": ""} for name, data in FILES.items()]
            content = tree if "/tree/" in self.path else {"id": "o/n", "sha": COMMIT, "siblings": files}
            self.send(json.dumps(content).encode(), "application/json", body)
        else:
            name = self.path.split(f"/{COMMIT}/")[-1].split("/resolve/main/")[-1]
            if body:
                self.fetched[name] += 1
                if name == WEIGHTS and self.fetched[name] == 1:  # all jobs know of the file
                    assert all(self.requested.acquire(timeout=120) for _ in range(JOBS))
            self.send(FILES[name], "application/octet-stream", body)

    def send(self, data: bytes, kind: str, body: bool) -> None:
        self.send_response(200)
        for key, value in {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        for k in range(0, len(data) if body else 0, 1 << 15):
            self.wfile.write(data[k : k + (1 << 15)])
            time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.fetched.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_jobs_that_start_at_once_download_the_weights_once_and_whole(hub: str, tmp_path: Path) -> None:
    code = "from dti_repro.backbones.hub import download, patterns; print(download('o/n', 'main', patterns()))"
    settings = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    proxies = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], env={**proxies, **settings}, stdout=subprocess.PIPE, text=True)
        for _ in range(JOBS)
    ]
    folders = {job.communicate(timeout=300)[0].strip() for job in jobs}
    assert len(folders) == 1
    (folder,) = map(Path, folders)
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert Hub.fetched[WEIGHTS] == 1
    assert not list(tmp_path.rglob("*.incomplete"))
