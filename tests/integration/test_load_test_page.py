"""A load test's page in a real browser with the network cut off."""

import pytest

from load_test_factory import a_cold_start, a_result, a_search, a_target, some_strategies
from page_checks import check_page_opens_alone
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
    check_page_opens_alone(browser, load_page, width, scheme, least_figures=6)
