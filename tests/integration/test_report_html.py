"""The report in a real browser with the network cut off."""

import pytest

from comparison_factory import (
    classifier_comparison,
    depth_comparison,
    detector_comparison,
    failing_comparison,
    many_detectors_comparison,
    merged_comparison,
    scenario_comparison,
)
from visiondyno.report.write import write_report

pytestmark = pytest.mark.browser

COMPARISONS = {
    "detectors": detector_comparison,
    "many": many_detectors_comparison,
    "classifiers": classifier_comparison,
    "failing": failing_comparison,
    "scenarios": scenario_comparison,
    "depth": depth_comparison,
    "merged": merged_comparison,
}


class Opened:
    """A report's page, with everything the browser complained about or asked for."""

    def __init__(self, browser, file, width, scheme="light", script=True):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=script,
        )
        self.page = self.context.new_page()
        self.problems, self.requests = [], []
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.route("**/*", self._only_files)
        self.page.goto(file.as_uri())

    @staticmethod
    def _only_files(route):
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            route.abort()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture(scope="module", params=COMPARISONS)
def report(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return write_report(COMPARISONS[request.param](), folder)["html"]


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    return write_report(detector_comparison(), tmp_path_factory.mktemp("detectors"))["html"]


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (800, "dark"), (390, "light")])
def test_it_opens_alone_and_fits(browser, report, width, scheme):
    with Opened(browser, report, width, scheme) as opened:
        assert opened.problems == []
        outside = [url for url in opened.requests if not url.startswith(("file:", "data:"))]
        assert outside == []
        assert opened.requests[0] == report.as_uri()
        assert len([url for url in opened.requests if url.startswith("file:")]) == 1
        opened.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [1400, 390])
def test_every_plot_shows_one_drawing_of_a_readable_size(browser, detectors, width):
    with Opened(browser, detectors, width) as opened:
        figures = opened.page.locator("figure.plot")
        assert figures.count() > 10
        for index in range(figures.count()):
            drawings = figures.nth(index).locator("svg:not(.key)")
            shown = [d for d in drawings.all() if d.is_visible()]
            assert len(shown) == 1
            size = (
                shown[0]
                .locator("text")
                .first.evaluate(
                    "e => parseFloat(getComputedStyle(e).fontSize)"
                    " * e.ownerSVGElement.getScreenCTM().a"
                )
            )
            assert size >= 9


def test_the_sections_stand_in_order(browser, detectors):
    with Opened(browser, detectors, 1400) as opened:
        heads = opened.page.locator("h2").all_inner_texts()
        assert heads == [
            "Winners",
            "Results",
            "Trade-offs",
            "Latency",
            "Accuracy",
            "Worst images",
            "Speed, memory, energy and cost",
            "Differences",
            "Environment",
            "Method",
            "Reproduce",
        ]
        assert opened.page.get_by_role("status").inner_text().startswith("The machine was quiet")


def test_history_and_scenarios_stand_after_what_they_explain(browser, tmp_path):
    with Opened(browser, write_report(merged_comparison(), tmp_path)["html"], 1400) as opened:
        heads = opened.page.locator("h2").all_inner_texts()
        assert heads[1:4] == ["Results", "History", "Trade-offs"]
    with Opened(browser, write_report(scenario_comparison(), tmp_path)["html"], 1400) as opened:
        heads = opened.page.locator("h2").all_inner_texts()
        assert heads[3:6] == ["Latency", "Scenarios", "Accuracy"]


@pytest.mark.parametrize("width", [1400, 1200])
def test_a_winners_name_stays_on_one_line(browser, tmp_path, width):
    rows = (("yolox_nano_416", 0.5, 9.0, 90.0, 0.4), ("other", 0.3, 8.0, 80.0, 0.3))
    file = write_report(detector_comparison(rows, energy="measured"), tmp_path)["html"]
    with Opened(browser, file, width) as opened:
        names = opened.page.locator(".winner .who > span", has_text="yolox_nano_416")
        assert names.count() >= 1
        for name in names.all():
            height = name.evaluate("e => e.getBoundingClientRect().height")
            line = name.evaluate("e => parseFloat(getComputedStyle(e).lineHeight)")
            assert height < 1.5 * line


