"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The machines are noisy: how long an example takes says nothing about the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]

# Rendered scenes and cached passes of the tests stay in the checkout, shared by all test processes.
os.environ["XDG_CACHE_HOME"] = str(ROOT / ".cache")

SHARED_TESTDATA = Path(__file__).resolve().parents[2] / "shared" / "testdata"


@pytest.fixture(scope="session")
def shared_testdata() -> Path:
    """Real models and images beside the checkout: absent is a skip here and a failure on CI."""
    if not SHARED_TESTDATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{SHARED_TESTDATA} is absent on CI")
        pytest.skip("no ../shared/testdata beside this checkout")
    return SHARED_TESTDATA
