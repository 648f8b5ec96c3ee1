"""The smoke study's report as a reader opens it: in a browser, offline."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.ui import WebDriverWait

from sphere.files import SHORT, digest
from sphere.report.claims import TESTS
from sphere.report.figures import FIGURES
from sphere.report.tables import SUMMARIES, TABLES

from .conftest import ROOT, Workplace

FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
    *("disable-component-update", "disable-sync", "window-size=1600,1000"),
    "host-resolver-rules=MAP * ~NOTFOUND",  # there is no network: whatever the page fetched would fail
)
SECONDS = 60
"""How long a page may take to show something."""
FRAME = "return document.querySelector('#app iframe')?.src ?? null"
ROWS = "return [...document.querySelectorAll('tr')].map(row => [...row.cells].map(cell => cell.innerText.trim()))"

HEADLINE_WIDTH = """
    const pictures = [...document.querySelectorAll("#app .prose img")]
    return pictures.length === 1 && pictures[0].src.startsWith("data:") ? pictures[0].naturalWidth : 0"""
"""How wide the first page's figure is, which the page itself holds."""
LAST_POINT = """
    const view = Bokeh.index.find_one(plot);
    if (!view?.frame) return null;
    const data = plot.renderers.find(each => each.name === "sphere").data_source.data;
    const { x, y } = view.el.getBoundingClientRect();
    const box = document.getElementById("curve").getBoundingClientRect();
    const across = x + view.frame.x_scale.compute(data.edits.at(-1)) - box.x - box.width / 2;
    const down = y + view.frame.y_scale.compute(data.value.at(-1)) - box.y - box.height / 2;
    return [Math.round(across), Math.round(down)]"""
"""Where the last point of SPHERE is drawn, from the middle of the curve."""
TOOLTIP = """
    const inside = node => [...(node.shadowRoot ? [node.shadowRoot] : []), ...node.children];
    const texts = node => inside(node).flatMap(each => inside(each).length ? texts(each) : [each.textContent.trim()]);
    return texts(document.body).filter(text => text)"""
"""All texts of the page, those that the library shows too."""


class Page:
    """A report in a browser."""

    def __init__(self, browser: Chrome, report: Path, downloads: Path) -> None:
        self.browser, self.report, self.downloads = browser, report, downloads
        self.before: str | None = None

    def until(self, condition: Any) -> Any:
        return WebDriverWait(self.browser, SECONDS).until(lambda _: condition())

    def open(self, category: str = "") -> None:
        """The report's start, or one category's list."""
        self.browser.get(self.report.as_uri())
        self.until(lambda: self.browser.find_elements(By.CSS_SELECTOR, "#app nav li a"))
        if category:
            self.click(f"//nav//li/a[normalize-space()='{category}']")
            self.until(self.entries)

    def click(self, path: str) -> None:
        """Click what stands at an XPath, wherever the page's animations have it at the moment."""
        self.browser.execute_script("arguments[0].click()", self.browser.find_element(By.XPATH, path))

    def entries(self) -> list[str]:
        """The names that the open category lists."""
        return [cell.text for cell in self.browser.find_elements(By.CSS_SELECTOR, "nav tbody tr td:first-child")]

    def press(self, entry: str) -> None:
        """The eye beside an entry: shows a figure or table, downloads a file."""
        self.before = self.browser.execute_script(FRAME)
        self.click(f'//nav//tbody/tr[normalize-space(td[1])="{entry}"]//a')

    def downloaded(self, entry: str, size: int) -> Path:
        """What pressing an entry downloads, when it is there whole.

        The browser drops some of the downloads that follow each other quickly: what has not begun is asked for again.
        """
        copy = self.downloads / entry
        for _ in range(10):
            self.press(entry)
            with suppress(TimeoutException):
                WebDriverWait(self.browser, 3).until(lambda _: copy.exists() and copy.stat().st_size == size)
                return copy
        raise AssertionError(f"{entry} was asked for ten times and never came")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Inside the page that was pressed last."""
        self.until(lambda: self.browser.execute_script(FRAME) not in (None, self.before))
        self.browser.switch_to.frame(self.browser.find_element(By.CSS_SELECTOR, "#app iframe"))
        try:
            yield
        finally:
            self.browser.switch_to.default_content()

    def shown(self) -> list[list[str]]:
        """The rows of the tables of the page that was pressed last."""
        with self.inside():
            rows: list[list[str]] = self.until(lambda: self.browser.execute_script(ROWS))
            return rows


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Chrome, Path]]:
    """A headless Chromium with a profile of its own, and the folder its downloads go to."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.fail(f"{missing[0]} is not installed: .ci/packages says what it is in", pytrace=False)
    folder = tmp_path_factory.mktemp("browser")
    options = ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for flag in (*FLAGS, f"user-data-dir={folder / 'profile'}"):
        options.add_argument(f"--{flag}")
    several = {"profile.default_content_setting_values.automatic_downloads": 1}
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads"), **several})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=str(programs["chromedriver"])))
    yield driver, folder / "downloads"
    driver.quit()


@pytest.fixture
def page(finished: Workplace, browser: tuple[Chrome, Path]) -> Iterator[Page]:
    """The report; whatever a test does with it, the console has to stay without errors and the network unused."""
    driver, downloads = browser
    driver.get_log("browser")
    yield Page(driver, finished.study / "report.html", downloads)
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
    fetched = driver.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert [url for url in fetched if not url.startswith(("data:", "blob:", "file:"))] == []


def titles(kind: str, names: Iterable[str]) -> list[str]:
    """The first lines of captions, sorted."""
    folder = ROOT / "workflow" / "report"
    return sorted((folder / f"{kind}_{name}.rst").read_text(encoding="utf-8").splitlines()[0] for name in names)


