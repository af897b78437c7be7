"""A published set is complete or its missing files are named; no file is downloaded twice, no wrong bytes are taken."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from PIL import Image

from dti_repro import download as command
from dti_repro.config import CONF
from dti_repro.data import download
from dti_repro.data.concept import Collection
from dti_repro.data.download import Files, Pictures
from dti_repro.data.prompts import load_prompts
from dti_repro.data.published_prompts import DreamBoothPrompts
from dti_repro.errors import InputError

PROMPTS = b"""Prompts

Object Prompts

prompt_list = [
'a {0} {1} on a roof'.format(unique_token, class_token),
'a green {0} {1}'.format(unique_token, class_token),
'a green {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} in a gown'.format(unique_token, class_token)
]
"""


class Host:
    """A server on this machine: its files, the faults of its answers, and the requests that it got."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.cut: Counter[str] = Counter()  # path -> how many more answers break off in the middle
        self.busy: Counter[str] = Counter()  # path -> how many more answers are 503
        self.requests: list[str] = []


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.requests.append(self.path)
            if here.busy[self.path] > 0:
                here.busy[self.path] -= 1
                self.send_error(503)
            elif self.path not in here.files:
                self.send_error(404)
            else:
                content = here.files[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if here.cut[self.path] > 0:
                    here.cut[self.path] -= 1
                    content = content[: len(content) // 2]
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Host(f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0, 0, 0))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


def photo(format: str = "JPEG", size: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((size, size), 20).convert("RGB").save(buffer, format)
    return buffer.getvalue()


@pytest.fixture
def files(host: Host) -> Files:
    """Two photos and DreamBooth's prompts; the host has one more file, which is not of the set."""
    host.files = {"/dog/00.jpg": photo(), "/cat/00.jpg": photo(), "/prompts.txt": PROMPTS, "/cat/run.py": b"7"}
    hashes = {path[1:]: hashlib.sha256(host.files[path]).hexdigest() for path in list(host.files)[:3]}
    return Files(f"{host.address}/", hashes, DreamBoothPrompts("prompts.txt"))


@pytest.fixture
def missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[[download.Source], list[str]]:
    """missing(source) -> fetch it, and return what it says is missing."""

    def fetch(source: download.Source) -> list[str]:
        with suppress(InputError):
            source.fetch(tmp_path, progress=False)
        return capsys.readouterr().err.splitlines()

    return fetch


def test_a_set_is_fetched_once_and_what_somebody_changed_is_kept(
    host: Host, files: Files, missing: Callable, tmp_path: Path
) -> None:
    assert missing(files) == []
    assert host.requests == ["/dog/00.jpg", "/cat/00.jpg", "/prompts.txt"]
    prompts = load_prompts(str(tmp_path / "dreambooth.yaml"))
    assert [p.template for p in prompts.prompts] == ["a {} on a roof", "a green {}"]
    assert [p.template for p in prompts.live] == ["a {} in a gown"]
    (tmp_path / "cat/00.jpg").write_bytes(host.files["/cat/00.jpg"][:-1])
    host.requests.clear()
    (line,) = missing(files)
    assert line == f"missing: {tmp_path}/cat/00.jpg is not the published file: remove it, and it is fetched again"
    assert host.requests == []
    (tmp_path / "cat/00.jpg").unlink()
    assert missing(files) == []
    assert host.requests == ["/cat/00.jpg"]
    assert (tmp_path / "cat/00.jpg").read_bytes() == host.files["/cat/00.jpg"]


def test_a_broken_connection_is_tried_again(host: Host, files: Files, missing: Callable, tmp_path: Path) -> None:
    host.cut["/dog/00.jpg"], host.cut["/cat/00.jpg"], host.busy["/cat/00.jpg"] = 3, 1, 1
    (line,) = missing(files)
    assert re.fullmatch(rf"missing: {host.address}/dog/00\.jpg failed 3 times \(.*\)", line)
    assert Counter(host.requests) == {"/dog/00.jpg": 3, "/cat/00.jpg": 3, "/prompts.txt": 1}
    assert not list((tmp_path).glob("dog/[!.]*"))
    host.requests.clear()
    assert missing(files) == []
    assert host.requests == ["/dog/00.jpg"]
    assert (tmp_path / "dog/00.jpg").read_bytes() == host.files["/dog/00.jpg"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (photo(), "is not the published file: its SHA-256 hash is different"),
        (None, "answers 404 Not Found"),
        (bytes(5000), "is larger than"),
    ],
    ids=["other", "absent", "large"],
)
def test_a_file_that_cannot_come_is_named_and_the_rest_is_kept(
    content: bytes | None,
    words: str,
    host: Host,
    files: Files,
    missing: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 4000)
    right = host.files.pop("/dog/00.jpg")
    if content is not None:
        host.files["/dog/00.jpg"] = content
    (line,) = missing(files)
    assert line.startswith(f"missing: {host.address}/dog/00.jpg {words}")
    assert [p.relative_to(tmp_path) for p in tmp_path.glob("*/*")] == [Path("dog/.unfinished"), Path("cat/00.jpg")]
    with pytest.raises(InputError, match=r"dog lacks photos: python -m dti_repro\.download dreambooth fetches them"):
        Collection("dreambooth", str(tmp_path), "dog").load()
    assert not (tmp_path / "dreambooth.yaml").exists()
    host.files["/dog/00.jpg"] = right
    host.requests.clear()
    assert missing(files) == []
    assert host.requests == ["/dog/00.jpg"]
    assert not list(tmp_path.glob("*/.unfinished"))


def test_a_host_that_does_not_answer_is_named_once(files: Files, host: Host, missing: Callable) -> None:
    files.base = "http://127.0.0.1:9"
    (line,) = missing(files)
    assert re.match(r"missing: 127\.0\.0\.1:9 cannot be reached \(.*refused.*\): check the connection", line)


@pytest.mark.parametrize("name", ["../up.jpg", "/etc/up.jpg", "dog/../../up.jpg"])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(InputError, match="outside"):
        Files("http://127.0.0.1:9", {name: "0" * 64}, None)


def test_pictures_without_hashes_are_checked_by_decoding(host: Host, missing: Callable, tmp_path: Path) -> None:
    """A page that says no, half a photo and another format are refused; a photo that a person saved counts."""
    answers = {
        "png": photo("PNG"),
        "webp": photo("WEBP"),
        "page": b"<html>please log in</html>",
        "half": photo(size=200)[:3000],
        "bitmap": photo("BMP"),
    }
    host.files = {f"/{name}?80": content for name, content in answers.items()}
    source = Pictures({name: f"{host.address}/{name}?80" for name in (*answers, "absent", "mine")}, None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.jpg").write_bytes(photo())
    refused = ["page", "half", "bitmap", "absent"]
    lines = missing(source)
    assert [re.match(r"missing: (\w+): ", line)[1] for line in lines] == refused
    assert all(re.search(r"; or save the photo by hand in \S+/$", line) for line in lines)
    assert sorted(p.name for p in tmp_path.glob("*/*")) == ["00.png", "00.webp", "mine.jpg"]
    for name in refused:
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.png").write_bytes(photo("PNG"))
    host.requests.clear()
    assert missing(source) == []
    assert host.requests == []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """run("dreambooth", ...) -> the command's exit code and stderr."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["download", *arguments, f"root={tmp_path / 'data'}", "progress=false"])
        code = 0
        try:
            command.main()
        except SystemExit as left:
            code = int(left.code)
        return code, capsys.readouterr().err

    return call


def test_the_command_says_what_a_person_has_to_save(run: Callable, tmp_path: Path) -> None:
    code, said = run("textual_inversion")
    folder = tmp_path / "data/textual_inversion"
    *_, line, last = said.splitlines()
    assert code == 2
    assert f"{folder}/thin_bird does not exist; save the photos of https://drive" in line
    assert last.startswith(f"error: {folder} is not complete")
    for name in Collection("textual_inversion", ".").names():
        (folder / name).mkdir(parents=True)
        (folder / name / "a.jpg").write_bytes(photo())
    assert run("textual_inversion") == (0, "")


def test_the_command_names_a_file_that_its_host_does_not_have(run: Callable, host: Host) -> None:
    code, said = run("dti_prompts", f"source.base={host.address}")
    assert code == 2
    assert said.startswith(f"missing: {host.address}/prompts.py answers 404 Not Found\nerror: ")


@pytest.mark.parametrize("arguments", [["flickr"], []])
def test_the_sets_are_named(arguments: list[str], run: Callable) -> None:
    code, said = run(*arguments)
    assert code == 2
    assert "styledrop" in said
    assert said.count("\n") == 1


def test_every_source_has_its_concepts_where_they_are_looked_for() -> None:
    root = yaml.safe_load((CONF / "download.yaml").read_text())["root"]
    for name in ("dreambooth", "styledrop", "textual_inversion"):
        source = yaml.safe_load((CONF / "source" / f"{name}.yaml").read_text())
        parts = source.get("links") or {path.split("/")[0] for path in source["files"] if path.endswith(".jpg")}
        assert sorted(parts) == Collection(name, ".").names()
        concepts = yaml.safe_load((CONF / "concepts" / f"{name}.yaml").read_text())
        assert concepts["root"] == f"{root}/{name}"
        assert concepts["index"] == name
