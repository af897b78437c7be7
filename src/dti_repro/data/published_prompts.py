"""Read prompt sets from the files of their authors. The files are never run."""

from __future__ import annotations

import ast
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import yaml

from dti_repro.artifacts.files import write_file
from dti_repro.data.prompts import load_prompts
from dti_repro.errors import InputError

MAX_SHOWN = 8  # sets that are printed by name
MAX_CAPTIONS = 1 << 16  # bytes of a subject's captions
MAX_PHOTO = 64 << 20
DTI_KEYS = {"prompts": "object_prompts", "live": "live_prompts"}


class PromptReader(ABC):
    """Makes prompt sets from one downloaded file, whose path below the set's folder is `file`."""

    def __init__(self, file: str) -> None:
        self.file = file

    def write(self, folder: Path) -> None:
        """Write a yaml for each set into the folder, for `prompts=<yaml>`. InputError if the file has another form."""
        source = folder / self.file
        try:
            sets = self.read(source)
        except (AttributeError, BadZipFile, LookupError, RecursionError, SyntaxError, TypeError, ValueError) as error:
            raise InputError(f"{source} does not have the published form ({error!r})") from error
        for name, content in sets.items():
            path = folder / f"{name}.yaml"
            write_file(path, yaml.safe_dump({"name": name, **content}, sort_keys=False, allow_unicode=True))
            load_prompts(str(path))
        shown = sets if len(sets) <= MAX_SHOWN else (f"<one of {len(sets)}>",)
        print(*(f"prompts={folder / name}.yaml" for name in shown), sep="\n")

    @abstractmethod
    def read(self, source: Path) -> dict[str, dict[str, list[str]]]:
        """Return the sets: name -> {"prompts": templates with {}, optionally "live": others}. Any exception if the file
        has another form."""


class DreamBoothPrompts(PromptReader):
    """The two lists of DreamBooth's prompts_and_classes.txt: 25 prompts for objects (one is listed twice and counts
    once) and 25 for live subjects. `{0} {1}`, a unique token and the class, becomes `{}`."""

    def read(self, source: Path) -> dict[str, dict[str, list[str]]]:
        objects, live = source.read_text(encoding="utf-8").split("\nLive Subject Prompts\n")
        lists = {}
        for key, part in (("prompts", objects), ("live", live)):
            templates = re.findall(r"^'(.*\{0\} \{1\}.*)'\.format\(", part, re.MULTILINE)
            lists[key] = [template.replace("{0} {1}", "{}") for template in dict.fromkeys(templates)]
        return {"dreambooth": lists}


class DTIPrompts(PromptReader):
    """The prompt sets of Kim et al. 2025: `ALL_PROMPT_SETS` and the assignments that it refers to, in
    src/dti/metrics/prompts.py. A set is a call with object_prompts and live_prompts, or with one list."""

    def read(self, source: Path) -> dict[str, dict[str, list[str]]]:
        assigned = {
            target.id: statement.value
            for statement in ast.parse(source.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }

        def resolve(node: ast.expr) -> ast.expr:
            return assigned[node.id] if isinstance(node, ast.Name) else node

        sets = {}
        listed = assigned["ALL_PROMPT_SETS"]
        for name, node in zip(listed.keys, listed.values, strict=True):
            call = resolve(node)
            arguments = {keyword.arg: keyword.value for keyword in call.keywords} or {"object_prompts": call.args[0]}
            sets[f"dti_{ast.literal_eval(name)}"] = {
                key: [template.strip() for template in ast.literal_eval(resolve(arguments[argument]))]
                for key, argument in DTI_KEYS.items()
                if argument in arguments
            }
        return sets


class DreamBenchPlusPrompts(PromptReader):
    """DreamBench++ (Peng et al. 2025): in a zip, `captions/<category>/<number>.txt` has a subject's class in its first
    line and nine prompts in the others; `images/<category>/<number>.jpg` is its photo.

    The set of a subject, <category>_<number>, has `{}` for the class; the set `dreambench_plus` has the prompts of all
    subjects with their names. A prompt that does not name its class is left out. `write` also takes out the photos, to
    <name>/00.jpg, and lists the subjects in concepts.yaml, for concepts=collection.
    """

    def read(self, source: Path) -> dict[str, dict[str, list[str]]]:
        sets: dict[str, dict[str, list[str]]] = {"dreambench_plus": {"prompts": []}}
        left_out = 0
        for name, (class_word, captions) in _captions(source).items():
            parts = [re.split(rf"\b{re.escape(class_word)}\b", line, maxsplit=1, flags=re.I) for line in captions]
            whole = [part for part in parts if len(part) == 2]
            left_out += len(parts) - len(whole)
            if whole:
                sets[name] = {"prompts": [f"{before}{{}}{after}" for before, after in whole]}
            sets["dreambench_plus"]["prompts"] += [f"{before}{{{name}}}{after}" for before, after in whole]
        if not sets["dreambench_plus"]["prompts"]:
            raise ValueError("no captions/<category>/<number>.txt names its class")
        if left_out:
            print(f"{left_out} prompts do not name their class and are left out")
        return sets

    def write(self, folder: Path) -> None:
        super().write(folder)
        source, index = folder / self.file, folder / "concepts.yaml"
        entries = {name: {"class": word, "live": "live" in name} for name, (word, _) in _captions(source).items()}
        for name, photo in _members(source, "images", "jpg", MAX_PHOTO):
            if name in entries:
                write_file(folder / name / "00.jpg", photo)
        write_file(index, yaml.safe_dump(entries, allow_unicode=True))
        print(f"concepts=collection concepts.index={index} concepts.root={folder}")


def _captions(source: Path) -> dict[str, tuple[str, list[str]]]:
    """Return subject -> its class and its prompts, sorted by name."""
    found = {}
    for name, text in _members(source, "captions", "txt", MAX_CAPTIONS):
        class_word, *captions = [line.strip() for line in text.decode("utf-8-sig").splitlines() if line.strip()]
        found[name] = (class_word, captions)
    return dict(sorted(found.items()))


def _members(source: Path, kind: str, suffix: str, limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield (<category>_<number>, content) of the files of a kind in a zip. Such a name is safe as a file's. ValueError
    for a file of more than `limit` bytes: a zip can promise little and hold much."""
    with ZipFile(source) as archive:
        for name in archive.namelist():
            if found := re.fullmatch(rf"(?:.*/)?{kind}/((?:[a-z_]+/)+)(\d+)\.{suffix}", name):
                with archive.open(name) as file:
                    content = file.read(limit + 1)
                if len(content) > limit:
                    raise ValueError(f"{name} is larger than {limit} bytes")
                yield found[1].replace("/", "_") + found[2], content