def test_it_opens_and_lists_every_category(page: Page, tmp_path: Path) -> None:
    page.open()
    listed = [each.text for each in page.browser.find_elements(By.CSS_SELECTOR, "#app nav ul li a")]
    assert [name for name in listed if name not in ("Workflow", "Statistics", "About")] == [
        "Claims", "Data", "Explore", "Figures", "Provenance", "Tables",
    ]  # fmt: skip
    first = page.browser.find_element(By.ID, "app").text
    assert "hyperspherical energy" in first
    assert "What became of the claims" in first
    assert page.browser.execute_script(HEADLINE_WIDTH) > 100
    picture = Path(os.environ.get("SPHERE_SCREENSHOT", tmp_path / "report.png"))
    page.open("Figures")
    page.press("Energy and accuracy along the stream")
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#app .grow img"))
    assert page.browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 10_000


def test_every_figure_is_drawn(page: Page, finished: Workplace) -> None:
    page.open("Figures")
    assert sorted(page.entries()) == titles("figure", FIGURES)
    seen = set()
    for entry in page.entries():
        page.press(entry)
        width, height, across, source = page.until(lambda: picture_other_than(page, seen))
        assert width > 100, entry
        assert height > 50, entry
        assert across > 800, "large enough to read on a screen"
        seen.add(source)
    assert len(seen) == len(FIGURES), "every figure is another one"


def picture_other_than(page: Page, seen: set[str]) -> tuple[int, int, int, str] | None:
    """Natural width and height, width as shown and source of the picture on the page, once it was not seen before."""
    script = """const shown = document.querySelector("#app .overflow-auto .p-3 > img");
                return shown && shown.complete
                    ? [shown.naturalWidth, shown.naturalHeight, shown.clientWidth, shown.src] : null"""
    found = page.browser.execute_script(script)
    return tuple(found) if found and found[-1] not in seen else None


def test_every_table_is_shown(page: Page, finished: Workplace) -> None:
    page.open("Tables")
    assert sorted(page.entries()) == titles("table", TABLES)
    for name in TABLES:
        page.press(*titles("table", [name]))
        header, *rows = page.shown()
        written = pd.read_csv(finished.study / "tables" / f"{name}.csv")
        assert header[0] == "Model", name
        assert len(rows) == len(written), name
        assert not any("<" in cell for row in rows for cell in row), name


def test_the_claims_and_the_provenance_are_shown(page: Page, finished: Workplace) -> None:
    page.open("Claims")
    page.press(*titles("table", ["claims"]))
    assert [row[0] for row in page.shown()[1:]] == list(TESTS)
    page.open("Provenance")
    page.press("What made these results")
    cells = [cell for row in page.shown() for cell in row]
    assert {"train_model", "edit", "streams/zsre/seed0.json"} <= set(cells)
    assert digest(finished.study / "streams" / "zsre" / "seed0.json")[:SHORT] in cells


def test_a_person_picks_a_curve_hovers_and_takes_its_numbers(page: Page, finished: Workplace) -> None:
    page.open("Explore")
    page.press("Explore the results")
    find, run = page.browser.find_element, page.browser.execute_script
    with page.inside():
        page.until(lambda: run("return Boolean(window.Bokeh && plot && Bokeh.index.find_one(plot))"))
        for name, value in (("dataset", "zsre"), ("family", "token_accuracy"), ("metric", "specificity")):
            Select(find(By.ID, name)).select_by_value(value)
        find(By.CSS_SELECTOR, "#methods input[value=memit]").click()  # not this one
        assert run("return plot.legend.items.map(item => item.label.value)") == ["Pre-edited", "In context", "SPHERE"]
        assert run("return plot.below.concat(plot.left).map(axis => axis.axis_label)") == [
            "Edits made", "specificity (token accuracy)",
        ]  # fmt: skip
        across, down = page.until(lambda: run(LAST_POINT))
        ActionChains(page.browser).move_to_element_with_offset(find(By.ID, "curve"), across, down).perform()
        page.until(lambda: {"SPHERE", "edits:", "8"} <= set(run(TOOLTIP)))
        find(By.ID, "download").click()
    wanted = page.downloads / "smoke-smoke-zsre-token_accuracy-specificity.csv"
    page.until(lambda: wanted.exists() and wanted.stat().st_size)
    taken = pd.read_csv(wanted)
    records = pd.read_csv(finished.study / "smoke" / "zsre" / "sphere" / "seed0" / "edits8" / "editing.csv")
    last = taken[(taken["method"] == "sphere") & (taken["edits"] == 8)]
    assert last["value"].item() == pytest.approx(records["token_accuracy_specificity"].mean())
    assert set(taken["method"]) == {"pre-edited", "in-context", "sphere"}


def test_the_wall_times_are_drawn(page: Page) -> None:
    page.open()
    page.click("//nav//li/a[normalize-space()='Statistics']")
    page.until(lambda: page.browser.find_elements(By.CSS_SELECTOR, "#runtimes canvas, #runtimes svg"))


def test_every_data_file_downloads_as_it_is(page: Page, finished: Workplace) -> None:
    page.open("Data")
    others = (*SUMMARIES, "neuron_cosine", "claims", "claims_detail", "artefacts")
    assert set(page.entries()) == {*(f"{name}.csv" for name in (*TABLES, *others)), "results.parquet"}
    for name in page.entries():
        places = [finished.study / folder / name for folder in ("tables", "claims", "")]
        original = next(path for path in places if path.exists())
        assert page.downloaded(name, original.stat().st_size).read_bytes() == original.read_bytes(), name
