"""The page in a real browser: it loads alone, filters, opens, obeys the keyboard, and runs nothing of what it shows."""

import os
import re
import shutil
import threading

import pytest
from run_folders import HOSTILE, accepted, make_run, metrics_of, rollout, write_step

from nouscoder_jax.metrics.sinks import JsonlSink
from nouscoder_jax.report.contents import Contents
from nouscoder_jax.report.page import write_page
from nouscoder_jax.report.read import open_runs
from nouscoder_jax.report.serve import open_server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS = "needs Chromium (Debian: apt-get install chromium)"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=NEEDS)]
ROWS = "#rows [role=row]"
MANY = 50_000


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Opens a file; the test fails where the page wrote to the console, threw, or asked for anything but itself."""
    pages, told = [], []

    def open_page(path, **options):
        page = browser.new_page(**options)
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: told.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.wait_for_timeout(100)
        page.close()
    assert told == []


def page_of(out, *folders, **options):
    contents = Contents(open_runs([str(folder) for folder in folders]), text_chars=options.get("text_chars", 0))
    contents.update()
    write_page(contents, [folder.name for folder in folders], out)
    contents.close()
    return out


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    metrics = [metrics_of(step, **{"held_out/pass_at_1": step / 10}) for step in range(1, 4)]
    steps = {step: [rollout(step, 0, 0), accepted(step, 0, 1, text=f"needle{step}")] for step in range(1, 4)}
    one = make_run(folder / "one", steps, metrics=metrics)
    other = make_run(folder / "other", {1: [rollout(1, problem_id="other/problem")]}, metrics=metrics[:1])
    return page_of(folder / "page.html", one, other)


def count(page):
    return int(page.inner_text("#count").split(" of ")[0].replace(",", ""))


def wait_for_count(page, number):
    of_all = page.locator("#count", has_text=re.compile(rf"^{number} of [\d,]+ rollouts$"))
    of_all.wait_for(timeout=60_000)


def test_charts_are_drawn_for_both_runs_with_a_table_and_words_behind_each(opened, two_runs):
    page = opened(two_runs)
    page.wait_for_selector(".plot .main-svg")
    assert page.locator(".plot").first.get_attribute("aria-label") == (
        "Held-out pass@1. one: 10 % at step 1 to 30 % at step 3; other: 10 % at step 1"
    )
    page.click("text=Held-out pass@1 as a table")
    rows = page.locator("#charts details").first.locator("tr").all_inner_texts()
    assert [row.split("\t") for row in rows] == [
        ["step", "one", "other"], ["1", "10 %", "10 %"], ["2", "20 %", "–"], ["3", "30 %", "–"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("act", "left"),
    [
        (lambda page: page.select_option("#filter-run", label="other"), 1),
        (lambda page: page.fill("#filter-step", "2-3"), 4),
        (lambda page: page.fill("#filter-step", "2"), 2),
        (lambda page: page.fill("#filter-problem", "OTHER/"), 1),
        (lambda page: page.select_option("#filter-outcome", label="accepted"), 3),
        (lambda page: page.select_option("#filter-reward", label="-1"), 4),
        (lambda page: page.fill("#filter-text", "Needle2"), 1),
        (lambda page: page.fill("#filter-text", "expected '4', got"), 4),
        (lambda page: page.fill("#filter-text", "nowhere"), 0),
    ],
)
def test_a_filter_leaves_what_fits_and_clearing_brings_all_back(opened, two_runs, act, left):
    page = opened(two_runs)
    assert count(page) == 7
    act(page)
    wait_for_count(page, left)
    assert page.locator(ROWS).count() == left
    page.click("text=Clear")
    wait_for_count(page, 7)


def test_a_rollout_opens_with_all_of_its_parts_and_its_thinking_folded(opened, two_runs):
    page = opened(two_runs)
    page.locator(ROWS).first.click()
    page.wait_for_selector("#rollout-title")
    text = page.inner_text("#rollout")
    assert "sum/1, step 1, group 0, sample 0" in text
    parts = page.locator("#rollout h4").all_inner_texts()
    assert parts == [
        *("Verdict", "First failing test: number 2", "Prompt", "Thinking", "Completion", "Extracted program")
    ]
    assert page.locator(".tests pre").all_inner_texts() == ["2 2\n", "4\n", "5\n"]
    assert "two numbers" not in text
    page.click("#rollout summary")
    assert "two numbers" in page.inner_text("#rollout")


def test_hostile_texts_are_shown_and_run_nothing(opened, tmp_path):
    hostile = rollout(1, text=HOSTILE, program=HOSTILE, prompt=HOSTILE, problem_id=HOSTILE)
    hostile["verdict"] |= {"detail": HOSTILE, "got": HOSTILE}
    folder = make_run(tmp_path / "<img src=x onerror='window.hurt = 4'>", {1: [hostile]}, metrics=[metrics_of(1)])
    other = make_run(tmp_path / "other", metrics=[metrics_of(1)])
    page = opened(page_of(tmp_path / "page.html", folder, other))
    page.wait_for_selector(".plot .main-svg")
    page.click("#charts summary")
    page.locator(ROWS).first.click()
    page.wait_for_selector("#rollout-title")
    assert page.evaluate("window.hurt") is None
    assert page.locator("main img, main script, #rollout svg").count() == 0
    shown = page.locator("#rollout pre").first.inner_text()
    assert "</script><script>window.hurt = 1</script>" in shown
    assert "␛[31mred␛[0m nul ␀ lone ⟨U+D800⟩ line ⟨U+2028⟩ rtl ⟨U+202E⟩ end" in shown


def test_the_policy_of_the_page_stops_a_script_that_would_get_in(browser, two_runs):
    page = browser.new_page()
    page.goto(two_runs.as_uri())
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hurt = 1'}))")
    reached = page.evaluate("fetch('http://127.0.0.1:9/').then(() => true, () => false)")
    assert (page.evaluate("window.hurt"), reached) == (None, False)
    page.close()


def test_the_keyboard_reaches_everything(opened, two_runs):
    page = opened(two_runs)
    focused = "document.activeElement.id"
    page.keyboard.press("/")
    assert page.evaluate(focused) == "filter-text"
    order = []
    for _ in range(8):
        page.keyboard.press("Tab")
        order.append(page.evaluate(f"{focused} || document.activeElement.textContent"))
    filters = [f"filter-{name}" for name in ("run", "step", "problem", "outcome", "reward", "fate")]
    assert order == [*filters, "Clear", "grid"]
    chosen = (
        "document.getElementById(document.getElementById('grid').getAttribute('aria-activedescendant')).ariaRowIndex"
    )
    assert page.evaluate(chosen) == "2"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(chosen) == "3"
    page.keyboard.press("End")
    assert page.evaluate(chosen) == "8"
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rollout-title")
    assert page.evaluate(focused) == "rollout"
    page.keyboard.press("Escape")
    assert page.evaluate(focused) == "grid" and page.locator("#rollout").is_hidden()


def test_whatever_can_be_operated_has_a_name(opened, two_runs):
    page = opened(two_runs)
    page.wait_for_selector(".plot .main-svg")
    snapshot = page.locator("body").aria_snapshot()
    for name in ('grid "Rollouts"', 'searchbox "Text"', 'combobox "Outcome"', 'img "Held-out pass@1.', "columnheader"):
        assert name in snapshot
    unnamed = "[...document.querySelectorAll('input, select')].filter((one) => !one.labels.length).length"
    assert page.evaluate(unnamed) == 0


def test_dark_and_light_have_ink_that_can_be_read(opened, two_runs):
    back = {}
    for scheme in ("light", "dark"):
        page = opened(two_runs, color_scheme=scheme)
        page.wait_for_selector(".plot .main-svg")
        ratio = page.evaluate(CONTRAST)
        assert min(ratio.values()) >= 4.5, ratio
        back[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert back["light"] != back["dark"]


CONTRAST = """() => {
  const light = (color) => {
    const parts = color.match(/[0-9.]+/g).slice(0, 3).map((one) => one / 255);
    const [r, g, b] = parts.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const probe = document.body.appendChild(document.createElement("i"));
  const of = (name) => { probe.style.color = `var(--${name})`; return light(getComputedStyle(probe).color); };
  const found = {};
  for (const ink of ["ink", "quiet", "accent", "good", "bad", "warn"]) {
    for (const back of ["back", "card"]) {
      const [a, b] = [of(ink), of(back)].sort((x, y) => y - x);
      found[`${ink} on ${back}`] = (a + 0.05) / (b + 0.05);
    }
  }
  return found;
}"""


def test_a_narrow_window_has_nothing_beside_it(opened, two_runs):
    page = opened(two_runs, viewport={"width": 360, "height": 700})
    page.wait_for_selector(".plot .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator(ROWS).first.click()
    page.wait_for_selector("#rollout-title")
    assert page.evaluate("document.getElementById('rollout').getBoundingClientRect().width") == 360


def test_a_served_page_follows_its_run_without_being_loaded_again(browser, tmp_path):
    folder = make_run(tmp_path / "run", {1: [rollout(1)]}, metrics=[metrics_of(1)])
    contents = Contents(open_runs([str(folder)]), text_chars=0)
    page = browser.new_page()
    told = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    with open_server(contents, ["run"], host="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        page.goto(server.url)
        wait_for_count(page, 1)
        page.locator(ROWS).first.click()
        page.wait_for_selector("#rollout-title")
        page.evaluate("window.loaded = 'once'")
        write_step(folder, 2, [accepted(2), accepted(2)])
        sink = JsonlSink(folder / "metrics.jsonl", resume_step=None)
        sink.write(metrics_of(2))
        sink.close()
        wait_for_count(page, 3)
        page.locator("#connection", has_text="step 2 of 8").wait_for()
        assert page.evaluate("window.loaded") == "once" and page.locator("#rollout-title").is_visible()
        page.locator(".plot[aria-label*='at step 2']").first.wait_for()
        assert told == []
        server.shutdown()
        thread.join()
    page.locator("#connection.lost", has_text="does not answer").wait_for()
    page.close()
    contents.close()


def test_of_50_000_rollouts_only_the_rows_in_sight_are_in_the_page(opened, tmp_path, record_property):
    body = "".join(f"x{number} = {number * 7919 % 997}\n" for number in range(100))

    def line(step, number):
        return rollout(step, number // 8, number % 8, text=f"{body}# {step} {number}\n", program=body)

    steps = {step: [line(step, number) for number in range(500)] for step in range(1, MANY // 500 + 1)}
    folder = make_run(tmp_path / "many", steps, metrics=[metrics_of(step) for step in steps])
    page = opened(page_of(tmp_path / "page.html", folder), viewport={"width": 1200, "height": 900})
    ready_ms = page.evaluate("Number(document.documentElement.dataset.ready)")
    record_property("ready_ms", ready_ms)
    print(f"{MANY} rollouts: list ready after {ready_ms} ms, {(tmp_path / 'page.html').stat().st_size / 2**20:.1f} MiB")
    assert count(page) == MANY and page.locator(ROWS).count() < 60
    page.focus("#grid")
    page.keyboard.press("End")
    assert page.locator(ROWS).last.inner_text().startswith("many") and page.locator(ROWS).count() < 60
    page.keyboard.press("Enter")
    page.wait_for_selector("#rollout-title")
    assert "# 100 499" in page.inner_text("#rollout")
    page.fill("#filter-text", "# 77 123")
    wait_for_count(page, 1)
