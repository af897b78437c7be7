"""Prompt sets are read from the files of their authors, which are never run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from dti_repro.data.concept import Collection
from dti_repro.data.prompts import load_prompts
from dti_repro.data.published_prompts import DreamBoothPrompts, DTIPrompts
from dti_repro.errors import InputError
from tests.e2e import test_download
from tests.e2e.test_download import photo

run = test_download.run  # the command

CODE = """
import sys
from dataclasses import dataclass
open({mark!r}, "w").write("run")
sys.exit("this file was run")

TWO = Both(
    object_prompts=["a {{}} on a roof", "a {{}} at night"],
    live_prompts=["a {{}} in a gown  "],
)

class Styles(list):
    pass

NAMES = ["a hut in {{}} style"]
ALL_PROMPT_SETS = {{"simple": TWO, "style": Styles(NAMES)}}
"""


def test_prompts_are_read_from_code_that_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "prompts.py").write_text(CODE.format(mark=str(mark)))
    DTIPrompts("prompts.py").write(tmp_path)
    assert not mark.exists()
    simple = load_prompts(str(tmp_path / "dti_simple.yaml"))
    assert [p.template for p in simple.about(live=False).prompts] == ["a {} on a roof", "a {} at night"]
    assert [p.template for p in simple.about(live=True).prompts] == ["a {} in a gown"]
    style = load_prompts(str(tmp_path / "dti_style.yaml"))
    assert [p.template for p in style.about(live=True).prompts] == ["a hut in {} style"]


@pytest.mark.parametrize(
    "text", ["ALL = {}", "ALL_PROMPT_SETS = {'a': f()}", "ALL_PROMPT_SETS = {**a}", "def (", "((" * 9000]
)
def test_a_prompts_file_of_another_form_is_named(text: str, tmp_path: Path) -> None:
    for reader in (DTIPrompts, DreamBoothPrompts):
        (tmp_path / "prompts.txt").write_text(text)
        with pytest.raises(InputError, match=r"prompts\.txt does not have the published form"):
            reader("prompts.txt").write(tmp_path)
    assert not list(tmp_path.glob("*.yaml"))


COMMIT = "a" * 40
FILES = {
    "data/captions/live_subject/animal/00.txt": "kitten\na Kitten on a roof\na painting of a kitten\nkittens asleep\n",
    "data/captions/object/03.txt": "tea pot\r\nA tea pot, no other tea pot\r\n",
    "data/captions/style/00.txt": "ink style\na cat in ink style\n",
    "data/captions/../../up/00.txt": "a\na b\n",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of Hugging Face's client as a download of DreamBench++ leaves it, and no network."""
    repository = tmp_path / "hub/datasets--yuangpeng--dreambench_plus"
    archive = repository / "snapshots" / COMMIT / "data.zip"
    archive.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(COMMIT)
    with ZipFile(archive, "w") as file:
        for name, text in FILES.items():
            file.writestr(name, text)
        for name in ("live_subject/animal/00", "object/03"):
            file.writestr(f"data/images/{name}.jpg", photo())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return archive


def test_dreambench_plus_gives_each_subject_its_prompts_and_photo(
    run: Callable, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("dreambench_plus") == (0, "")
    folder = tmp_path / "data/dreambench_plus"
    digest = hashlib.sha256(hub.read_bytes()).hexdigest()
    commit = {"repository": "yuangpeng/dreambench_plus", "commit": COMMIT, "sha256": digest}
    assert json.loads((folder / "commit.json").read_text()) == commit

    def templates(name: str) -> list[str]:
        return [prompt.template for prompt in load_prompts(str(folder / f"{name}.yaml")).prompts]

    assert templates("live_subject_animal_00") == ["a {} on a roof", "a painting of a {}"]
    assert templates("object_03") == ["A {}, no other tea pot"]
    assert templates("dreambench_plus") == [
        "a {live_subject_animal_00} on a roof",
        "a painting of a {live_subject_animal_00}",
        "A {object_03}, no other tea pot",
        "a cat in {style_00}",
    ]
    names = ["live_subject_animal_00", "object_03"]
    kitten, pot = Collection(str(folder / "concepts.yaml"), str(folder), names).load()
    assert (kitten.class_word, kitten.live, len(kitten.images)) == ("kitten", True, 1)
    assert (pot.class_word, pot.live) == ("tea pot", False)
    assert not list(tmp_path.rglob("up*"))
    hub.unlink()
    assert run("dreambench_plus") == (0, "")  # what is there is not fetched again


def test_another_zip_than_the_pinned_one_is_refused(run: Callable, hub: Path, tmp_path: Path) -> None:
    code, said = run("dreambench_plus", f"source.sha256={'0' * 64}")
    assert code == 2
    assert "data.zip at main is not the published file: its SHA-256 hash is " in said
    hub.unlink()
    code, said = run("dreambench_plus")
    assert code == 2
    place = tmp_path / "data/dreambench_plus/data.zip"
    assert f"by hand as {place}\n" in said
    with ZipFile(place, "w") as file:
        file.writestr("data/captions/object/00.txt", "mug\na cup\n")
    code, said = run("dreambench_plus")
    assert (code, said.count("\n")) == (2, 1)
    assert "does not have the published form" in said
