"""The page of an experiment shows what was measured and generated; whatever a prompt says, it is text."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pandas import DataFrame
from PIL import Image

from dti_repro.errors import InputError
from dti_repro.experiments.figures import Sheet
from dti_repro.experiments.report import MAX_SHEETS, Section, write_page

EVIL = """a <x> <script>alert(1)</script> & "><img src=https://a.example onerror='alert(2)'> {{ 7 * 7 }} `</p>`"""


class Reader(HTMLParser):
    """Python's own parser: tags with their attributes, and the text outside of style."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[Image.Image]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith("data:image/") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


def picture(path: Path, color: str, size: tuple[int, int] = (48, 48)) -> Path:
    Image.new("RGB", size, color).save(path)
    return path


def page(folder: Path, sheets: list[Sheet], title: str = "Grid") -> Reader:
    sections = [
        Section("", f"Made by `{title}`", DataFrame({"row": ["TI", EVIL], "text": ["0.5", "0.6"]})),
        Section(EVIL, "how", DataFrame(columns=["row"])),
    ]
    front = picture(folder / "front.png", "white")
    write_page(folder / "report.html", title, sections, [EVIL], front, sheets, {"ti": "TI", "dti": EVIL, "none": "no"})
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


def test_words_are_text_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", "red")
    read = page(tmp_path, [Sheet([EVIL], [file], {EVIL: {"ti": file, "dti": file}})], title=EVIL)
    tags = {tag for tag, _ in read.tags}
    assert not tags & {"script", "iframe", "link", "object", "base", "form"}
    assert not [key for _, attributes in read.tags for key in attributes if key.startswith("on") or key == "href"]
    policy = next(a["content"] for tag, a in read.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert len(read.images()) == 4
    assert read.text.count(EVIL) == 7  # titles, a cell, a heading, a subject, a column, a prompt
    assert [a["alt"] for tag, a in read.tags if tag == "img"][-1] == f"{EVIL}: {EVIL}"


def test_images_stand_under_their_row_and_next_to_their_prompt(tmp_path: Path) -> None:
    red, blue = picture(tmp_path / "red.png", "red"), picture(tmp_path / "blue.png", "blue", (640, 320))
    green = picture(tmp_path / "green.png", "lime")
    read = page(tmp_path, [Sheet(["rex"], [green], {"a {}": {"ti": red, "dti": blue}, "the {}": {"dti": blue}})])
    front, reference, *drawn = read.images()
    assert front.format == "PNG"
    assert [image.size for image in (reference, *drawn)] == [(48, 48), (48, 48), (160, 80), (160, 80)]
    small = [attributes.get("class") for tag, attributes in read.tags if tag == "img"]
    assert small == ["front", "small", "small", None, None]  # enlarged by whole pixels
    colors = [image.convert("RGB").getpixel((20, 20)) for image in (reference, *drawn)]
    for found, wanted in zip(colors, [(0, 255, 0), (255, 0, 0), (0, 0, 255), (0, 0, 255)], strict=True):
        assert found == pytest.approx(wanted, abs=8)
    described = [attributes["alt"] for tag, attributes in read.tags if tag == "img"]
    assert described[2:] == ["TI: a {}", f"{EVIL}: a {{}}", f"{EVIL}: the {{}}"]


def test_the_page_of_many_subjects_says_what_it_leaves_out(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", "red")
    read = page(tmp_path, [Sheet([f"subject{i}"], [], {"a {}": {"ti": file}}) for i in range(MAX_SHEETS + 3)])
    assert "3 more subjects are left out" in read.text
    assert f"subject{MAX_SHEETS - 1}" in read.text
    assert f"subject{MAX_SHEETS}" not in read.text
    before = (tmp_path / "report.html").read_bytes()
    page(tmp_path, [Sheet([f"subject{i}"], [], {"a {}": {"ti": file}}) for i in range(MAX_SHEETS + 3)])
    assert (tmp_path / "report.html").read_bytes() == before


def test_a_missing_image_is_named_and_the_page_stays_as_it_was(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", "red")
    sheets = [Sheet(["rex"], [file], {"a {}": {"ti": file}})]
    page(tmp_path, sheets)
    before = (tmp_path / "report.html").read_bytes()
    file.unlink()
    with pytest.raises(InputError, match=r"a\.png does not exist"):
        page(tmp_path, sheets)
    assert (tmp_path / "report.html").read_bytes() == before
