"""The page between two words: its pictures are those of the other commands, and only who has its address gets any."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dti_repro.artifacts.embedding import METHOD, save_state
from dti_repro.errors import InputError
from dti_repro.inference.blend import Request
from dti_repro.inference.blend_server import BlendServer
from dti_repro.interpolate import interpolate
from dti_repro.launch.command_line import compose, quote_paths
from tests.e2e.blending import prepared, served
from tests.e2e.trained import trained_run, vectors

ASKED = {"mode": "slerp", "share": 0.5, "prompt": "a {}", "seed": 0, "steps": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = {"rex": vectors(0), "tom": 3 * vectors(1), "anti": -2 * vectors(0), "two": vectors(2, count=2)}
    run = trained_run(tmp_path_factory.mktemp("blend") / "runs", {**words, "layered": vectors(3)})
    header = {METHOD: "{}", "method": "p_plus", "vectors": "1"}
    save_state(run / "layered" / "embedding.safetensors", "<layered>", {"rows": vectors(3)}, header)
    return run


@pytest.fixture(scope="module")
def server(checkpoint: Path, run: Path) -> Iterator[BlendServer]:
    with served(checkpoint, run) as server:
        yield server


def ask(
    server: BlendServer, body: Any = ASKED, *, method: str = "POST", path: str | None = None, **headers: str | None
) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers. headers: others than those of the page's own requests; None leaves one out."""
    host = server.hosts[0]
    sent = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    data = None if method == "GET" else body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = HTTPConnection(*server.server_address, timeout=20)
    connection.putrequest(method, f"/{server.token}/draw" if path is None else path, skip_host=True)
    for name, value in {"Content-Length": None if data is None else str(len(data)), **sent}.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data)
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.headers)
    connection.close()
    return found


def pixels(png: bytes | Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png) if isinstance(png, bytes) else png))


def test_its_pictures_are_those_of_the_other_commands(server: BlendServer, checkpoint: Path, run: Path) -> None:
    model = ["backbone=stable_diffusion", f"backbone.path={checkpoint}", "threads=1", "accelerator=cpu"]
    words = [f"a={run / 'rex'}", f"b={run / 'tom'}", f"runs={run.parents[3]}", "progress=false", "sampling_steps=2"]
    for mode in ("slerp", "lerp"):
        overrides = map(quote_paths, (*model, *words, f"mode={mode}", "steps=3", "seeds=[7]"))
        folder = interpolate(compose("interpolate", [*overrides]))
        for k, share in enumerate((0, 0.5, 1)):
            status, png, headers = ask(server, {**ASKED, "mode": mode, "share": share, "seed": 7})
            assert (status, headers["Content-Type"]) == (200, "image/png")
            (drawn,) = folder.glob(f"step_{k:02d}/images/*/p000_s7.png")
            assert np.array_equal(pixels(png), pixels(drawn))
    ends = [vectors(0).norm().item(), 3 * vectors(1).norm().item()]
    norms = [float(ask(server, {**ASKED, "mode": mode})[2]["X-Norm"]) for mode in ("slerp", "lerp")]
    assert norms[0] == pytest.approx(sum(ends) / 2, rel=5e-3)
    assert norms[1] == pytest.approx((vectors(0) + 3 * vectors(1)).norm().item() / 2, rel=5e-3)
    assert not (run / "rex" / "blend").exists(), "nothing is written"


def test_the_page_and_its_files_come_from_memory(server: BlendServer) -> None:
    status, page, headers = ask(server, method="GET", path=f"/{server.token}/", Origin=None)
    assert status == 200
    assert b"From rex to tom" in page
    assert "default-src 'none'; script-src 'self'" in headers["Content-Security-Policy"]
    for path in ("", "/", "/page.js", f"/{server.token}", f"/{server.token[:-1]}/", "/wrong/page.js"):
        assert ask(server, method="GET", path=path or "/", Origin=None)[0] == 404
    for name in ("draw", "page.html", "../page.js", "..%2fpage.js", "/etc/passwd", "page.js?x"):
        assert ask(server, method="GET", path=f"/{server.token}/{name}", Origin=None)[0] == 404


