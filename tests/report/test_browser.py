"""The report as a reader's browser shows it. Needs a Chromium, such as Debian's package."""

import os
import re
import shutil

import pytest

from vibelite.report.build import write_report
from vibelite.run_dir import append_jsonl, read_jsonl

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    # Chromium's own sandbox refuses to run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """A page that fails the test on any message on its console and any request but its own."""
    context = browser.new_context()
    page = context.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    urls = []
    page.on("request", lambda request: urls.append(request.url))
    yield page
    context.close()
    complaints += [url for url in urls if not url.startswith(("file:", "http://127.0.0.1:"))]
    assert complaints == []


@pytest.fixture
def address(finished_run, tmp_path):
    return write_report([finished_run.run.path], tmp_path / "report.html").as_uri()


def shown(tab):
    return tab.locator("details.sample:not([hidden])").count()


def test_filters_show_what_they_say(tab, address):
    tab.goto(address)
    everything = shown(tab)
    tab.locator("[data-filter=verdict]").select_option("wrong")
    wrong = shown(tab)
    assert 0 < wrong < everything
    verdicts = tab.locator("details.sample:not([hidden])").evaluate_all(
        "found => [...new Set(found.map(one => one.dataset.verdict))]"
    )
    assert verdicts == ["wrong"]
    tab.locator("[data-filter=subdomain]").select_option("algebra")
    assert 0 < shown(tab) < wrong
    assert tab.locator(".filters output").inner_text() == f"{shown(tab)} of {everything} shown"
    tab.locator("[data-filter=text]").fill("no sample holds this")
    assert shown(tab) == 0


@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_never_scrolls_sideways(tab, address, width):
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto(address)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_without_script_all_but_the_filters_is_there(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert not page.locator(".filters").first.is_visible()
    assert page.locator("figure.chart").first.is_visible()
    page.locator("details.stage summary").first.click()
    assert page.locator("details.sample").first.is_visible()
    context.close()


def test_a_live_report_updates_and_keeps_what_the_reader_opened(tab, finished_run, port):
    tab.goto(f"http://127.0.0.1:{port}/")
    tab.locator("h1 [role=status]", has_text=re.compile("^live$")).wait_for()
    tab.locator("[data-filter=verdict]").select_option("wrong")
    tab.locator("#origin summary", has_text="Recipe").click()
    before = tab.locator("figure.chart", has_text="Reward, mean").inner_html()
    steps = finished_run.run.find_stage("mgpo").steps_path
    append_jsonl(steps, [list(read_jsonl(steps))[-1] | {"step": 60}])
    tab.wait_for_function(
        "before => [...document.querySelectorAll('figure.chart')]"
        ".find(one => one.textContent.includes('Reward, mean')).innerHTML !== before",
        arg=before,
    )
    assert tab.locator("[data-filter=verdict]").input_value() == "wrong"
    assert tab.locator("#origin details[open] summary").inner_text().startswith("Recipe")
