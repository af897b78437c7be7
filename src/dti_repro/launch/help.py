"""The help of a command: what it is for, examples, and every group and key with default, type and comment."""

from __future__ import annotations

import json
import re
from pathlib import Path

from omegaconf import OmegaConf

from dti_repro.config import CONF, describe
from dti_repro.config.plugins import choices, conf_folders
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import leaves

OPTIONS = """\
  -m                                 run every combination of values: method=ti,dti seed=1,2
  hydra/launcher=slurm|local         with -m: the jobs on a cluster, or as processes of this machine
  plugins=[my_package]               classes and configurations of an installed package
  concepts.per_job=<n>               with -m, in train: n concepts in each job
  --config-dir=<folder>              configurations of your own
  --cfg job                          print the configuration and stop"""
WIDTH = 34  # of the first column


def help_text(line: CommandLine, purpose: str) -> str:
    """Return the help for the choices and values of a command line. purpose: the docstring of the command."""
    file = CONF / f"{line.config_name}.yaml"
    defaults = [entry for entry in OmegaConf.to_container(OmegaConf.load(file))["defaults"] if isinstance(entry, dict)]
    required = [group for entry in defaults for group, choice in entry.items() if choice == "???"]
    missing = {group: "???" for group in required if line.value(group) is None}
    cfg = line.adding(*(f"~{group}" for group in missing)).compose()
    chosen = {g: name for g, name in reversed(cfg.hydra.runtime.choices.items()) if not g.startswith("hydra/")}

    comments, groups, keys = _comments(file), [], []
    for group, name in {**missing, **chosen}.items():
        path, _, package = group.partition("@")
        if name in (*choices(path), "???", None):
            groups.append(_row(f"{group}={name or 'null'}", " | ".join(choices(path)), comments.get(path)))
        for folder in conf_folders():
            for key, comment in _comments(folder / path / f"{name}.yaml").items():
                comments[f"{package or path.replace('/', '.')}.{key}"] = comment
    types = describe(line.config_name, cfg)
    for key, value in leaves(OmegaConf.to_container(cfg)).items():
        typed = value if isinstance(value, str) else json.dumps(value).replace('"', "")
        if not key.startswith("hydra."):
            keys.append(
                _row(
                    f"{key}={typed if len(typed) < 70 else typed[:70] + '...'}",
                    types.get(key, "").rstrip(","),
                    comments.get(key),
                )
            )
    examples = re.sub(r"^# ?", "  ", _head(file.read_text(encoding="utf-8")), flags=re.MULTILINE)
    parts = [purpose.strip() + "\n", examples]
    parts += ["Groups, chosen by name:\n" + "".join(groups)] if groups else []
    return "\n".join([*parts, "Keys:\n" + "".join(keys), f"Options:\n{OPTIONS}"])


def _row(left: str, values: str, comment: str | None) -> str:
    words, said = (set(re.findall(r"\w+", text or "")) for text in (values, comment))
    values = "" if words <= said | {"or"} else values  # the comment names the choices already
    return f"  {left:<{WIDTH}} {'; '.join(filter(None, (values, comment)))}".rstrip() + "\n"


def _head(text: str) -> str:
    """Return the comment lines at the top of a file."""
    return re.match(r"(?:#.*\n)*", text)[0]


def _comments(file: Path) -> dict[str, str]:
    """Return the comment of each dotted key of a yaml file and of those of its group that it extends: the one after the
    key, or else the lines above it."""
    found, above, parents = {}, [], {}
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for line in text[len(_head(text)) :].splitlines():
        if (extended := re.fullmatch(r"  - (\w+)", line)) and parents.get(0) == "defaults":
            places = [folder / f"{extended[1]}.yaml" for folder in (file.parent, CONF / file.parent.name)]
            found |= _comments(next(filter(Path.is_file, places), places[0]))
        if entry := re.match(r"( *)(?:- )?(?:override )?/?([\w/]+)(?:@\S+)?:(.*)", line):
            depth = len(entry[1])
            parents = {d: name for d, name in parents.items() if d < depth} | {depth: entry[2]}
            _, _, comment = entry[3].partition(" # ")
            if comment or above:
                found[".".join(parents.values()).removeprefix("defaults.")] = comment or " ".join(above)
        above = [*above, line.lstrip("# ")] if line.startswith("#") else []
    return found
