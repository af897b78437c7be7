"""Every command answers in one line, with an exit code: bad input, too little memory, Ctrl-C."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from dti_repro import __main__, benchmark, evaluate
from dti_repro.__main__ import COMMANDS
from dti_repro.config.schema import COMMANDS as COMMAND_KEYS
from dti_repro.errors import InputError, OutOfMemoryError, ProcessDiedError, StoppedError
from dti_repro.launch.command import command
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import choices, failure_of
from dti_repro.launch.sweep import check_launcher

Capture = pytest.CaptureFixture[str]
Answer = Callable[..., tuple[int, str]]
METHODS = ", ".join(choices("method"))


@pytest.fixture(autouse=True)
def _environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # which dti sets


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Capture) -> Answer:
    """answer(main, "key=value", ...) -> the exit code, and what stderr has; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(main: Callable[[], None], *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0), capfd.readouterr().err
        return 0, capfd.readouterr().err

    return call


def doing(work: Callable[[], object]) -> Callable[[], None]:
    @command("train")
    def main(cfg: DictConfig) -> None:
        work()

    return main


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return doing(work)


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_an_error_is_one_line(flags: list[str], answer: Answer) -> None:
    assert answer(raising(InputError("x is bad")), *flags) == (2, "error: x is bad\n")


def test_a_fault_of_the_program_keeps_its_traceback(answer: Answer) -> None:
    with pytest.raises(KeyError):
        answer(raising(KeyError("a fault")))
    assert failure_of(TypeError("a fault"), "train", []) is None
    assert failure_of(RuntimeError("a fault"), "train", []) is None
    assert failure_of(ProcessDiedError("one is gone"), "train", []).code == 1


def test_too_little_memory_is_one_line_that_says_what_to_reduce(answer: Answer) -> None:
    assert answer(raising(OutOfMemoryError("out of memory"))) == (1, "error: out of memory\n")
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")):
        failure = failure_of(error, "train", [])
        assert failure.code == 1
        assert failure.line.startswith("out of memory")
        assert "reduce trainer.batch" in failure.line
        assert "\n" not in failure.line


def test_ctrl_c_is_one_line(answer: Answer) -> None:
    def as_lightning_does() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    stopped = "stopped: what is finished is kept, and the same command goes on from here\n"
    assert answer(raising(StoppedError("stopped after step 4"))) == (130, "stopped after step 4\n")
    assert answer(raising(KeyboardInterrupt())) == (130, stopped)
    assert answer(doing(as_lightning_does)) == (130, stopped)


def test_what_hydra_refuses_is_one_line(answer: Answer) -> None:
    for overrides, words in (
        (["runs=${nosuch}"], "Interpolation key 'nosuch' not found"),
        (["-m", "runs=${oc.env:NO_SUCH_VARIABLE}"], "Environment variable 'NO_SUCH_VARIABLE' not found"),
        (["-m", "seed=range(1"], "seed is range(1: a whole number is needed"),
        (["concepts=3"], "Config group override must be a string or a list"),
        (["method._target_=x"], "method._target_ 'x' is refused"),
    ):
        code, said = answer(doing(lambda: None), *overrides)
        assert code == 2
        assert said.startswith("error: ")
        assert words in said
        assert said.count("\n") == 1


def test_a_launcher_without_a_sweep_is_refused() -> None:
    for launcher in ("slurm", "local"):
        with pytest.raises(InputError, match=f"hydra/launcher={launcher} starts the jobs of a sweep: add -m"):
            check_launcher([CommandLine.parse("train", [f"hydra/launcher={launcher}"])])
    check_launcher([CommandLine.parse("train", ["hydra/launcher=slurm", "--cfg=hydra"])])


