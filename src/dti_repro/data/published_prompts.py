"""Read prompt sets from the files of their authors. The files are never run."""

from __future__ import annotations

import ast
import re
from abc import ABC, abstractmethod
from pathlib import Path

import yaml

from dti_repro.artifacts.files import atomic_write
from dti_repro.data.prompts import load_prompts
from dti_repro.errors import InputError

DTI_KEYS = {"prompts": "object_prompts", "live": "live_prompts"}


class PromptReader(ABC):
    """Makes prompt sets from one downloaded file, whose path below the set's folder is `file`."""

    def __init__(self, file: str) -> None:
        self.file = file

    def write(self, folder: Path) -> None:
        """Write a yaml for each set into the folder, for `prompts=<yaml>`. InputError if the file has another form."""
        source = folder / self.file
        try:
            sets = self.read(source.read_text(encoding="utf-8"))
        except (AttributeError, LookupError, RecursionError, SyntaxError, TypeError, ValueError) as error:
            raise InputError(f"{source} does not have the published form ({error!r})") from error
        for name, content in sets.items():
            path = folder / f"{name}.yaml"
            with atomic_write(path) as temporary:
                temporary.write_text(yaml.safe_dump({"name": name, **content}, sort_keys=False, allow_unicode=True))
            load_prompts(str(path))
            print(f"prompts={path}")

    @abstractmethod
    def read(self, text: str) -> dict[str, dict[str, list[str]]]:
        """Return the sets: name -> {"prompts": templates with {}, optionally "live": others}. Any exception if the text
        has another form."""


class DreamBoothPrompts(PromptReader):
    """The two lists of DreamBooth's prompts_and_classes.txt: 25 prompts for objects (one is listed twice and counts
    once) and 25 for live subjects. `{0} {1}`, a unique token and the class, becomes `{}`."""

    def read(self, text: str) -> dict[str, dict[str, list[str]]]:
        objects, live = text.split("\nLive Subject Prompts\n")
        lists = {}
        for key, part in (("prompts", objects), ("live", live)):
            templates = re.findall(r"^'(.*\{0\} \{1\}.*)'\.format\(", part, re.MULTILINE)
            lists[key] = [template.replace("{0} {1}", "{}") for template in dict.fromkeys(templates)]
        return {"dreambooth": lists}


class DTIPrompts(PromptReader):
    """The prompt sets of Kim et al. 2025: `ALL_PROMPT_SETS` and the assignments that it refers to, in
    src/dti/metrics/prompts.py. A set is a call with object_prompts and live_prompts, or with one list."""

    def read(self, text: str) -> dict[str, dict[str, list[str]]]:
        assigned = {
            target.id: statement.value
            for statement in ast.parse(text).body
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
