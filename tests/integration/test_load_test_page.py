"""A load test's page in a real browser with the network cut off."""

import pytest

from load_test_factory import a_cold_start, a_result, a_search, a_target, some_strategies
from visiondyno.report.load_test_html import load_test_html

pytestmark = pytest.mark.browser

TESTS = {
    "one": lambda: a_result(
        a_target("detector", bad=12, timeouts=[4], search=a_search(), cold_starts=(a_cold_start(),))
    ),
    "two": lambda: a_result(
        a_target("old", latencies_ms=[20.0, 23.0, 21.0]),
        a_target("a-server-with-a-very-long-name", latencies_ms=[25.0, 26.0, 29.0], timeouts=[2]),
        strategies=some_strategies(),
        was_stopped=True,
    ),
}


@pytest.fixture(scope="module", params=TESTS)
def load_page(request, tmp_path_factory):
    file = tmp_path_factory.mktemp(request.param) / "loadtest.html"
    file.write_text(load_test_html(TESTS[request.param]()), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_a_load_tests_page_opens_alone_and_fits(browser, load_page, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(load_page.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    figures = page.locator("figure.plot").all()
    assert len(figures) >= 6
    for figure in figures:
        (shown,) = [one for one in figure.locator("svg:not(.key)").all() if one.is_visible()]
        size = shown.locator("text").first.evaluate(
            "e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a"
        )
        assert size >= 9
    assert problems == []
    assert [url for url in requests if not url.startswith("data:")] == [load_page.as_uri()]
    context.close()