def test_only_its_own_page_may_ask(server: BlendServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.blend, "draw", lambda *_: pytest.fail("a picture was drawn"))
    port, own = server.server_address[1], server.hosts[0]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", None):
        assert ask(server, Host=host, Origin=f"http://{host}")[0] == 403
        assert ask(server, method="GET", path=f"/{server.token}/", Host=host, Origin=None)[0] == 403
    for origin in ("http://evil.example", "null", f"https://{own}", f"http://localhost:{port}", None):
        assert ask(server, Origin=origin)[0] == 403
    assert ask(server, method="GET", path=f"/{server.token}/", Origin="http://evil.example")[0] == 403
    assert ask(server, path=f"/{'x' * len(server.token)}/draw")[0] == 404
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{" * 4000, 400, "no JSON"),
        (b"[" * 4000, 400, "no JSON"),
        (b"\xff", 400, "no JSON"),
        (b"[]", 400, "exactly mode, share, prompt, seed, steps"),
        ({**ASKED, "path": "/etc/passwd"}, 400, "exactly mode"),
        ({**ASKED, "mode": "cubic"}, 400, "mode is cubic: slerp or lerp is needed"),
        ({**ASKED, "share": 1.5}, 400, "share is 1.5: a number of at least 0 and at most 1 is needed"),
        ({**ASKED, "share": float("nan")}, 400, "share is nan"),
        ({**ASKED, "share": "0"}, 400, "share is 0: a number"),
        ({**ASKED, "seed": -1}, 400, "seed is -1"),
        ({**ASKED, "seed": 2**64}, 400, "seed is "),
        ({**ASKED, "steps": 0}, 400, "steps is 0: a whole number above 0 is needed"),
        ({**ASKED, "steps": 1001}, 400, "steps=1001: the model has 1000 timesteps"),
        ({**ASKED, "steps": True}, 400, "steps is true"),
        ({**ASKED, "prompt": "a cat"}, 400, "has no {} for the concept"),
        ({**ASKED, "prompt": "a {rex}"}, 400, "use {} instead of names"),
        ({**ASKED, "prompt": "a {} \ud800"}, 400, "prompt"),
        ({**ASKED, "prompt": "a {} and <sam>"}, 400, "no vectors are given for <sam>"),
        ({**ASKED, "prompt": "a {}" + " cat" * 70}, 400, "longer than the text encoder can read"),
        ({**ASKED, "prompt": "{}" * 151}, 400, "at most 300 characters"),
        (b" " * 4097, 413, "at most 4096 bytes"),
    ],
)
def test_what_cannot_be_drawn_is_one_clear_line(server: BlendServer, body: Any, status: int, words: str) -> None:
    found, said, headers = ask(server, body)
    assert (found, headers["Content-Type"]) == (status, "text/plain; charset=utf-8")
    assert words in said.decode()
    assert b"\n" not in said


def test_a_body_needs_its_length_and_its_type(server: BlendServer) -> None:
    assert ask(server, Content_Type="text/plain")[0] == 415
    assert ask(server, b"", Content_Length="-1")[0] == 411
    assert ask(server, b"", Content_Length="\u00b2".encode().decode("latin-1"))[0] == 411
    assert ask(server, b"2\r\n{}\r\n0\r\n\r\n", Content_Length=None, Transfer_Encoding="chunked")[0] == 411


def test_opposite_words_have_one_way_only(checkpoint: Path, run: Path) -> None:
    with served(checkpoint, run, "anti") as server:
        status, said, _ = ask(server)
        assert status == 400
        assert b"antipodal" in said
        assert ask(server, {**ASKED, "mode": "lerp", "share": 0.25})[0] == 200


@pytest.mark.parametrize(
    ("b", "more", "words"),
    [
        ("two", [], "equally many vectors"),
        ("layered", [], "p_plus learns other vectors for each layer or timestep"),
        ("nosuch", [], "does not exist"),
        ("", [], "several concepts"),
        ("tom", ["prompt='a cat'"], "has no {} for the concept"),
        ("tom", ["steps=1001"], "the model has 1000 timesteps"),
        ("tom", ["port=65536"], "port is 65536: a whole number of at least 0 and at most 65535 is needed"),
        ("tom", ["backbone.name=other"], "trained on stable_diffusion"),
    ],
)
def test_the_command_says_what_is_wrong_before_a_model_is_loaded(
    checkpoint: Path, run: Path, b: str, more: list[str], words: str
) -> None:
    with pytest.raises(InputError) as error:
        prepared(checkpoint, run, b, *more)
    assert words in str(error.value)


def test_a_port_that_is_taken_is_said(checkpoint: Path, run: Path, server: BlendServer) -> None:
    port = server.server_address[1]
    blend, cfg = prepared(checkpoint, run, "tom", f"port={port}")
    with pytest.raises(InputError, match=f"port={port}: Address already in use: use another one"):
        BlendServer(blend, cfg)


def test_one_picture_is_drawn_at_a_time(server: BlendServer, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, drawn = threading.Event(), threading.Event(), []

    def draw(request: Request) -> tuple[bytes, float]:
        begun.set()
        assert go_on.wait(10)
        drawn.append(request.mode)
        return b"", 1.0

    monkeypatch.setattr(server.blend, "draw", draw)
    asking = [threading.Thread(target=ask, args=(server, {**ASKED, "mode": mode})) for mode in ("slerp", "lerp")]
    for thread in asking:
        thread.start()
        assert begun.wait(10)
    begun.clear()
    assert not begun.wait(0.2), "the second one waits"
    go_on.set()
    for thread in asking:
        thread.join(10)
    assert sorted(drawn) == ["lerp", "slerp"]


def test_ctrl_c_ends_it(checkpoint: Path, run: Path) -> None:
    blend, cfg = prepared(checkpoint, run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores the signal
    try:
        with BlendServer(blend, cfg) as server:
            timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            server.run()
            assert server.drawing.locked(), "no picture begins any more"
    finally:
        signal.signal(signal.SIGINT, before)
