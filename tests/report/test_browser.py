"""The report as a reader's browser shows it. Needs a Chromium, such as Debian's package."""

import os
import re
import shutil
import threading

import pytest

from vibelite.report.build import write_report
from vibelite.report.server import LiveReport, make_server
from vibelite.run_dir import append_jsonl, read_jsonl
from vibelite.units import short_number

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
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "http://127.0.0.1:"))
            else complaints.append(request.url)
        ),
    )
    yield page
    context.close()
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


def test_what_a_model_wrote_is_inert(tab, address):
    tab.goto(address)
    tab.locator("[data-filter=text]").fill("<script>alert")
    assert shown(tab) > 0
    text = tab.locator("details.sample:not([hidden]) pre").nth(1)
    assert "<script>alert(1)</script>" in text.text_content()
    assert "\\x1b[31m" in text.text_content()
    assert tab.evaluate("document.scripts.length") == 1
    assert tab.evaluate("document.images.length") == 0


def test_arrow_keys_tell_values_and_another_axis_moves_the_line(tab, address, finished_run):
    tab.goto(address)
    figure = tab.locator("figure.chart", has_text="SFT loss")
    line = figure.locator("polyline").first
    before = line.get_attribute("points")
    figure.locator("svg").focus()
    tab.keyboard.press("ArrowRight")
    losses = [
        row["metrics"]["sft/loss"]
        for row in read_jsonl(finished_run.run.find_stage("sft").steps_path)
    ]
    assert figure.locator("output").inner_text() == f"step 2: loss {short_number(losses[1])}"
    tab.locator("[data-axis]").select_option("tokens")
    assert figure.locator("text.x").first.text_content() == "tokens"
    assert figure.locator("text.x").last.text_content() == "288K", "60 steps of 4,800 tokens"
    # Every step had as many tokens: the line stays where it was.
    for old, new in zip(before.split(), line.get_attribute("points").split(), strict=True):
        assert float(old.split(",")[0]) == pytest.approx(float(new.split(",")[0]), abs=0.2)
    tab.locator("[data-axis]").select_option("step")
    assert figure.locator("text.x").first.text_content() == "step"


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


def test_dark_and_light_differ(browser, address):
    colors = set()
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(address)
        colors.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        context.close()
    assert len(colors) == 2


def test_a_live_report_updates_and_keeps_what_the_reader_opened(tab, finished_run):
    with make_server(LiveReport([finished_run.run.path]), port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab.goto(f"http://127.0.0.1:{server.server_address[1]}/")
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
        order = tab.locator("main > section").evaluate_all("all => all.map(one => one.id)")
        assert order.index("curves") < order.index("results"), "what moves comes first"
        assert (
            tab.locator("#samples details.stage")
            .first.get_attribute("data-key")
            .endswith("evaluate")
        )
        assert tab.locator("#origin details[open] summary").inner_text().startswith("Recipe")
        server.shutdown()