def test_a_missing_value_is_asked_for(answer: Answer) -> None:
    asked = "error: run: a value is needed, e.g. python -m dti_repro.evaluate run=runs/toybox/dti/<hash>\n"
    assert answer(evaluate.main) == (2, asked)
    code, said = answer(benchmark.main)
    assert code == 2
    wanted = "error: experiment: a value is needed, e.g. python -m dti_repro.benchmark experiment=main_table (choices: "
    assert said.startswith(wanted)
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_and_every_key(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(sys, "argv", ["dti", name, "--help"])
    __main__.main()
    text = capsys.readouterr().out
    assert f"python -m dti_repro.{name}" in text
    assert all(f"\n  {key}" in text for key in COMMAND_KEYS[name] if not key.startswith(("backbone.", "sampler.")))
    if name == "train":
        assert (
            f"\n  method=dti                         {' | '.join(choices('method'))}; chooses its optimizer\n" in text
        )
        assert "\n  method.prior.kappa=0.0001          a number of at least 0; the paper's value for SDXL\n" in text
    if name == "benchmark":
        assert "\n  experiment=???                     ablation | adapters | capacity | demo" in text


def test_dti_lists_the_commands_without_torch() -> None:
    code = "import sys; from dti_repro.__main__ import main; sys.argv = ['dti']; main(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)
    assert result.stdout.endswith("\nFalse\n")


@pytest.fixture
def dti_among_downloads(tmp_path: Path) -> Callable[..., str]:
    """dti_among_downloads("train", ...) -> what it prints, in a folder with files named like modules of the program, of
    libraries and of a target. None of them may run."""
    folder, program, ran = tmp_path / "downloads", tmp_path / "dti", tmp_path / "ran"
    code = f"import pathlib; pathlib.Path({str(ran)!r}).touch(); raise SystemExit(7)\n"
    modules = (
        "yaml",
        "json",
        "torch",
        "hydra_plugins",
        "multiprocessing",
        "dti_repro",
        "dti_foo",
        "omegaconf/__init__",
    )
    for file in (folder / f"{module}.py" for module in modules):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    program.write_text(f"#!{sys.executable}\nfrom dti_repro.__main__ import main\nmain()\n")  # as pip installs it

    def call(*arguments: str) -> str:
        result = subprocess.run([sys.executable, program, *arguments], cwd=folder, capture_output=True, text=True)
        assert not ran.exists()
        return result.stdout + result.stderr

    return call


def test_without_plugins_nothing_in_the_current_folder_is_imported(dti_among_downloads: Callable[..., str]) -> None:
    assert "concepts.per_job" in dti_among_downloads("train", "--help")
    assert "'dti_foo.Method' is refused" in dti_among_downloads("train", "method._target_=dti_foo.Method")
    assert "there is no folder none" in dti_among_downloads("table", "runs=none")
    assert "did you mean 'train'?" in dti_among_downloads("trian")


def test_nor_is_it_by_the_processes_of_a_sweep(dti_among_downloads: Callable[..., str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert "2 jobs: 2 failed" in dti_among_downloads("table", "-m", "hydra/launcher=local", "runs=none,neither")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "unknown command 'trian': did you mean 'train'? (dti --help lists them)"),
        (["train", "metod=dti"], "unknown key 'metod': did you mean 'method'?"),
        (
            ["train", "method=dtii"],
            f"unknown method 'dtii': did you mean 'dti'? (choices: {METHODS})",
        ),
        (["train", "-m", "method=dti,dtii"], "unknown method 'dtii': did you mean 'dti'?"),
        (
            ["train", "method.prior.kapa=1"],
            "method 'dti' has no key 'method.prior.kapa': did you mean 'method.prior.kappa'?",
        ),
        (
            ["train", "-m", "method=dti,ti", "method.prior.kappa=1"],
            "method 'ti' has no key 'method.prior.kappa' (its keys: method.name, method.vectors, method.init",
        ),
        (
            ["train", "nonsense=1"],
            "unknown key 'nonsense' (its keys: concepts, templates, optim, backbone, method, ",
        ),
        (["train", "method=ti", "optim.tangent=true"], "optim 'adamw' has no key 'optim.tangent' (its keys: optim."),
        (
            ["train", "method={a: b}"],
            f"method: the name of a choice is needed (choices: {METHODS})",
        ),
        (["train", "hydra.sweep.dirr=x"], "unknown key 'hydra.sweep.dirr': did you mean 'hydra.sweep.dir'?"),
    ],
)
def test_a_typo_gets_the_nearest_word(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dti", *arguments])
    with pytest.raises(SystemExit) as left:
        __main__.main()
    said = capfd.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f"error: {line}")
    assert said.count("\n") == 1


def test_the_shell_completes_commands_groups_and_keys(tmp_path: Path) -> None:
    program = tmp_path / "dti"
    program.write_text(f"#!{sys.executable}\nfrom dti_repro.__main__ import main\nmain()\n")
    program.chmod(0o755)
    script = [f'PATH={tmp_path}:$PATH; eval "$(dti -sc install=bash)"']
    for words in ("gen", "train method=d", "train trainer.ste"):
        script.append(
            f'COMP_LINE="dti {words}"; COMP_CWORD={len(words.split())}; hydra_bash_completion; echo ${{COMPREPLY[@]}}'
        )
    result = subprocess.run(["bash", "-c", "\n".join(script)], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["generate", "method=dti", "trainer.steps="]


def test_a_terminal_without_the_character_ends_nothing(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> None:
    written = io.BytesIO()
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert answer(doing(lambda: print("0.5 \u00b1 0.1", flush=True))) == (0, "")
    assert written.getvalue() == b"0.5 ? 0.1\n"
    assert os.environ["PYTHONIOENCODING"] == "ascii:replace"  # for processes that this one starts
