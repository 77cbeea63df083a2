"""Servers with their dashboard, asked as a browser without JavaScript asks."""

import pytest

from live_site import LiveSite, run_page_operation


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with LiveSite(tmp_path_factory.mktemp("site"), run_page_operation) as started:
        yield started


@pytest.fixture
def browser(site):
    with site.browse() as client:
        yield client


@pytest.fixture
def new_site(tmp_path):
    with LiveSite(tmp_path, run_page_operation) as started:
        yield started
