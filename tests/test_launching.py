"""A sweep gives the same command to many processes; it says at the end what became of each."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from omegaconf import DictConfig

from dti_repro.artifacts.files import write_json
from dti_repro.artifacts.lock import BusyError
from dti_repro.backbones.checkpoint import PACKAGED
from dti_repro.benchmark import stages
from dti_repro.config import CONF
from dti_repro.errors import InputError
from dti_repro.launch import sweep as launching
from dti_repro.launch.command import _read, command
from dti_repro.launch.command_line import CommandLine
from dti_repro.launch.failures import explain
from dti_repro.launch.sweep import as_choices, set_sweep_folders, summarise, take_gpu
from dti_repro.train import divide_concepts


def fake_training() -> Callable[[], None]:
    """An entry point without a training; made here, so that it travels to other processes as `python -m` makes it."""

    @command("train")
    def main(cfg: DictConfig) -> int:
        match cfg.seed:
            case 1:
                return 0
            case 2:
                raise InputError("two is bad")
            case 3:
                raise BusyError("concept 'x' is being trained by process 7")
            case 9:
                os.kill(os.getpid(), signal.SIGKILL)
        return 5

    return main


def sweep(monkeypatch: pytest.MonkeyPatch, runs: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train", "-m", f"runs={runs}", *arguments])
    with pytest.raises(SystemExit) as left:
        fake_training()()
    return int(left.value.code or 0)


@pytest.mark.parametrize("launcher", ["basic", "local", "submitit_local"])  # the last goes Slurm's way, without a Slurm
def test_the_summary_says_what_became_of_each_job(
    launcher: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = {"local": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}.get(launcher)
    if plugin is not None:
        pytest.importorskip(f"hydra_plugins.{plugin}")
    assert sweep(monkeypatch, tmp_path, f"hydra/launcher={launcher}", "seed=0,1,2,3") == 2
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if "rror" in line] == ["error: two is bad"]
    (written,) = tmp_path.glob(".multirun/*/summary.txt")
    lines = written.read_text().splitlines()
    assert lines[0] == "4 jobs: 1 busy, 1 failed, 1 finished before, 1 ran"
    outcomes = ["ran ", "finished before ", "failed ", "busy "]
    assert all(line.startswith(f"#{k} {outcomes[k]}") for k, line in enumerate(lines[1:5]))
    assert lines[3].endswith("seed=2: two is bad")
    assert written.read_text() in said.out


def test_a_job_that_never_ends_stops_and_a_killed_one_is_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    killed = {"overrides": ["seed=0"], "host": "node7", "slurm": "12_0", "starts": 30}
    write_json(folder / "jobs" / "0000.json", killed)
    assert "#0 unfinished      0.0 s  node7 job 12_0 start 30  seed=0" in summarise(folder)
    assert sweep(monkeypatch, tmp_path, f"hydra.sweep.dir={folder}", "seed=0") == 2
    assert "error: this job was started 31 times and never finished" in capsys.readouterr().err
    assert not summarise(tmp_path / "nothing")


def test_a_damaged_record_is_told_and_its_job_starts_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "it's a (sweep)"
    for number, content in enumerate(["{", '{"starts": "x", "overrides": []}', '{"more": 1}']):
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        (folder / "jobs" / f"000{number}.json").write_text(content)
    assert summarise(folder).splitlines()[0] == "3 jobs: 3 unknown"
    monkeypatch.setattr(sys, "argv", ["train", "-m", f'hydra.sweep.dir="{folder}"', "seed=5,6"])
    fake_training()()
    assert summarise(folder).splitlines()[0] == "2 jobs: 2 ran"


def test_a_sweep_folder_that_cannot_be_written_is_one_line_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert sweep(monkeypatch, tmp_path, f"hydra.sweep.dir={tmp_path}/file/sweep", "seed=0,1") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path}/file/sweep cannot be written (Not a directory)")
    assert said.count("\n") == 1
    monkeypatch.setenv("PLACE", str(tmp_path / "here"))
    line = CommandLine.parse("train", ["-m", "runs=${oc.env:PLACE}"])
    assert set_sweep_folders([line])[1].parents[1] == tmp_path / "here"


def test_a_worker_that_dies_is_one_line_and_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert sweep(monkeypatch, tmp_path, "hydra/launcher=local", "seed=9,10") == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith("error: a job did not get to its end: A worker process managed by the")
    assert "Traceback" not in said.err
    assert "#0 unfinished" in said.out


def test_a_job_that_slurm_killed_is_one_line_and_the_others_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submitit = pytest.importorskip("submitit.core.utils")
    watcher = pytest.importorskip("submitit.slurm.slurm").SlurmInfoWatcher
    monkeypatch.setattr(watcher, "_make_command", lambda self: None)  # there is no Slurm to be asked
    folder = tmp_path / "sweep"
    jobs = [folder / "slurm" / f"7_{k}" for k in range(3)]
    for job in jobs:
        job.mkdir(parents=True)
        (job / f"{job.name}_submitted.pkl").write_text("")
    results = [job / f"{job.name}_0_result.pkl" for job in jobs]
    results[0].write_text("")

    def later() -> None:
        write_json(folder / "jobs" / "0002.json", {"overrides": ["seed=2"], "host": "node7", "outcome": "ran"})
        for result in results[1:]:
            result.write_text("")

    def killed() -> None:
        threading.Timer(0.5, later).start()
        text = "Job 7_0 (task: 0) with path x\nhas not produced any output (state: CANCELLED)\nError stream produced:"
        raise submitit.UncompletedJobError(text)

    monkeypatch.setattr(hydra, "main", lambda **_: lambda task: killed)
    assert sweep(monkeypatch, tmp_path, f"hydra.sweep.dir={folder}", "seed=0") == 1
    assert all(result.is_file() for result in results)
    said = capsys.readouterr()
    assert said.out.startswith("1 jobs: 1 ran")
    line = "Job 7_0 (task: 0) with path x has not produced any output (state: CANCELLED)"
    assert said.err == f"error: a job did not get to its end: {line}\n"


def test_concepts_are_divided_among_jobs(subjects: Path) -> None:
    given = [f"concepts.root={subjects}", "concepts.names=all", "-m", "method=ti,dti"]
    line = CommandLine.parse("train", [*given, "concepts.per_job=2"])
    dealt = ["-m", f"concepts.root={subjects}", "method=ti,dti", "concepts.names=[ann,bob],[cid]"]
    assert [job.arguments() for job in divide_concepts(line)] == [dealt]
    assert divide_concepts(CommandLine.parse("train", given)) == [CommandLine.parse("train", given)]
    for bad in (["concepts.per_job=2"], ["-m", "concepts.per_job=0"], ["-m", "concepts.per_job=few"]):
        with pytest.raises(InputError, match=r"concepts\.per_job="):
            divide_concepts(CommandLine.parse("train", bad))


def test_names_that_yaml_reads_as_something_else_stay_names() -> None:
    names = [["a", "null", "m_0.04", "1e-4"], ["On", "b-c"]]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        values = OverridesParser.create().parse_override(f"rows={as_choices(names)}")
        jobs = [
            hydra.compose("benchmark", ["experiment=ablation", f"rows={v}"]) for v in values.sweep_string_iterator()
        ]
    assert [list(job.rows) for job in jobs] == names


def rows_as_jobs(experiment: str) -> list[list[list[str]]]:
    """The experiment's sweeps, as the driver is given them: jobs of rows."""
    line = CommandLine.parse("benchmark", [f"experiment={experiment}", "hydra/launcher=local", "subjects=1"])
    *sweeps, table = stages(line)
    assert table.arguments() == [f"experiment={experiment}", "subjects=1"]
    assert all(sweep.multirun and "hydra/launcher=local" in sweep.overrides for sweep in sweeps)
    parser = OverridesParser.create()
    found = [parser.parse_override(f"rows={sweep.value('rows')}").value() for sweep in sweeps]
    return [[[str(row) for row in job] for job in getattr(jobs, "list", [jobs])] for jobs in found]