def column(opened, index):
    rows = opened.page.locator("table.results tbody tr")
    return [
        rows.nth(i).locator("th, td").nth(index).get_attribute("data-sort")
        for i in range(rows.count())
    ]


def test_columns_sort_both_ways(browser, detectors):
    with Opened(browser, detectors, 1400) as opened:
        before = [float(v) for v in column(opened, 1)]
        button = opened.page.locator("table.results thead button").nth(1)
        button.click()
        head = opened.page.locator("table.results thead th").nth(1)
        assert head.get_attribute("aria-sort") == "ascending"
        assert [float(v) for v in column(opened, 1)] == sorted(before)
        button.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert [float(v) for v in column(opened, 1)] == sorted(before, reverse=True)
        opened.page.locator("table.results thead button").nth(0).click()
        assert column(opened, 0) == sorted(column(opened, 0))
        assert head.get_attribute("aria-sort") == "none"


def test_what_was_not_measured_sorts_last_both_ways(browser, tmp_path):
    base = detector_comparison(energy="measured")
    gap = detector_comparison(energy="absent").models[1]
    comparison = base.model_copy(update={"models": (base.models[0], gap, base.models[2])})
    with Opened(browser, write_report(comparison, tmp_path)["html"], 1400) as opened:
        heads = opened.page.locator("table.results thead th").all_inner_texts()
        place = next(i for i, text in enumerate(heads) if text.startswith("Energy"))
        button = opened.page.locator("table.results thead button").nth(place)
        for _ in range(2):
            button.click()
            assert column(opened, place)[-1] == ""


def test_boxes_can_be_hidden(browser, detectors):
    with Opened(browser, detectors, 1400) as opened:
        missed = opened.page.locator(".shot .missed").first
        assert missed.is_visible()
        opened.page.get_by_label("missed object").uncheck()
        assert not missed.is_visible()
        assert opened.page.locator(".shot .false").first.is_visible()


def test_the_yaml_copies_or_is_selected(browser, detectors):
    with Opened(browser, detectors, 1400) as opened:
        button = opened.page.locator("button.copy")
        button.click()
        opened.page.wait_for_function(
            "document.querySelector('button.copy').textContent !== 'Copy'"
        )
        assert button.inner_text() in {"Copied", "Selected"}


def test_it_is_whole_without_javascript(browser, detectors):
    with Opened(browser, detectors, 1400, script=False) as opened:
        assert opened.page.locator("table.results tbody tr").count() == 3
        assert not opened.page.locator("button.copy").is_visible()


def test_dark_and_light_differ_and_text_keeps_its_contrast(browser, detectors):
    grounds = {}
    for scheme in ("light", "dark"):
        with Opened(browser, detectors, 1400, scheme) as opened:
            for selector in (".subtitle", ".winner .why", ".results .interval", ".banner strong"):
                ratio = opened.page.locator(selector).first.evaluate(_CONTRAST)
                assert ratio >= 4.5, (scheme, selector, ratio)
            grounds[scheme] = opened.page.evaluate(
                "getComputedStyle(document.body).backgroundColor"
            )
    assert grounds["light"] != grounds["dark"]


_CONTRAST = """element => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let ground = element;
  while (/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(ground).backgroundColor))
    ground = ground.parentElement;
  const a = light(getComputedStyle(element).color);
  const b = light(getComputedStyle(ground).backgroundColor);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def test_printing_opens_what_is_folded(browser, detectors):
    with Opened(browser, detectors, 1000) as opened:
        details = opened.page.locator("details:not([open])")
        folded = details.count()
        assert folded
        opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert details.count() == 0
        opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert details.count() == folded
