"""Write files that are whole or absent, and read files that may come from elsewhere."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dti_repro.errors import InputError

MAX_JSON = 64 << 20  # bytes; a manifest of 100,000 images is smaller
MAX_YAML = 1 << 20  # bytes; an index of 10,000 concepts is smaller


def user_path(text: str | Path) -> Path:
    """Return the path, with the user's home folder for `~`, which a shell replaces and a yaml file does not."""
    return Path(os.path.expanduser(text))


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is made. On success it replaces `path`, on an exception it
    is removed.

    A process that is killed inside the block leaves `path` as it was; so does a machine that loses its power, as the
    content is on the disk before the name points to it.
    """
    # The suffix stays last, as writers choose their format by it.
    writer = f"{socket.gethostname()}.{os.getpid()}"  # storage may be shared, and process ids are not
    temporary = path.with_name(f".{path.stem}.{writer}.tmp{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into an InputError that names the file."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): check its folder, then give the same command "
            "again; what is finished is kept"
        ) from error


def write_file(path: Path, content: str | bytes) -> None:
    """Write bytes, or text in UTF-8, with atomic_write."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write json with sorted keys: equal content is equal bytes."""
    write_file(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path, advice: str) -> dict[str, Any]:
    """Return the mapping that write_json wrote. InputError that names the file and gives the advice for anything
    else."""
    try:
        content = json.loads(read_regular(path, MAX_JSON))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: {advice}") from error
    except (InputError, OSError) as error:
        reason = f"{path} cannot be read ({error.strerror or error})" if isinstance(error, OSError) else error
        raise InputError(f"{reason}: {advice}") from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} is damaged: {advice}")
    return content


def read_regular(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. InputError for a larger file, and for a device or
    a pipe, which may never end; OSError for a file that cannot be read."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{path} is not a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{path} is larger than {limit >> 20} MiB")
    return content


def refuse_links(*folders: Path) -> None:
    """Raise InputError for a symbolic link: whoever made a run folder could choose with it where we write."""
    for folder in folders:
        if folder.is_symlink():
            raise InputError(f"{folder} is a symbolic link, and nothing is written through one: remove it")


class WithoutAliases:
    """Refuse aliases in a yaml loader: a few lines of them can stand for billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not taken: write the values out")
        return super().compose_node(parent, index)


class _SafeLoader(WithoutAliases, yaml.SafeLoader):
    pass


def read_yaml(path: Path) -> dict[Any, Any]:
    """Return the mapping in a small yaml file without aliases; {} for an empty file. InputError that names the file for
    anything else."""
    try:
        content = yaml.load(read_regular(path, MAX_YAML).decode("utf-8-sig"), _SafeLoader)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} is no yaml ({' '.join(str(error).split())})") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path} is no mapping: lines such as `key: value` are needed")
    return content or {}


def sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes. InputError that names the file if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error


def sha256_once(path: Path) -> str:
    """Return `sha256`, for which a file is read once as long as it does not change."""
    found = path.stat()
    return _sha256_of_version(path, found.st_mtime_ns, found.st_size)


@cache
def _sha256_of_version(path: Path, modified_ns: int, size: int) -> str:
    return sha256(path)
