"""The local page of `dti blend`: a server that only this machine reaches, and only who knows its address.

It listens on 127.0.0.1. Every path begins with a random token, and the headers Host and Origin are checked, so that
neither another page in the same browser nor a name that is made to point here (DNS rebinding) can ask for anything. It
answers from memory: no path of a request is opened.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from sys import exception
from threading import Lock
from typing import Any

from omegaconf import DictConfig

from dti_repro.config.schema import MAX_PROMPT
from dti_repro.errors import InputError
from dti_repro.inference.blend import Blend, Request

HERE = Path(__file__).parent / "blend_page"
LOOPBACK = "127.0.0.1"
MAX_BODY = 4096  # bytes
MAX_DISCARDED = 1 << 16  # bytes of a refused body that are read, so that the client can read the answer
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class RefusedError(InputError):
    """A request that gets no picture and no page, with its status."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class BlendServer(ThreadingMixIn, TCPServer):
    """Serves the page of two words. port: 0 takes a free one. InputError for a port that cannot be had."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # an idle connection must not hold up the end

    def __init__(self, blend: Blend, cfg: DictConfig) -> None:
        try:
            super().__init__((LOOPBACK, cfg.port), Handler)
        except OSError as error:
            raise InputError(f"port={cfg.port}: {error.strerror}: use another one, or port=0 for a free one") from error
        self.blend = blend
        self.drawing = Lock()  # one picture at a time
        self.token = secrets.token_urlsafe(24)
        port = self.server_address[1]
        self.hosts = [f"{LOOPBACK}:{port}", f"localhost:{port}"]
        self.files = {
            "": ("text/html; charset=utf-8", _page(blend.names, cfg).encode()),
            "page.css": ("text/css; charset=utf-8", (HERE / "page.css").read_bytes()),
            "page.js": ("text/javascript; charset=utf-8", (HERE / "page.js").read_bytes()),
        }

    @property
    def address(self) -> str:
        return f"http://{self.hosts[0]}/{self.token}/"

    def run(self) -> None:
        """Serve until Ctrl-C. A picture that is being drawn is drawn to its end."""
        try:
            self.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            self.drawing.acquire()  # waits for that picture, and lets no other one begin

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away; print the traceback of a fault."""
        if not isinstance(exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    server: BlendServer
    server_version, sys_version = "dti", ""
    timeout = 10  # seconds that a request may take to arrive

    def log_message(self, *_: Any) -> None:
        """Print nothing for a request: the address, with its token, stays out of logs."""

    def _answer(self) -> None:
        status = HTTPStatus.OK
        try:
            body = self._body()
            kind, answer, more = self._made(self._asked(), body)
        except InputError as error:
            status = error.status if isinstance(error, RefusedError) else HTTPStatus.BAD_REQUEST
            kind, answer, more = "text/plain; charset=utf-8", str(error).encode(), {}
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(answer)), **HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = _answer

    def _body(self) -> bytes:
        """Return the body; b"" if there is none. RefusedError if it is too long, or its length is not told."""
        told = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (told.isascii() and told.isdigit()) or len(told) > 9:
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "a body needs its Content-Length")
        body = self.rfile.read(min(int(told), MAX_DISCARDED))
        if int(told) > MAX_BODY:
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MAX_BODY} bytes")
        return body

    def _asked(self) -> str:
        """Return the path after the token. RefusedError for a request from elsewhere or without the token."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise RefusedError(HTTPStatus.FORBIDDEN, "another Host than the address that was printed")
        origins = self.headers.get_all("Origin", [])
        if origins != [f"http://{hosts[0]}"] and (origins or self.command == "POST"):
            raise RefusedError(HTTPStatus.FORBIDDEN, "a request from another page")
        token, slash, asked = self.path.removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise RefusedError(HTTPStatus.NOT_FOUND, "open the address that was printed")
        return asked

    def _made(self, asked: str, body: bytes) -> tuple[str, bytes, dict[str, str]]:
        """Return a file for GET, a picture for POST: its MIME type, its bytes and further headers."""
        if self.command == "GET" and asked in self.server.files:
            return *self.server.files[asked], {}
        if self.command == "GET" or asked != "draw":
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        if self.headers.get_content_type() != "application/json":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a request is application/json")
        request = Request.parse(body)
        with self.server.drawing:
            png, norm = self.server.blend.draw(request)
        return "image/png", png, {"X-Norm": f"{norm:.3g}"}


def _page(names: tuple[str, str], cfg: DictConfig) -> str:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    template = environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))
    given = {"prompt": cfg.prompt, "seed": cfg.seed, "steps": cfg.steps, "max_prompt": MAX_PROMPT}
    return template.render(a=names[0], b=names[1], **given)
