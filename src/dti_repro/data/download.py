"""Download published photos and prompts from the places where their authors put them.

A file that is already there and whole is not downloaded again, so the same command completes what is missing.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit
from zipfile import is_zipfile

import requests
from PIL import Image
from requests.exceptions import ConnectionError, RequestException
from rich.console import Console
from rich.progress import track

from dti_repro.artifacts.files import atomic_write, sha256, write_file, write_json
from dti_repro.artifacts.run_dir import check_name
from dti_repro.data.concept import UNFINISHED
from dti_repro.data.photos import list_photos, load_photo
from dti_repro.data.published_prompts import PromptReader
from dti_repro.errors import InputError

MAX_BYTES = 64 << 20  # of one file; a photo has a few MiB
TIMEOUT = (10, 60)  # seconds to connect, and between two parts of an answer
WAITS = (0, 1, 3)  # seconds before each attempt
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


class Client:
    """Downloads files over HTTP. A host that cannot be reached is tried for one file only."""

    def __init__(self) -> None:
        self.session = requests.Session()
        # Some hosts refuse programs without a name.
        self.session.headers["User-Agent"] = f"dti-repro/{version('dti-repro')}"
        self.unreachable: dict[str, str] = {}  # host -> message

    def get(self, url: str) -> bytes:
        """Return the bytes at the address. Try again if the connection breaks or the host has an error. InputError that
        names the address, or the host if it cannot be reached."""
        host = urlsplit(url).netloc
        if host in self.unreachable:
            raise InputError(self.unreachable[host])
        for wait in WAITS:
            time.sleep(wait)
            try:
                return self._attempt(url)
            except RequestException as error:
                failure = error
        cause: BaseException = failure
        while inner := cause.__cause__ or cause.__context__:  # requests wraps the reason several times
            cause = inner
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        message = f"{url} failed {len(WAITS)} times ({reason})"
        if isinstance(failure, ConnectionError):
            message = self.unreachable[host] = f"{host} cannot be reached ({reason}): check the connection"
        raise InputError(message) from failure

    def _attempt(self, url: str) -> bytes:
        """Return the bytes. InputError if they are refused or too large; RequestException if a new attempt may help."""
        content = bytearray()
        with self.session.get(url, stream=True, timeout=TIMEOUT) as response:
            if response.status_code >= 500:
                response.raise_for_status()
            if not response.ok:
                raise InputError(f"{response.url} answers {response.status_code} {response.reason}")
            for part in response.iter_content(1 << 16):
                content += part
                if len(content) > MAX_BYTES:
                    raise InputError(f"{response.url} is larger than {MAX_BYTES >> 20} MiB and refused")
        return bytes(content)


class Source(ABC):
    """One published set. Each set has a yaml in conf/source."""

    parts: Sequence[str]  # names of the set's files or concepts
    prompts: PromptReader | None = None

    @abstractmethod
    def fetch_part(self, part: str, folder: Path, client: Client) -> bool:
        """Download a part unless it is whole below the folder. Return whether it was downloaded. InputError that names
        the part."""

    def fetch(self, folder: Path, progress: bool) -> None:
        """Download every part that is missing. Print a line for each failure; InputError at the end if there is one."""
        client, fetched = Client(), 0
        failures: dict[str, None] = {}  # each line once: a host that cannot be reached has many files
        for part in track(self.parts, "downloading", console=Console(stderr=True), disable=not progress):
            try:
                fetched += self.fetch_part(part, folder, client)
            except InputError as error:
                failures[str(error)] = None
        for line in failures:
            print(f"missing: {line}", file=sys.stderr)
        print(f"{folder}: {len(self.parts)} files, {fetched} downloaded now")
        if failures:
            raise InputError(f"{folder} is not complete: see the lines above, then give the same command again")
        if self.prompts is not None:
            self.prompts.write(folder)


class Files(Source):
    """Files with known SHA-256 hashes.

    base: the address of their folder. files: path below the folder -> hash. prompts: reads prompt sets from one of the
    files (None: there are none).
    """

    def __init__(self, base: str, files: Mapping[str, str], prompts: PromptReader | None) -> None:
        for name in files:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise InputError(f"source.files: {name!r} is outside of the set's folder")
        self.base, self.files, self.parts, self.prompts = base.rstrip("/"), files, tuple(files), prompts

    def fetch_part(self, part: str, folder: Path, client: Client) -> bool:
        path, expected = folder / part, self.files[part]
        if path.is_file():
            if sha256(path) != expected:  # nothing here writes half of a file: somebody has changed it
                raise InputError(f"{path} is not the published file: remove it, and it is fetched again")
            return False
        write_file(path.parent / UNFINISHED, "")
        content = client.get(f"{self.base}/{part}")
        if hashlib.sha256(content).hexdigest() != expected:
            raise InputError(f"{self.base}/{part} is not the published file: its SHA-256 hash is different")
        write_file(path, content)
        if all((folder / name).is_file() for name in self.files if (folder / name).parent == path.parent):
            (path.parent / UNFINISHED).unlink(missing_ok=True)
        return True


class Pictures(Source):
    """One photo for each concept, at `<concept>/00.<jpg, png or webp>`. Their hashes are not published, so a photo is
    checked by decoding it.

    links: concept -> address, or None if the photos must be saved by hand. page: where a person finds them. A concept
    whose folder has whole photos is complete, so photos saved by hand count.
    """

    def __init__(self, links: Mapping[str, str | None], page: str | None) -> None:
        self.links = {check_name(name, "concept"): url for name, url in links.items()}
        self.parts, self.page = tuple(self.links), page

    def fetch_part(self, part: str, folder: Path, client: Client) -> bool:
        photos, url = folder / part, self.links[part]
        try:
            for photo in list_photos(photos):
                load_photo(photo)
            return False
        except InputError as error:
            if url is None:
                raise InputError(f"{error}; save the photos of {self.page} in {photos}/") from error
        try:
            content = client.get(url)
            suffix = _suffix(content, url)
        except InputError as error:
            raise InputError(f"{part}: {error}; or save the photo by hand in {photos}/") from error
        write_file(photos / f"00{suffix}", content)
        return True


class HubArchive(Source):
    """One zip of a data set on Hugging Face's hub, fetched through its client.

    revision: a commit, or a branch; which commit came is written to commit.json beside the zip. sha256: of the zip,
    None where no hash is published. A zip that was saved by hand counts.
    """

    def __init__(self, repository: str, revision: str, file: str, sha256: str | None, prompts: PromptReader) -> None:
        if Path(file).name != file:
            raise InputError(f"source.file: {file!r} is outside of the set's folder")
        self.repository, self.revision, self.sha256 = repository, revision, sha256
        self.parts, self.prompts = (file,), prompts

    def fetch_part(self, part: str, folder: Path, client: Client) -> bool:
        path = folder / part
        if is_zipfile(path) and self.sha256 in (None, sha256(path)):
            return False
        from huggingface_hub import hf_hub_download

        source = f"{self.repository}, {part} at {self.revision}"
        try:
            cached = Path(hf_hub_download(self.repository, part, repo_type="dataset", revision=self.revision))
        except (OSError, RuntimeError, ValueError) as error:  # its own errors are OSErrors
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            page = f"https://huggingface.co/datasets/{self.repository}"
            raise InputError(f"{source}: {reason}; or save the file of {page} by hand as {path}") from error
        found = sha256(cached)
        if self.sha256 not in (None, found) or not is_zipfile(cached):
            raise InputError(f"{source} is not the published file: its SHA-256 hash is {found}")
        commit = cached.parent.name  # of the client's cache: snapshots/<commit>/<file>
        write_json(folder / "commit.json", {"repository": self.repository, "commit": commit, "sha256": found})
        with atomic_write(path) as temporary:
            shutil.copyfile(cached, temporary)
        print(f"{self.repository} at commit {commit}, {part} with SHA-256 {found}")
        return True


def _suffix(content: bytes, url: str) -> str:
    """Return the suffix of a photo's format. InputError if it cannot be decoded to its end."""
    try:
        with Image.open(io.BytesIO(content), formats=tuple(SUFFIXES)) as image:
            image.load()
            return SUFFIXES[image.format]
    except Exception as error:  # PIL's decoders raise OSError, SyntaxError, struct.error, EOFError, OverflowError, ...
        raise InputError(f"{url} is not a whole {', '.join(SUFFIXES)} image") from error
