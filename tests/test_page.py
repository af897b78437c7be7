"""The page of an experiment shows what was measured and generated; whatever a prompt says, it is text."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dti_repro.errors import InputError
from dti_repro.experiments.on_disk import agreeing, stored_report
from dti_repro.experiments.page import pictures, write
from dti_repro.experiments.report import write_tables
from tests.pages import COMMAND, Example

EVIL = """a <x> {} <script>alert(1)</script> & "><img src=https://a.example onerror='alert(2)'> `</p>` </script> <!--"""
VENDOR = write.HERE / "vendor"


class Reader(HTMLParser):
    """Python's own parser: tags with their attributes, the text of the page, its scripts and its data."""

    def __init__(self, page: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.open = ""
        self.feed(page.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "script":
            self.scripts[-1] += data
        elif self.open != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts[0])


def decoded(content: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_words_are_text_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    example = Example({"ti": "TI", "dti": EVIL}, prompts=(EVIL,), title=EVIL, notes=(EVIL,))
    read = Reader(example.made(tmp_path)[0])
    assert not {tag for tag, _ in read.tags} & {"iframe", "link", "object", "base", "form", "x"}
    attributes = [(key, value) for _, found in read.tags for key, value in found.items()]
    assert not [key for key, _ in attributes if key.startswith("on")]
    assert all(value.startswith("#") for key, value in attributes if key == "href")
    assert not [value for key, value in attributes if key == "src"], "pictures come from the data"
    policy = next(found["content"] for tag, found in read.tags if tag == "meta" and "http-equiv" in found)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in read.scripts[1:]]
    assert policy.partition("script-src ")[2] == " ".join(f"'sha256-{digest}'" for digest in hashes)
    assert "<" not in read.scripts[0]
    assert read.data["prompts"] == [EVIL]
    assert [row["label"] for row in read.data["rows"]] == ["TI", EVIL]
    shown = EVIL.replace("`", "")
    assert read.text.count(EVIL) >= 3  # titles, a row
    assert shown in read.text  # the note, where backticks mean code


def test_a_picture_has_its_row_subject_prompt_seed_and_scores(tmp_path: Path) -> None:
    page, _, _, results = Example(steps=(5, 10)).made(tmp_path)
    data = Reader(page).data
    assert (data["small"], data["left_out"]) == (True, 0)
    assert [subject["names"] for subject in data["subjects"]] == [["rex"], ["tom"]]
    assert [len(subject["photos"]) for subject in data["subjects"]] == [2, 2]
    found = {tuple(entry[:4]): entry for entry in data["pictures"]}
    assert len(found) == len(data["pictures"]) == 3 * 2 * 2 * 2
    for row, colour in enumerate(((255, 0, 0), (0, 0, 255), (0, 255, 0))):
        image = decoded(found[row, 1, 1, 0][5]).convert("RGB")
        assert image.size == (48, 48), "small pictures stay as they are, and the page enlarges them"
        assert image.getpixel((46, 46)) == pytest.approx(colour, abs=8)
    scored = results[2].score_files[1].csv.read_text().splitlines()  # of tom
    assert f",{found[2, 1, 1, 0][4][0]!r}," in next(line for line in scored if line.startswith("p1_s0.png"))
    films = {(tuple(entry[:4]), entry[4]) for entry in data["films"]}
    assert films == {((row, subject, 0, 0), step) for row in (1, 2) for subject in (0, 1) for step in (5, 10)}
    assert {curve["name"] for curve in data["curves"]} == {"loss", "norm", "angle", "grad_norm"}
    assert [len(line["points"]) for line in data["curves"][0]["lines"]] == [200, 200]


def test_large_pictures_become_thumbnails(tmp_path: Path) -> None:
    data = Reader(Example(prompts=("a {}",), seeds=(0,), side=640).made(tmp_path)[0]).data
    assert not data["small"]
    assert decoded(data["pictures"][0][5]).size == (512, 512)
    for side in pictures.SIDES:
        count = int(pictures.BUDGET / pictures.CHARACTERS / side**2)
        assert pictures._side(count) == side


def test_a_page_of_too_many_pictures_says_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "BUDGET", 6000)
    page, report, run, results = Example().made(tmp_path)
    data = Reader(page).data
    assert 0 < data["left_out"] == 24 - len(data["pictures"]) < 24
    assert {entry[3] for entry in data["pictures"]} == {0}, "second seeds are left out before first ones"
    rows = [entry[0] for entry in data["pictures"]]
    assert rows == [0, 1, 2] * (len(rows) // 3), "all rows of a prompt or none"
    assert f"{data['left_out']} pictures are left out" in Reader(page).text
    before = page.read_bytes()
    write.write_page(page.parent, report, run, results)
    assert page.read_bytes() == before


def test_a_missing_image_is_named_and_the_page_stays_as_it_was(tmp_path: Path) -> None:
    page, report, run, results = Example().made(tmp_path)
    before = page.read_bytes()
    lost = results[1].image_folders[0].path / "p0_s0.png"
    lost.unlink()
    pictures._encoded.cache_clear()
    with pytest.raises(InputError, match=r"p0_s0\.png does not exist"):
        write.write_page(page.parent, report, run, results)
    assert page.read_bytes() == before


def test_a_stored_result_gives_the_same_tables_and_a_page_without_pictures(tmp_path: Path) -> None:
    """In a clone there are tables, but no runs."""
    page, report, run, results = Example().made(tmp_path)
    folder = page.parent
    tables = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".md", ".csv")}
    stored = stored_report(folder, run, COMMAND)
    write_tables(folder, stored)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".md", ".csv")} == tables
    assert [row.scores for row in stored.rows] == [row.scores for row in report.rows]
    write.write_page(folder, stored, run, [])
    read = Reader(page)
    assert read.data["pictures"] == read.data["curves"] == []
    assert f"not on this machine. {COMMAND} draws them" in read.text
    with pytest.raises(InputError, match=f"give the keys that it was made with: {COMMAND}$"):
        stored_report(folder, run, f"{COMMAND} subjects=1")
    assert agreeing(results, stored) == results
    (folder / "scores.csv").write_text(tables["scores.csv"].decode().replace("dti,rex,text,0.5", "dti,rex,text,0.4"))
    assert [r.spec.name for r in agreeing(results, stored_report(folder, run, COMMAND))] == ["class", "ti"], (
        "of other numbers"
    )
    (folder / "scores.csv").write_text("row,concept\n1\n")
    with pytest.raises(InputError, match=r"scores\.csv is no table"):
        stored_report(folder, run, COMMAND)


def test_every_inlined_library_has_its_version_and_its_licence() -> None:
    listed = yaml.safe_load((VENDOR / "versions.yaml").read_text())
    assert sorted(listed) == sorted(write.VENDORED) == sorted(path.name for path in VENDOR.glob("*.js"))
    assert all((VENDOR / entry["text"]).is_file() for entry in listed.values())
    assert sum(path.stat().st_size for path in VENDOR.glob("*.js")) < 1_500_000
    for script in [*VENDOR.glob("*.js"), *write.HERE.glob("*.js")]:
        text = script.read_text(encoding="utf-8")
        assert not {"</script", "<!--", "\r"} & {part for part in ("</script", "<!--", "\r") if part in text}, script
