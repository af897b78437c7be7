"""The command line: `dti <command> key=value ...`, or `python -m dti_repro <command> key=value ...`."""

from __future__ import annotations

import ast
import os
import sys
from importlib import import_module
from pathlib import Path

from dti_repro.launch.failures import did_you_mean

COMMANDS = (
    *("train", "generate", "evaluate", "table", "benchmark", "report", "plan", "demo"),
    *("interpolate", "blend", "mechanism", "claims", "figures", "export", "import_embedding", "download"),
    "full_width",
)


def main() -> None:
    """Run the command that the first argument names."""
    if sys.argv[1:2] in ([], ["--help"], ["-h"]):
        print(overview())
        return
    if sys.argv[1] in ("-sc", "--shell-completion"):
        complete()
        return
    name = sys.argv.pop(1).replace("-", "_")
    if name not in COMMANDS:
        print(f"error: unknown command '{name}'{did_you_mean(name, COMMANDS)} (dti --help lists them)", file=sys.stderr)
        sys.exit(2)
    if any(argument.startswith("plugins=") for argument in sys.argv[1:]):
        sys.path.append(os.getcwd())  # where a plugin may lie. `dti` without plugins imports nothing from there,
    elif os.getcwd() not in sys.path:  # it is for python -m dti_repro
        os.environ["PYTHONSAFEPATH"] = "1"  # nor do the processes that it starts
    import_module(f"dti_repro.{name}").main()


def overview() -> str:
    """Return a line for each command, without importing it."""
    lines = ["Usage: dti <command> key=value ...   (the same as python -m dti_repro.<command> key=value ...)", ""]
    for name in COMMANDS:
        module = ast.parse(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8"))
        lines.append(f"  {name:<18}{(ast.get_docstring(module) or '').splitlines()[0]}")
    return "\n".join([*lines, "", "dti <command> --help shows the examples and the keys of a command."])


def complete() -> None:
    """Complete the command for the shell, or let Hydra complete its groups and keys or print the shell's script."""
    program, *words = os.environ.get("COMP_LINE", "dti train ").split(" ")
    if len(words) < 2:
        print(*COMMANDS)
    elif words[0] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join([program, *words[1:]])
        import_module(f"dti_repro.{words[0]}").main()


if __name__ == "__main__":
    main()
