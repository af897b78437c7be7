"""Somebody slides between two words in a real browser, wide and narrow, by mouse and by keyboard.

It needs Playwright and a Chromium, as the report page's test does. SCREENSHOTS=<folder> keeps pictures of what it saw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dti_repro.inference.blend_server import BlendServer
from tests.e2e.blending import served
from tests.e2e.trained import trained_run, vectors

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser-test")
WIDTHS = {"wide": 1400, "narrow": 400}


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlendServer]:
    words = {"rex": vectors(0) * 20, "tom": vectors(1) * 60}  # far from each other, so that an untrained model sees it
    run = trained_run(tmp_path_factory.mktemp("blend") / "runs", words)
    with served(checkpoint, run) as server:
        yield server


@pytest.fixture(params=["wide-light", "narrow-dark"])
def page(browser: sync_api.Browser, server: BlendServer, request: pytest.FixtureRequest) -> Iterator[sync_api.Page]:
    """The page with its first pictures. After the test: every request went to the page's own address."""
    size, scheme = request.param.split("-")
    context = browser.new_context(viewport={"width": WIDTHS[size], "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(10_000)  # ms
    elsewhere: list[str] = []
    page.on("request", lambda sent: elsewhere.append(sent.url) if not sent.url.startswith(allowed) else None)
    allowed = (server.address, f"blob:http://{server.hosts[0]}/", "data:")
    page.goto(server.address)
    drawn(page, "0.50")
    yield page
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{request.node.name}.png", full_page=True)
    assert elsewhere == []
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[size], "nothing sticks out to the side"
    context.close()


def drawn(page: sync_api.Page, share: str, prompt: str = "a {}", seed: int = 0) -> dict[str, str]:
    """Return mode -> the pixels of its picture, once both are drawn at this point."""
    found = {}
    for mode in ("slerp", "lerp"):
        image = page.get_by_alt_text(f"{mode} at {share}: {prompt}, seed {seed}", exact=True)
        image.wait_for()
        found[mode] = image.evaluate(
            """image => {
              const canvas = Object.assign(document.createElement("canvas"), {width: 16, height: 16});
              canvas.getContext("2d").drawImage(image, 0, 0);
              return canvas.toDataURL();
            }"""
        )
    return found


def test_somebody_slides_between_two_words(page: sync_api.Page) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    slider = page.get_by_role("slider", name="Share of tom")
    middle = drawn(page, "0.50")
    assert middle["slerp"] != middle["lerp"]
    slider.fill("0")
    start = drawn(page, "0.00")
    assert start["slerp"] == start["lerp"] != middle["slerp"]
    slider.fill("1")
    assert drawn(page, "1.00")["slerp"] != start["slerp"]
    slider.press("ArrowLeft")
    drawn(page, "0.99")
    page.get_by_role("textbox", name="Prompt").fill("a photo of a {}")
    page.keyboard.press("Enter")
    assert drawn(page, "0.99", "a photo of a {}")["slerp"] != start["slerp"]
    page.get_by_role("spinbutton", name="Seed").fill("3")
    page.get_by_role("spinbutton", name="Steps").press("Tab")
    drawn(page, "0.99", "a photo of a {}", seed=3)
    assert "norm " in page.locator("#lerp [role=status]").inner_text()
    assert problems == []
    page.get_by_role("textbox", name="Prompt").fill("a cat")
    page.get_by_role("button", name="Draw").click()
    page.locator("#slerp .bad", has_text="has no {} for the concept").wait_for()


def test_every_control_has_a_name(page: sync_api.Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, button")].filter((control) =>
          !control.labels?.length && !control.textContent.trim()).map((control) => control.outerHTML)"""
    )
    assert nameless == []