@pytest.mark.usefixtures("composed_rows")
@pytest.mark.skipif(not PACKAGED.is_dir(), reason="the toybox's weights are not there")
def test_rows_that_need_another_row_wait_for_it_or_share_its_job() -> None:
    (main,) = rows_as_jobs("main_table")
    assert ["ti", "ti_rescaled"] in main  # both write the folder of TI
    assert ["class_word"] in main
    first, second = rows_as_jobs("ablation")
    assert ["kappa_0"] in first
    assert second == [["kappa_10pct"], ["kappa_30pct"]]  # shares of the gradient that kappa_0 measures
    assert sum(len(job) for job in [*first, *second]) == 11


def test_flags_may_stand_anywhere_and_some_are_refused() -> None:
    line = CommandLine.parse("train", ["method=ti", "-m", "seed=1,2", "--cfg", "job"])
    assert line.arguments() == ["--cfg=job", "method=ti", "seed=1,2"]  # of one job
    for bad in (["--config-path=x"], ["-cn", "x"], ["--experimental-rerun=x.pickle"], ["hydra.searchpath=[x]"]):
        with pytest.raises(InputError, match="--config-dir"):
            _read("train", bad)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    taken = []
    for _ in range(3):
        monkeypatch.setattr(launching, "_gpu", None)  # as in a new process
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        take_gpu(tmp_path)
        taken.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert taken == ["0", "1", None]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cluster that takes no job: what it was given lies in this file."""
    given, programs = tmp_path / "given.sh", tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "srun"):
        said = "sbatch: error: invalid partition specified: gpu"
        (programs / name).write_text(f'#!/bin/sh\n{shutil.which("cp")} "$1" {given}\necho "{said}" >&2\nexit 1\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return given


def test_what_slurm_is_asked_for_comes_from_the_command_line_and_a_refusal_is_one_line(
    refusing: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    options = ["partition=gpu", "gpus_per_node=2", "mem_gb=32", "cpus_per_task=6", "timeout_min=90"]
    more = [
        "hydra.launcher.signal_delay_s=45",
        "hydra.launcher.array_parallelism=3",
        'hydra.launcher.setup=["module load cuda","export HF_HOME=/scratch/hf"]',
        "hydra.launcher.account=lab",
        "+hydra.launcher.additional_parameters={container-image: 'docker://ghcr.io/lab/dti:1'}",
    ]
    asked = ["hydra/launcher=slurm", *(f"hydra.launcher.{option}" for option in options), *more]
    assert sweep(monkeypatch, tmp_path / "runs", *asked, "seed=0,1,2,3") == 2
    line = "error: a job did not get to its end: sbatch: error: invalid partition specified: gpu"
    assert capfd.readouterr().err.splitlines()[-1] == line
    lines = refusing.read_text().splitlines()
    for wanted in (
        "--partition=gpu",
        "--gpus-per-node=2",
        "--mem=32GB",
        "--cpus-per-task=6",
        "--time=90",
        "--signal=USR2@45",
        "--array=0-3%3",
        "--account=lab",
        "--container-image=docker://ghcr.io/lab/dti:1",
    ):
        assert f"#SBATCH {wanted}" in lines
    assert lines.index("module load cuda") < lines.index("export HF_HOME=/scratch/hf")
    assert lines[-1].startswith("srun ")


def test_without_a_cluster_slurm_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sweep(monkeypatch, tmp_path / "runs", "hydra/launcher=slurm", "seed=0,1") == 2
    assert capsys.readouterr().err.startswith("error: hydra/launcher=slurm: sbatch is not found")
    assert not (tmp_path / "runs").exists()


def test_a_launcher_that_is_not_installed_says_how_to_install_it() -> None:
    error = MissingConfigException("", "hydra/launcher/submitit_slurm")
    assert explain(error, "train", []) == "hydra/launcher: submitit_slurm is not installed: pip install -e '.[cluster]'"


def test_a_gpu_is_named_as_cuda_counts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container may have the device files nvidia2 and nvidia3, which are CUDA's 0 and 1."""
    for name in ("nvidia2", "nvidia3"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(launching, "_gpu", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    take_gpu(tmp_path)
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0"


def test_a_repeated_sweep_is_not_judged_by_the_records_of_an_earlier_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    failed = {"overrides": ["seed=2"], "starts": 31, "outcome": "failed", "error": "it failed", "code": 2}
    ran = {"overrides": ["seed=0"], "starts": 40, "outcome": "ran"}
    for number, record in ((0, ran), (2, failed)):
        write_json(folder / "jobs" / f"000{number}.json", record)
    monkeypatch.setattr(sys, "argv", ["train", "-m", f'hydra.sweep.dir="{folder}"', "seed=5,6"])
    fake_training()()
    assert "2 jobs: 2 ran" in capsys.readouterr().out


def test_a_sweep_folder_of_the_user_s_own_loses_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = {"overrides": [], "starts": 1, "outcome": "ran"}
    own = {tmp_path / "jobs" / name: {"pay": 3} for name in ("1.json", "2024-offer.json")} | {
        tmp_path / "art" / "jobs" / "0.json": record
    }
    for file, content in own.items():
        write_json(file, content)
    monkeypatch.setattr(sys, "argv", ["train", "-m", f'hydra.sweep.dir="{tmp_path}"', "seed=5,6"])
    fake_training()()
    assert all(file.is_file() for file in own)
