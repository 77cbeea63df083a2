"""The TypeScript client: its types are the server's, and it works against a real one in Node."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from live_api import LiveApi

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "clients" / "typescript"
NODE_FOR_GENERATOR = (20, 19)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=CLIENT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture(scope="module")
def packages() -> None:
    """The client's packages, as locked: without npm or a registry a skip, and a failure on CI."""
    if not os.environ.get("CI") and shutil.which("npm") is None:
        pytest.skip("npm isn't installed")
    done = run(str(ROOT / "scripts" / "setup_node.sh"), "clients/typescript")
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(done.stdout)
        pytest.skip(f"the client's packages can't be installed: {done.stdout[-500:]}")


def test_the_checked_in_openapi_document_is_the_server_s() -> None:
    done = run(sys.executable, str(ROOT / "scripts" / "openapi_document.py"), "--check")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_the_checked_in_types_are_those_of_the_document(tmp_path: Path) -> None:
    version = run("node", "--version").stdout.strip().removeprefix("v").split(".")
    if tuple(map(int, version[:2])) < NODE_FOR_GENERATOR:
        pytest.skip("the generator needs Node.js 20.19")
    done = run("npm", "run", "generate", VISIONDYNO_GENERATED=str(tmp_path / "generated"))
    assert done.returncode == 0, done.stdout
    made = {path.name: path.read_text() for path in (tmp_path / "generated").iterdir()}
    there = {path.name: path.read_text() for path in (CLIENT / "src" / "generated").iterdir()}
    assert made == there, "run 'npm run generate' in clients/typescript and commit src/generated"


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_the_client_submits_polls_streams_and_uploads_in_node(tmp_path: Path) -> None:
    with LiveApi(tmp_path, require_keys=True, rate_limit_per_minute=0) as api:
        done = run("npm", "test", VISIONDYNO_URL=api.url, VISIONDYNO_KEY=api.make_key())
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass [1-9]", done.stdout, flags=re.MULTILINE), done.stdout
    assert (CLIENT / "dist" / "index.d.ts").is_file()
