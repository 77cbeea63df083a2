"""A study's page in a real browser with the network cut off."""

import pytest

from page_checks import check_page_opens_alone
from study_results_factory import a_result
from visiondyno.report.tuning import study_html
from visiondyno.tuning.results import study_results

pytestmark = pytest.mark.browser

STUDIES = {
    "many": lambda: a_result(paid=True),
    "front": lambda: a_result(objectives=("val_accuracy", "latency_ms"), stopped="It ended."),
    "none": lambda: a_result(0),
}


@pytest.fixture(scope="module", params=STUDIES)
def page_file(request, tmp_path_factory):
    file = tmp_path_factory.mktemp(request.param) / "study.html"
    file.write_text(study_html(study_results(STUDIES[request.param]())), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (800, "dark"), (400, "light")])
def test_a_studys_page_opens_alone_and_fits(browser, page_file, width, scheme):
    check_page_opens_alone(browser, page_file, width, scheme)


def test_trials_are_sorted_by_a_click(browser, tmp_path):
    file = tmp_path / "study.html"
    file.write_text(study_html(study_results(a_result())), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(file.as_uri())
    table = page.get_by_role("region", name="Every trial")
    table.get_by_role("button", name="Seconds").click()
    cells = table.locator("tbody tr td:nth-last-child(3)").all_inner_texts()
    seconds = [float(cell) for cell in cells]
    assert len(seconds) == 40
    assert seconds == sorted(seconds)
    context.close()
