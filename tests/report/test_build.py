"""The page about a made-up run: everything is on it, nothing is loaded, model text is inert."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from tests.report.conftest import HOSTILE, SUBDOMAINS, result_row
from vibelite.report.build import write_report
from vibelite.run_dir import write_json_atomic
from vibelite.units import duration, usd


class Page(HTMLParser):
    """Elements with their attributes, and the text outside script and style."""

    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.text = ""
        self.open_tags = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open_tags.append(tag)

    def handle_endtag(self, tag):
        while self.open_tags.pop() != tag:
            pass

    def handle_data(self, data):
        if not self.open_tags or self.open_tags[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag, css_class=""):
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and css_class in (attributes.get("class") or "").split() + [""]
        ]


def build(tmp_path, *builders):
    html = write_report([builder.run.path for builder in builders], tmp_path / "report.html")
    return html.read_text(encoding="utf-8")


@pytest.fixture
def html(finished_run, tmp_path):
    return build(tmp_path, finished_run)


@pytest.fixture
def page(html):
    return Page(html)


def chart_points(html, title):
    """Number of points of every raw line in the charts with this title."""
    figures = re.findall(r'<figure class="chart.*?</figure>', html, re.DOTALL)
    return [
        [len(points.split()) for points in re.findall(r'class="line (?!mean).*?points="(.*?)"', f)]
        for f in figures
        if f"<b>{title}</b>" in f
    ]


def test_curves_have_one_point_per_step(html):
    assert chart_points(html, "SFT loss, nats per token") == [[60]]
    assert chart_points(html, "Reward, mean") == [[40]]
    assert chart_points(html, "Reward by sub-domain") == [[40] * 4]
    assert chart_points(html, "Gradient norm before clipping") == [[60], [40]]
    assert chart_points(html, "Tokens trained per second") == [[60], [40]]
    assert chart_points(html, "Tokens generated per second") == [[40]]


def test_failures_of_the_verifier_have_a_chart_where_there_are_any(make_run, tmp_path):
    builder = make_run()
    recorder = builder.recorder("mgpo", builder.run.stage(0, "mgpo"))
    title = "Completions without a verdict, by what kept the verifier from it"
    recorder.record_step(1, {"verify/failures_timeout": 0, "verify/unverifiable": 0})
    assert chart_points(build(tmp_path, builder), title) == []
    recorder.record_step(2, {"verify/failures_timeout": 0, "verify/unverifiable": 2})
    assert chart_points(build(tmp_path, builder), title) == [[2, 2]]


def test_probe_table_has_a_cell_per_checkpoint_and_sub_domain_and_frames_the_specialists(page):
    assert len(page.all("td", "cell")) == 6 * 4
    assert len(page.all("td", "chosen")) == 4


def test_results_show_every_model_with_its_interval(page):
    assert len(page.all("i", "at1")) == len(page.all("i", "ci")) == 7
    assert len(page.all("i", "atk")) == 7
    assert "57.0 to 65.0" in page.text
    assert "Beside published scores" not in page.text, "nobody published on this benchmark"


def test_published_scores_stand_among_the_run_s_own_best_first(make_run, tmp_path):
    builder = make_run()
    builder.base()
    stage_dir = builder.run.stage(4, "evaluate")
    rows = [
        row
        | {
            "published": {"source": "a report", "pass_at_1": {"Big": 0.8, "Small": 0.1}},
            "data": {"num_problems": 256, "official_num_problems": 300},
        }
        for row in (result_row("sft", 0.05, "aime25"), result_row("mgpo", 0.4, "aime25"))
    ]
    write_json_atomic(stage_dir.path / "results.json", rows)
    stage_dir.finish(models={})
    html = build(tmp_path, builder)
    (table,) = re.findall(r"<h4>Beside published scores</h4>.*?</table>", html, re.DOTALL)
    found = re.findall(r"<tr( class=\"own\")?><th scope=\"row\">(.*?)</th><td>(.*?)</td>", table)
    assert found == [
        ("", "Big", "80.0"),
        (' class="own"', "mgpo", "40.0"),
        ("", "Small", "10.0"),
        (' class="own"', "sft", "5.0"),
    ]
    assert "Published: a report." in html and "on 256 of its 300 problems, 8 samples each" in html


def test_a_single_sub_domain_has_no_column_of_its_own(make_run, tmp_path):
    builder = make_run()
    builder.base()
    stage_dir = builder.run.stage(4, "evaluate")
    row = result_row("mgpo", 0.4)
    row["subdomains"] = {"anything": row["subdomains"]["algebra"]}
    write_json_atomic(stage_dir.path / "results.json", [row])
    stage_dir.finish(models={})
    html = build(tmp_path, builder)
    assert "anything" not in html and "Sub-domains: Pass@1" not in html


def test_a_sample_that_nobody_could_judge_is_not_called_wrong(make_run, tmp_path):
    builder = make_run()
    builder.base()
    row = builder.sample_rows(3)[0] | {"correct": None, "reward": 0.0, "failure": "timeout"}
    recorder = builder.recorder("mgpo", builder.run.stage(3, "mgpo"))
    recorder.record_samples(3, [row])
    page = Page(build(tmp_path, builder))
    (sample,) = page.all("details", "sample")
    assert sample["data-verdict"] == "unverifiable"
    assert "(the verifier failed: timeout)" in page.text


def test_costs_name_every_stage_and_the_sum(page, finished_run):
    total = finished_run.clock.now / 1e9
    assert duration(total) in page.text
    assert usd(total / 3600 * 2.0) in page.text
    assert len(page.all("div", "bar")) == len(["base", "sft", "probe", "fuse", "mgpo", "evaluate"])


def test_model_text_is_inert(html, page):
    assert HOSTILE.replace("\x1b", "\\x1b") in page.text, "shown as the model wrote it"
    assert "<script>alert" not in html
    assert "\x1b" not in html
    assert len(page.all("script")) == 1
    assert page.all("img") == []
    handlers = [key for _, attributes in page.elements for key in attributes if key[:2] == "on"]
    assert handlers == []


def test_the_page_loads_nothing(html, page):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "action", "poster"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")


def test_the_policy_allows_the_page_s_own_script_only(html, page):
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    script = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_samples_carry_what_the_filters_need(page):
    samples = page.all("details", "sample")
    stages = [sample["data-stage"] for sample in samples]
    assert stages.count("mgpo") == 15 * 8, "15 of 40 steps, correct and wrong of 4 sub-domains"
    assert stages.count("evaluate") == 6 * 8, "of seven names two are of one model"
    assert {sample["data-verdict"] for sample in samples} == {"correct", "wrong"}
    assert {sample["data-subdomain"] for sample in samples} == set(SUBDOMAINS)
    origins = {sample["data-step"] for sample in samples}
    assert {"step 1", "step 40", "held-out, mgpo", "held-out, sft"} < origins
    assert "held-out, probe-algebra" not in origins, "a model is called by its first name"


def test_an_unfinished_run_without_a_price_says_how_far_it_is(make_run, tmp_path):
    builder = make_run(usd_per_hour=None)
    builder.base()
    builder.sft()
    builder.mgpo(num_steps=7)
    html = build(tmp_path, builder)
    assert "mgpo: step 7 of 40" in html
    assert "probe: not started" in html
    assert "No evaluate stage has finished yet." in html
    assert "no price was given" in html
    assert "<b>USD per step" not in html and "expected after" not in html
    assert "<b>Seconds per step, by span</b>" in html
    assert "$" not in Page(html).text


def test_an_unfinished_run_with_a_price_says_what_its_stage_will_cost(make_run, tmp_path):
    builder = make_run()
    builder.base()
    builder.sft(num_steps=30)
    (said,) = re.findall(
        r"expected after sft: \$(.*?) \(\$(.*?) to \$(.*?)\)", build(tmp_path, builder)
    )
    total, low, high = map(float, said)
    spent = builder.clock.now / 1e9 / 3600 * 2.0
    assert spent < low <= total <= high < 3 * spent
    builder.sft()
    assert "expected after" not in build(tmp_path, builder)


def test_an_empty_directory_makes_a_page(make_run, tmp_path):
    html = build(tmp_path, make_run())
    assert "no stage has started" in html
    assert "The ledger is empty." in html


def test_several_runs_share_charts(make_run, tmp_path):
    first, second = make_run("one"), make_run("two/one", seed=1, mgpo_steps=30)
    for builder in (first, second):
        builder.base()
        builder.sft()
        builder.mgpo()
    html = build(tmp_path, first, second)
    assert chart_points(html, "Reward, mean") == [[40, 30]]
    assert "one vs one (2)" in html


def test_a_long_run_stays_under_two_megabytes(make_run, tmp_path):
    builder = make_run(mgpo_steps=500, sft_steps=500)
    for stage in ("base", "sft", "probe", "fuse", "mgpo", "evaluate"):
        getattr(builder, stage)()
    assert len(build(tmp_path, builder).encode()) < 2_000_000


def luminance(color):
    """WCAG 2.2: relative luminance of #rrggbb."""
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("text", ["text", "muted", "accent", "good", "bad"])
@pytest.mark.parametrize("ground", ["page", "card", "track"])
def test_text_has_a_contrast_of_at_least_4_5(html, scheme, text, ground):
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light if scheme == "light" else dark))
    low, high = sorted(luminance(colors[name]) for name in (text, ground))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_every_heading_of_a_table_says_what_it_heads(page):
    assert {one.get("scope") for one in page.all("th")} == {"col", "row"}


def test_models_are_shown_side_by_side_on_the_same_problems(page):
    pairs = page.all("details", "pair")
    assert len(pairs) == len(SUBDOMAINS)
    assert "base and mgpo on the same problems" in page.text
