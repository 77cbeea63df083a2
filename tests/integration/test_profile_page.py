"""A profile's page in a real browser with the network cut off."""

import pytest

from page_checks import check_page_opens_alone
from profile_factory import a_profile
from visiondyno.report.profile import profile_html

pytestmark = pytest.mark.browser

PROFILES = {
    "scoped": a_profile,
    "flat": lambda: a_profile(scoped=False, inference_ms=60, quiet=False, disturbances=("Noise.",)),
    "no-peak": lambda: a_profile(gflop_per_s=None, notes=("A note <b>.",), advice=()),
}


@pytest.fixture(scope="module", params=PROFILES)
def page_file(request, tmp_path_factory):
    file = tmp_path_factory.mktemp(request.param) / "profile.html"
    file.write_text(profile_html(PROFILES[request.param]()), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_profiles_page_opens_alone_and_fits(browser, page_file, width, scheme):
    check_page_opens_alone(browser, page_file, width, scheme, least_figures=1)


def test_operators_are_sorted_by_a_click(browser, tmp_path):
    file = tmp_path / "profile.html"
    file.write_text(profile_html(a_profile()), encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(file.as_uri())
    table = page.get_by_role("region", name="Operators", exact=True)
    cells = table.locator("tbody tr td:nth-child(3)")
    shown = [float(text) for text in cells.all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    table.get_by_role("button", name="Time").click()
    assert [float(text) for text in cells.all_inner_texts()] == sorted(shown)
    context.close()
