"""A reader opens the page in a real browser, wide and narrow: everything on it works, and nothing leaves the file.

It needs Playwright and a Chromium (`make browser-test` installs both on Debian). SCREENSHOTS=<folder> keeps pictures of
what it saw.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import Example

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser-test")
LABELS = {
    "class": "class word",
    "ti": "TI",
    "dti": "DTI",
    "dti_b": "DTI <b>b</b>",
    "dti_c": "DTI, c",
    "dti_d": "DTI, d",
}
WIDTHS = {"wide": 1400, "narrow": 400}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    example = Example(LABELS, steps=(5, 10), prompts=("a {} on a beach", "a {} in a hat", "<i>a</i> {}"))
    return example.made(tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(params=["wide-light", "wide-dark", "narrow-light", "narrow-dark"])
def page(browser: sync_api.Browser, file: Path, request: pytest.FixtureRequest) -> Iterator[sync_api.Page]:
    """The opened page. After the test: no error in the console, and no request but the one for the file."""
    size, scheme = request.param.split("-")
    context = browser.new_context(viewport={"width": WIDTHS[size], "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(5000)  # ms
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda sent: problems.append(sent.url) if not sent.url.startswith("data:") else None)
    began = time.monotonic()
    page.goto(file.as_uri())
    page.wait_for_selector("#plane-figure svg")
    opened = time.monotonic() - began
    yield page
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    assert problems == [file.as_uri()]
    assert opened < 2 or os.environ.get("PYTEST_XDIST_WORKER"), (
        f"opened in {opened:.1f} s"
    )  # other tests load the machine
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[size], "nothing sticks out to the side"
    context.close()


def test_a_reader_finds_compares_sorts_and_reads(page: sync_api.Page) -> None:
    """One walk through the page, as opening it costs more than a step."""
    filter_pictures(page)
    enlarge_and_compare(page)
    watch_the_word_being_learned(page)
    switch_axes_and_rows(page)
    sort_and_filter_the_table(page)
    read_with_a_screen_reader(page)


def choice(page: sync_api.Page, name: str) -> sync_api.Locator:
    return page.get_by_role("combobox", name=name, exact=True)


def filter_pictures(page: sync_api.Page) -> None:
    narrow = page.viewport_size["width"] < 700
    shown = page.locator("#wall button")
    assert shown.count() == 6 * 2 * (1 if narrow else 3)  # one subject; a phone begins with one prompt
    choice(page, "Subject").select_option(label="tom")
    choice(page, "Prompt").select_option(label="a … in a hat")
    choice(page, "Seed").select_option(label="seed 1")
    assert shown.count() == 6
    if narrow:
        page.locator("#pictures summary").click()
    page.locator("#wall-rows").get_by_label("TI", exact=True).uncheck()
    assert shown.count() == 5
    names = [image.get_attribute("alt") for image in shown.locator("img").all()]
    assert names[:2] == ["class word: a <tom> in a hat, seed 1", "DTI: a <tom> in a hat, seed 1"]
    page.locator("#wall-rows").get_by_label("TI", exact=True).check()
    for label in ("Subject", "Prompt", "Seed"):
        choice(page, label).select_option("")
    assert shown.count() == 6 * 2 * 3 * 2


def enlarge_and_compare(page: sync_api.Page) -> None:
    page.get_by_alt_text("TI: a <rex> on a beach, seed 0", exact=True).click()
    zoom = page.get_by_role("dialog", name="TI, rex")
    assert "“a <rex> on a beach”, seed 0" in zoom.inner_text()
    assert zoom.locator("#zoom-photos img").count() == 2
    scores = zoom.get_by_role("row", name="CLIP-T").locator("td")
    assert float(scores.inner_text()) == pytest.approx(0.4, abs=0.05)
    choice(page, "Compare with").select_option(label="DTI")
    assert [float(text) for text in scores.all_inner_texts()] == pytest.approx([0.4, 0.5], abs=0.05)
    over = zoom.get_by_alt_text("DTI: a <rex> on a beach, seed 0", exact=True)
    before = over.evaluate("image => getComputedStyle(image).clipPath")
    zoom.get_by_role("slider", name="Slide between the two").fill("20")
    assert over.evaluate("image => getComputedStyle(image).clipPath") != before
    assert over.bounding_box() == zoom.locator("#zoom-base").bounding_box()
    zoom.get_by_role("button", name="below").click()
    assert "a <rex> in a hat" in page.locator("#zoom-prompt").inner_text()
    page.keyboard.press("ArrowUp")
    assert "a <rex> on a beach" in page.locator("#zoom-prompt").inner_text()


def watch_the_word_being_learned(page: sync_api.Page) -> None:
    base = page.locator("#zoom-base")
    learned = base.get_attribute("src")
    page.locator("#zoom-time").fill("0")
    assert page.locator("#zoom-step").inner_text() == "after step 5"
    assert base.get_attribute("src") != learned
    page.locator("#zoom-time").fill("2")
    assert (page.locator("#zoom-step").inner_text(), base.get_attribute("src")) == ("learned", learned)
    page.keyboard.press("Escape")
    assert page.get_by_role("dialog").count() == 0
    page.wait_for_timeout(100)  # the dialog's close event, which moves to the picture, is a later task
    chosen = page.evaluate("document.activeElement.querySelector('img').alt")
    assert chosen == "TI: a <rex> on a beach, seed 0"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.querySelector('img').alt") == "TI: a <rex> in a hat, seed 0"


def switch_axes_and_rows(page: sync_api.Page) -> None:
    points = page.locator("#plane-figure [role=img][tabindex]")
    assert points.count() == 6
    before = points.first.bounding_box()
    choice(page, "Across").select_option(label="binding")
    assert points.first.bounding_box() != before
    points.first.focus()
    assert page.locator("#plane-value").inner_text().startswith("class word\nbinding 0.")
    labels = [box.bounding_box() for box in page.locator("#plane-figure text.label").all()]
    assert len(labels) == 6
    for place, a in enumerate(labels):
        for b in labels[place + 1 :]:
            apart = a["x"] + a["width"] <= b["x"] + 1 or b["x"] + b["width"] <= a["x"] + 1
            assert apart or a["y"] + a["height"] <= b["y"] + 1 or b["y"] + b["height"] <= a["y"] + 1
    if page.viewport_size["width"] < 700:
        page.locator("#plane summary").click()
    page.locator("#plane-rows").get_by_label("DTI, d").uncheck()
    assert points.count() == 5


def sort_and_filter_the_table(page: sync_api.Page) -> None:
    names = page.locator("#means tbody th")
    assert names.all_inner_texts() == list(LABELS.values())
    page.locator("#means").get_by_role("columnheader", name="image", exact=True).click()
    assert names.all_inner_texts() == list(LABELS.values())[::-1]  # the last has the highest scores
    page.keyboard.press("Enter")
    assert names.all_inner_texts() == list(LABELS.values())
    lines = page.locator("#means tbody tr:visible")
    page.locator("[data-filters=means]").fill("dti, c")
    assert lines.count() == 1
    page.locator("[data-filters=means]").fill("")
    table = page.locator(".wide", has=page.locator("#means"))
    table.evaluate("box => box.scrollLeft = 9999")
    assert names.first.bounding_box()["x"] == pytest.approx(table.bounding_box()["x"], abs=2), "the first column stays"


def read_with_a_screen_reader(page: sync_api.Page) -> None:
    """Every control has a name, and no picture is without words."""
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, summary, [tabindex='0']")].filter((control) =>
          !control.getAttribute("aria-label") && !control.closest("label")?.textContent.trim()
          && !control.textContent.trim() && !control.querySelector("img[alt]:not([alt=''])")).map((c) => c.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("#wall img:not([alt]), #wall img[alt='']").count() == 0
    assert page.locator("b, i").count() == 0, "labels and prompts are text"


def test_the_class_word_is_compared_with_words_of_every_training(browser: sync_api.Browser, tmp_path: Path) -> None:
    """Nobody trains it, so that it has image seeds alone."""
    file = Example(trained=(42, 43), seeds=(0, 1)).made(tmp_path)[0]
    page = browser.new_page()
    page.goto(file.as_uri())
    choice(page, "Seed").select_option(label="training seed 43, image seed 1")
    choice(page, "Prompt").select_option(label="a … in a hat")
    names = [image.get_attribute("alt") for image in page.locator("#wall button img").all()]
    assert [name.partition(":")[0] for name in names] == ["class word", "TI", "DTI"]
    assert names[0].endswith("a <rex> in a hat, seed 1")
    page.get_by_role("button", name="Compare two methods").click()
    assert page.get_by_role("dialog", name="TI, rex").is_visible()
    assert choice(page, "Compare with").evaluate("select => select.selectedOptions[0].text") == "DTI"
    choice(page, "Compare with").select_option(label="class word")
    assert page.locator("#zoom-over").get_attribute("alt") == "class word: a <rex> in a hat, seed 1"
    page.close()
