"""What a user gets: the built wheel, installed alone, runs the demo from any folder."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import visiondyno

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run without anything of this checkout in the environment."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COV", "COVERAGE"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    out = tmp_path_factory.mktemp("dist")
    # The wheel is made from the source archive, so both are tried at once.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    (wheel,) = built.glob("*.whl")
    pins = ROOT / "constraints.txt"
    run(folder / "bin" / "pip", "install", "-q", "-c", pins, wheel, cwd=folder)
    return folder / "bin"


def test_the_wheel_holds_all_that_it_needs(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"visiondyno-{visiondyno.__version__}.dist-info"
    assert {
        "visiondyno/py.typed",
        "visiondyno/shipped/street-n.onnx",
        "visiondyno/shipped/street-s.onnx",
        "visiondyno/shipped/street-n.training.json",
        "visiondyno/shipped/street-s.training.json",
        f"{info}/licenses/LICENSE",
        f"{info}/entry_points.txt",
    } <= names
    in_checkout = {
        f"visiondyno/{path.relative_to(ROOT / 'src' / 'visiondyno').as_posix()}"
        for path in (ROOT / "src" / "visiondyno").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    kinds = {name.rpartition(".")[2] for name in in_checkout}
    assert {"py", "lua", "j2", "yaml", "js", "onnx"} <= kinds
    assert in_checkout <= names
    assert {name.split("/")[0] for name in names} == {"visiondyno", info}


def test_the_source_archive_can_be_tested_and_built(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt"} <= names
    assert "tests/system/test_wheel.py" in names
    assert not [name for name in names if name.startswith((".venv", ".ci", "demo-report"))]


def test_the_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    said = run(installed / "dyno", "--version", cwd=tmp_path).stdout
    assert visiondyno.__version__ in said


def test_the_package_is_the_wheel_and_has_no_torch(installed: Path, tmp_path: Path) -> None:
    code = (
        "import importlib.util, visiondyno; "
        "print(visiondyno.__file__, importlib.util.find_spec('torch'))"
    )
    said = run(installed / "python", "-c", code, cwd=tmp_path).stdout.split()
    assert Path(said[0]).is_relative_to(installed.parent)
    assert said[1] == "None"


def test_the_server_runs_a_job_from_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    command = [installed / "dyno", "up", "--port", "0", "--home", tmp_path]
    server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().split(" is up at ")[1].split()[0]
        done = run(installed / "dyno", "doctor", "--server", url, cwd=tmp_path)
        assert "✗" not in done.stdout
        assert done.stdout.count("✓") >= 4
    finally:
        server.terminate()
        server.wait(60)
        if server.stdout is not None:
            server.stdout.close()


def test_the_demo_runs_from_an_unrelated_folder(installed: Path, tmp_path: Path) -> None:
    done = run(installed / "dyno", "demo", "--out", tmp_path / "report", cwd=tmp_path)
    html = tmp_path / "report" / "report.html"
    assert str(html) in done.stdout.replace("\n", "")
    assert "<html" in html.read_text(encoding="utf-8")
    record = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert record["schema"] == "visiondyno.comparison/1"
    assert {model["reference"] for model in record["models"]} == {
        "visiondyno:street-n",
        "visiondyno:street-s",
    }
    assert all(model["measures"]["map_50_95"]["value"] > 0 for model in record["models"])
