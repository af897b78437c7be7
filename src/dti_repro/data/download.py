"""Download published photos and prompts from where their authors put them.

What is there and whole is not fetched again, so the same call brings what is missing.
"""

from __future__ import annotations

import hashlib
import io
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
from PIL import Image
from requests.exceptions import ConnectionError, RequestException
from rich.console import Console
from rich.progress import track

from dti_repro.artifacts.files import atomic_write, sha256
from dti_repro.artifacts.run_dir import check_name
from dti_repro.data.photos import check_photos, list_photos
from dti_repro.data.published_prompts import PromptReader
from dti_repro.errors import InputError

MAX_BYTES = 64 << 20  # of one file; a photo has a few MiB
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
WAITS = (0, 1, 3)  # seconds before each attempt
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


class Client:
    """Get files over HTTP."""

    def __init__(self) -> None:
        self.session = requests.Session()
        # Some hosts refuse programs without a name.
        self.session.headers["User-Agent"] = f"dti-repro/{version('dti-repro')}"
        self.unreachable: dict[str, str] = {}  # host -> what to say: its other files are not waited for

    def get(self, url: str) -> bytes:
        """Return the bytes at `url`, after several attempts where the connection breaks or the host has an error.
        InputError that names the address, or the host if it does not answer."""
        host = urlsplit(url).netloc
        if host in self.unreachable:
            raise InputError(self.unreachable[host])
        for wait in WAITS:
            time.sleep(wait)
            try:
                with self.session.get(url, stream=True, timeout=TIMEOUT) as response:
                    return _read(response)
            except RequestException as error:
                failure = error
        if isinstance(failure, ConnectionError):
            line = f"{host} cannot be reached ({_reason(failure)}): see to the connection"
            self.unreachable[host] = line
            raise InputError(line) from failure
        raise InputError(f"{url} failed {len(WAITS)} times ({_reason(failure)})") from failure


class Source(ABC):
    """The parts of one published set. There is one yaml in conf/source for each set."""

    prompts: PromptReader | None = None

    @property
    @abstractmethod
    def parts(self) -> Sequence[str]:
        """Names of the files or concepts."""

    @abstractmethod
    def bring(self, part: str, folder: Path, client: Client) -> bool:
        """Fetch a part if it is not whole below `folder`; return whether it was fetched. InputError that names it."""

    def fetch(self, folder: Path, progress: bool) -> None:
        """Fetch all that is missing. Names what does not come, line by line, and raises InputError at the end."""
        client, came = Client(), 0
        missing: dict[str, None] = {}  # each line once: a host that cannot be reached has many files
        for part in track(self.parts, "fetching", console=Console(stderr=True), disable=not progress):
            try:
                came += self.bring(part, folder, client)
            except InputError as error:
                missing[str(error)] = None
        for line in missing:
            print(f"missing: {line}", file=sys.stderr)
        print(f"{folder}: {len(self.parts)} in all, {came} fetched now")
        if missing:
            raise InputError(f"{folder} is not complete: see the lines above, then give the same command again")
        if self.prompts is not None:
            self.prompts.write(folder)


class Files(Source):
    """Files with known SHA-256 hashes.

    base: the address of their folder. files: path below the folder -> hash. prompts: what reads prompt sets from one
    of the files (None: there are none).
    """

    def __init__(self, base: str, files: Mapping[str, str], prompts: PromptReader | None) -> None:
        for name in files:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise InputError(f"source.files: {name!r} is outside of the set's folder")
        self.base, self.files, self.prompts = base.rstrip("/"), files, prompts

    @property
    def parts(self) -> Sequence[str]:
        return tuple(self.files)

    def bring(self, part: str, folder: Path, client: Client) -> bool:
        path, expected = folder / part, self.files[part]
        if path.is_file() and sha256(path) == expected:
            return False
        url = f"{self.base}/{part}"
        content = client.get(url)
        if hashlib.sha256(content).hexdigest() != expected:
            raise InputError(f"{url} is not the published file: its SHA-256 hash is different")
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        return True


class Pictures(Source):
    """One picture for each concept, at `<concept>/00.<jpg, png or webp>`. Hashes are not published, so a picture is
    checked by decoding.

    links: concept -> address, or None where only a person can get the photos. page: where a person finds them. A
    concept whose folder has whole pictures is left alone, so pictures saved by hand count.
    """

    def __init__(self, links: Mapping[str, str | None], page: str | None) -> None:
        self.links = {check_name(name, "concept"): url for name, url in links.items()}
        self.page = page

    @property
    def parts(self) -> Sequence[str]:
        return tuple(self.links)

    def bring(self, part: str, folder: Path, client: Client) -> bool:
        pictures, url = folder / part, self.links[part]
        try:
            check_photos(list_photos(pictures))
            return False
        except InputError as error:
            if url is None:
                raise InputError(f"{error}; save the photos that are offered at {self.page} in {pictures}/") from error
        try:
            content = client.get(url)
            suffix = _suffix(content, url)
        except InputError as error:
            raise InputError(f"{part}: {error}; or save the picture by hand in {pictures}/") from error
        with atomic_write(pictures / f"00{suffix}") as temporary:
            temporary.write_bytes(content)
        return True


def _read(response: requests.Response) -> bytes:
    """Return the body. InputError if it is refused or too large; RequestException if another attempt may help."""
    if response.status_code >= 500:
        response.raise_for_status()
    if not response.ok:
        raise InputError(f"{response.url} answers {response.status_code} {response.reason}")
    content = bytearray()
    for piece in response.iter_content(1 << 16):
        content += piece
        if len(content) > MAX_BYTES:
            raise InputError(f"{response.url} is larger than {MAX_BYTES >> 20} MiB, and refused")
    return bytes(content)


def _suffix(content: bytes, url: str) -> str:
    """Return the suffix of a picture's format. InputError if it cannot be decoded to its end."""
    try:
        with Image.open(io.BytesIO(content), formats=tuple(SUFFIXES)) as image:
            image.load()
            return SUFFIXES[image.format]
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, EOFError, OverflowError, ...
        raise InputError(f"{url} is not a whole {', '.join(SUFFIXES)} picture") from error


def _reason(error: RequestException) -> str:
    """Return the innermost cause in a few words; requests wraps it several times."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return " ".join(str(cause).split())[:200] or type(cause).__name__
