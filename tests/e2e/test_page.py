"""The page in a real browser: it lists jobs, follows one live, and treats every name as text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.conftest import Service, mlp

pytestmark = pytest.mark.browser

QUIET = ["background-networking", "component-update", "sync", "quic", "gpu"]
FLAGS = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in QUIET)]


@pytest.fixture(scope="module")
def page(service: Service) -> Iterator[Page]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        errors: list[str] = []
        opened.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        opened.on("dialog", lambda dialog: errors.append(f"said {dialog.message}"))
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("request", lambda r: None if r.url.startswith(service.url) else errors.append(f"asked {r.url}"))
        yield opened
        browser.close()
        assert errors == []


def test_the_curve_is_followed_to_its_end(service: Service, page: Page) -> None:
    job_id = service.submit(mlp(name="watched", epochs=150))
    page.goto(f"{service.url}/#{job_id}")
    expect(page.locator("#status")).to_have_text("succeeded", timeout=30_000)
    expect(page.locator("#chart canvas")).to_be_visible()
    expect(page.locator("#summary")).to_contain_text("val/loss")
    last = service.series(job_id)[1][-1]
    expect(page.locator("#summary tbody tr", has_text="train/loss").locator("td").nth(1)).to_have_text(f"{last:.6g}")
    expect(page.locator("#list a", has_text="watched")).to_have_attribute("aria-current", "true")
    page.locator("#log").check()
    expect(page.locator("#chart canvas")).to_be_visible()


def test_a_name_is_text_and_never_markup(service: Service, page: Page) -> None:
    name = "<img src=x onerror=alert(1)>"
    job_id = service.submit(mlp(name=name, epochs=1))
    page.goto(f"{service.url}/#{job_id}")
    expect(page.locator("#name")).to_have_text(name)
    assert page.locator("main img").count() == 0


def test_cancel_from_the_page(service: Service, page: Page) -> None:
    job_id = service.submit(mlp(epochs=100_000))
    page.goto(f"{service.url}/#{job_id}")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_have_text("cancelled", timeout=10_000)


def test_pause_resume_and_run_again_from_the_page(service: Service, page: Page) -> None:
    job_id = service.submit(mlp(epochs=100_000))
    page.goto(f"{service.url}/#{job_id}")
    expect(page.locator("#status")).to_have_text("running", timeout=10_000)
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#status")).to_have_text("paused", timeout=10_000)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#status")).to_have_text("running", timeout=10_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_have_text("cancelled", timeout=10_000)
    page.get_by_role("button", name="Go on from checkpoint").click()
    expect(page.locator("#status")).to_have_text("running", timeout=10_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_have_text("cancelled", timeout=10_000)
    page.get_by_role("button", name="Run again").click()
    expect(page.locator("#status")).to_have_text("running", timeout=10_000)
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#status")).to_have_text("cancelled", timeout=10_000)


def test_the_api_documents_itself_without_another_host(service: Service, page: Page) -> None:
    page.goto(f"{service.url}/docs")
    expect(page.locator(".opblock-summary-path", has_text="/v1/jobs").first).to_be_visible(timeout=30_000)
