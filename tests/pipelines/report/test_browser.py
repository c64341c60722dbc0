"""The report in a real browser: opened from disk and over HTTP, by mouse and by keyboard, with hostile words in it."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.finished_run import open_judged_run
from pipelines.core.run import Run
from pipelines.report import report
from pipelines.report.report_rows import ReportRows, read_rows
from pipelines.report.thresholds import thresholds
from tests.chromium import ARGUMENTS
from tests.pipelines.report import world
from tests.pipelines.report.test_thresholds import judge_again

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium, or make browser")

PAGES = ("", "samples", "thresholds", "duplicates", "shards")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture(scope="module")
def served(report_folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(report_folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


class Visit:
    """One page of the browser, and what it complained of and asked for."""

    def __init__(self, browser: Any, base: str, width: int = 1280) -> None:
        self.base = base
        self.page = browser.new_page(viewport={"width": width, "height": 800})
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.failed(request))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def failed(self, request: Any) -> None:
        if request.resource_type != "media":  # a film that is left before it has come is no fault
            self.complaints.append(f"failed: {request.url}")

    def go(self, fragment: str) -> Any:
        self.page.goto(f"{self.base}/index.html#/{fragment}")
        wait_until(self.page, "RM.rows.ready === RM.rows.count && !RM.rows.missing")
        self.page.wait_for_selector("main > *")
        return self.page

    def done(self) -> None:
        """It said nothing, asked nobody else, and nothing that a sample says was run."""
        assert self.complaints == []
        assert all(url.startswith((self.base, "data:")) for url in self.asked), self.asked
        assert self.page.evaluate("window.hacked") is None
        assert self.page.evaluate("Object.prototype.hacked") is None
        self.page.close()


@pytest.fixture
def visit(browser: Any, report_folder: Path) -> Iterator[Visit]:
    opened = Visit(browser, f"file://{report_folder}")
    yield opened
    opened.done()


@pytest.fixture(scope="module")
def rows(run: Run) -> ReportRows:
    return read_rows(open_judged_run(run.out))


def wait_until(page: Any, condition: str) -> None:
    """Wait until a condition holds. (Playwright's own way evaluates strings in the page, which the page forbids.)"""
    page.evaluate(f"async () => {{ while (!({condition})) await new Promise((next) => setTimeout(next, 10)); }}")


def wait_for_count(page: Any, count: int) -> None:
    """Wait until the list says that it holds `count` samples."""
    page.wait_for_selector(f".count[data-found='{count}']", timeout=10_000)


def keys(page: Any) -> list[str]:
    """Keys of all rows, in order, as one who scrolls from top to bottom meets them."""
    return list(
        page.evaluate(
            """async () => {
                const list = document.querySelector(".list");
                const met = new Map();
                const rest = list.scrollHeight - list.clientHeight;
                const rows = +document.querySelector(".count").dataset.found;
                const step = Math.min(list.clientHeight / 2, Math.max(1, rest / rows));
                for (let top = 0; ; top += step) {
                    list.scrollTop = top;
                    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
                    for (const row of list.querySelectorAll(".row"))
                        met.set(+row.getAttribute("aria-posinset"), row.dataset.key);
                    if (top > rest) break;
                }
                return [...met].sort((a, b) => a[0] - b[0]).map((pair) => pair[1]);
            }"""
        )
    )


@pytest.mark.parametrize("scheme", ["disk", "http"])
def test_every_page_opens_from_disk_and_over_http(
    browser: Any, report_folder: Path, served: str, run: Run, scheme: str
) -> None:
    visit = Visit(browser, f"file://{report_folder}" if scheme == "disk" else served)
    for name in PAGES:
        page = visit.go(name)
        page.wait_for_selector("h1" if name != "samples" else ".row")
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(50)
    page = visit.go("shards/image-000000")
    page.wait_for_selector("text=Contents")
    assert page.locator(".mono").first.inner_text() in (Path(run.at("shards")) / "image-000000.card.json").read_text()
    visit.done()


def test_every_input_is_a_row(visit: Visit, rows: ReportRows) -> None:
    page = visit.go("samples")
    wait_for_count(page, len(rows))
    assert keys(page) == rows.keys


def test_hostile_text_is_shown_and_runs_no_script(visit: Visit, rows: ReportRows) -> None:
    page = visit.go("samples?source=photos&sort=quality.words")
    places = rows.samples["container"].to_pylist()
    hostile = [places.index(f"{number:02}.jpg") for number in range(len(world.HOSTILE))]
    raw = rows.samples["text"].to_pylist()
    # The other texts are shown cleaned.
    assert sum(words in rows.texts[row] for words, row in zip(world.HOSTILE, hostile, strict=True)) >= 4
    assert all(words in raw[row] for words, row in zip(world.HOSTILE, hostile, strict=True))
    for row in hostile:
        page.goto(f"{visit.base}/index.html#/samples?key={rows.keys[row]}")
        page.wait_for_selector(f".panel[data-key='{rows.keys[row]}'] .said")
        assert page.locator(".panel .said").first.text_content() == rows.texts[row]
        if raw[row] != rows.texts[row]:
            assert page.locator(".panel .said").nth(1).text_content() == raw[row]
        assert page.locator(".panel script, .panel svg, .panel [onerror], .list script").count() == 0
    page = visit.go("")
    assert page.locator(".lead").first.inner_text() == "Made for a test. <b>Not bold.</b>"


def test_filters_search_and_sort(visit: Visit, rows: ReportRows) -> None:
    page = visit.go("samples")
    page.select_option("select[name=outcome]", "dropped")
    wait_for_count(page, int((rows.outcome == "dropped").sum()))
    page.select_option("select[name=filter]", "quality")
    both = [
        key
        for key, o, b in zip(rows.keys, rows.outcome, rows.stopped_by, strict=True)
        if (o, b) == ("dropped", "quality")
    ]
    wait_for_count(page, len(both))
    assert keys(page) == both and 0 < len(both) < len(rows)
    page.click(".clear")
    wait_for_count(page, len(rows))
    page.fill("input[type=search]", "SIGN that")
    matching = [key for key, text in zip(rows.keys, rows.texts, strict=True) if "sign that" in text]
    wait_for_count(page, len(matching))
    assert keys(page) == matching and len(matching) >= len(world.HOSTILE) - 1
    page.fill("input[type=search]", rows.keys[7][:12])
    wait_for_count(page, 1)
    page = visit.go("samples?sort=facts.bytes&dir=down")
    wait_for_count(page, len(rows))
    values = rows.read_number("facts.bytes")
    order = sorted(range(len(rows)), key=lambda row: (np.isnan(values[row]), -np.nan_to_num(values[row]), row))
    page.wait_for_selector(f".row[aria-posinset='1'][data-key='{rows.keys[order[0]]}']")
    assert keys(page) == [rows.keys[row] for row in order]


def test_the_list_is_navigated_by_keyboard(visit: Visit, rows: ReportRows) -> None:
    page = visit.go("samples")
    wait_for_count(page, len(rows))

    def selected_key() -> str:
        page.wait_for_timeout(30)
        return str(page.evaluate("RM.place().query.get('key') || ''"))

    for key, row in (("ArrowDown", 0), ("ArrowDown", 1), ("j", 2), ("ArrowUp", 1), ("End", len(rows) - 1), ("Home", 0)):
        page.keyboard.press(key)
        assert selected_key() == rows.keys[row]
        page.wait_for_selector(f".panel[data-key='{rows.keys[row]}'] .said")
    assert (
        page.locator(f"#{page.get_attribute('.list', 'aria-activedescendant')}").get_attribute("data-key")
        == selected_key()
    )
    page.keyboard.press("/")
    page.keyboard.type("kettle")
    wait_until(page, "+document.querySelector('.count').dataset.found < RM.rows.count")
    page.fill("input[type=search]", "")
    page.keyboard.press("Escape")
    assert selected_key() == "" and page.evaluate("document.activeElement.className") == "list"


def test_a_sample_shows_its_verdict_its_scores_and_where_it_is_from(visit: Visit, rows: ReportRows) -> None:
    row = next(i for i, by in enumerate(rows.stopped_by) if by == "motion")
    page = visit.go(f"samples?key={rows.keys[row]}")
    page.wait_for_selector(".panel .said")
    text = page.locator(".panel").inner_text()
    verdict, sample = rows.verdicts.slice(row, 1).to_pylist()[0], rows.samples.slice(row, 1).to_pylist()[0]
    for detail in ("static", str(verdict["threshold"]), sample["media"][0]["sha256"], sample["container"], "CC0-1.0"):
        assert detail in text
    kept = next(i for i, o in enumerate(rows.outcome) if o == "kept" and rows.modality[i] == "video")
    page = visit.go(f"samples?key={rows.keys[kept]}")
    page.wait_for_selector(".panel .turns li")
    cited = page.locator(".panel .cite").all_inner_texts()
    assert cited and set(cited) <= set(page.locator(".panel .evidence tr.cited th").all_inner_texts())


def test_clips_play_and_pictures_load(visit: Visit, rows: ReportRows) -> None:
    page = visit.go("samples?modality=video")
    page.wait_for_selector(".row .moves")
    row = page.locator(".row:has(.moves)").first
    row.click()
    page.wait_for_selector(".panel video")
    page.evaluate("document.querySelector('.panel video').play()")
    wait_until(page, "document.querySelector('.panel video').currentTime > 0.1")
    assert page.evaluate("document.querySelector('.panel video').error") is None
    page = visit.go("samples?modality=image&outcome=kept")
    wait_until(page, "[...document.querySelectorAll('.row img')].some((i) => i.complete && i.naturalWidth > 0)")


#: Types values into each threshold's field and reads its answer: {name: [value]} -> {name: [[passes, open, kept]]}.
TYPED = """async (asked) => {
    const told = {};
    for (const [name, values] of Object.entries(asked)) {
        const card = document.querySelector(`article[data-name="${name}"]`);
        card.scrollIntoView();
        while (!card.dataset.ready) await new Promise(requestAnimationFrame);
        const field = card.querySelector("input[type=number]");
        told[name] = values.map((value) => {
            field.value = value;
            field.dispatchEvent(new Event("input"));
            const line = card.querySelector("tr[data-modality=all]").dataset;
            return [+line.passes, +line.open, +line.kept];
        });
    }
    return told;
}"""


def test_sliders_give_what_the_judge_gives(visit: Visit, run: Run, rows: ReportRows) -> None:
    finished = open_judged_run(run.out)
    page = visit.go("thresholds")
    for more in page.locator("details.more > summary").all():
        more.click()
    asked: dict[str, list[float]] = {}
    expected: dict[str, list[list[int]]] = {}
    for threshold in thresholds(finished.resolved, rows, finished.run.captions_optional):
        name = ".".join((threshold.filter, *threshold.path))
        asked[name] = [float(np.median(threshold.value[np.isfinite(threshold.value)])), 2.0]
        expected[name] = []
        for at in asked[name]:
            certain, possible = judge_again(finished, rows, threshold, at)
            kept = int((certain & (rows.outcome == "kept")).sum())
            expected[name].append([int(certain.sum()), int(possible.sum()), kept])
    assert page.locator("article.threshold").count() == len(asked)
    assert page.evaluate(TYPED, asked) == expected


def test_a_slider_moves_by_keyboard_and_back(visit: Visit) -> None:
    page = visit.go("thresholds/motion.min_score")
    page.wait_for_selector("article[data-name='motion.min_score'][data-ready]")
    card = page.locator("article[data-name='motion.min_score']")
    before = card.locator(".answer").inner_text()
    card.locator("input[type=range]").focus()
    page.keyboard.press("End")
    assert card.locator(".answer").inner_text() != before
    assert "filters.motion.min_score=" in card.locator(".command").inner_text()
    card.locator("button").click()
    assert card.locator(".answer").inner_text() == before


def test_duplicates_are_shown_side_by_side(visit: Visit, rows: ReportRows) -> None:
    page = visit.go("duplicates")
    page.wait_for_selector(".group")
    copies = int((rows.outcome == "duplicate").sum())
    assert copies >= 2 and page.locator(".member.copy").count() == copies
    page.locator(".chooser button[value=video]").click()
    assert page.locator(".group").count() == 1


@pytest.mark.parametrize("name", PAGES)
def test_no_content_overflows_a_narrow_window(browser: Any, report_folder: Path, name: str) -> None:
    visit = Visit(browser, f"file://{report_folder}", width=420)
    page = visit.go(name)
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    visit.done()


def test_a_list_longer_than_the_maximum_height_of_an_element(
    browser: Any, report_folder: Path, rows: ReportRows, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(report_folder, copied)
    script = copied / "static" / "samples.js"
    code = script.read_text()
    assert code.count("HIGHEST = 15_000_000") == 1
    script.write_text(code.replace("HIGHEST = 15_000_000", "HIGHEST = 1_000"))  # 16 rows and a bit
    visit = Visit(browser, f"file://{copied}")
    page = visit.go("samples")
    wait_for_count(page, len(rows))
    assert page.evaluate("document.querySelector('.sizer').clientHeight") == 1000
    assert keys(page) == rows.keys
    page.focus(".list")
    for key, row in (("Home", 0), ("End", len(rows) - 1), ("ArrowUp", len(rows) - 2), ("PageUp", None)):
        page.keyboard.press(key)
        page.wait_for_timeout(50)
        if row is not None:
            assert page.locator(".row[aria-selected=true]").get_attribute("data-key") == rows.keys[row]
        box, inside = page.locator(".row[aria-selected=true]").bounding_box(), page.locator(".list").bounding_box()
        # A pixel of the bar is nine of the list here.
        assert inside["y"] - 9 <= box["y"] and box["y"] + box["height"] <= inside["y"] + inside["height"] + 9
    visit.done()


@pytest.mark.parametrize("width", [1280, 420])
def test_a_mixture_is_one_page(browser: Any, run: Run, tmp_path: Path, width: int) -> None:
    mixture = world.mix(run, tmp_path / "mix")
    report.run(mixture.uri, str(tmp_path / "out"), quiet=True)
    visit = Visit(browser, f"file://{tmp_path / 'out'}", width)
    visit.page.goto(f"{visit.base}/index.html")
    visit.page.wait_for_selector("text=Shares against the recipe")
    text = visit.page.locator("main").inner_text()
    assert "<script>window.hacked = 10</script>" in text and "modality <b>text</b>" in text
    assert visit.page.locator(".mix.thin").count() == 3 and visit.page.locator("nav a").count() == 1
    visit.page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
    visit.done()


def test_a_damaged_report_says_so(browser: Any, report_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(report_folder, broken)
    (broken / "data" / "rows.js").unlink()
    visit = Visit(browser, f"file://{broken}")
    visit.page.goto(f"file://{broken}/index.html")
    visit.page.wait_for_selector("[role=alert]")
    assert "rows.js is missing" in visit.page.locator("[role=alert]").inner_text()
    visit.page.close()
