"""What the images do when they are built and run, done without docker: in folders of our own.

The build stage's commands are run as they stand, but for the root of their paths. What can't be
done here is the base images, apt's packages and torch.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from image_files import DOCKER, ROOT, dyno_words, environment, final_stage, read_stages

from services import RedisInstance, free_port, until
from visiondyno import __version__

pytestmark = pytest.mark.slow

ARGUMENTS = {"TORCH": "", "EXTRAS": "redis,s3,otel"}
"""Of worker-cpu: the smaller image that its file tells of."""

# In python:*-slim-bookworm and in Ubuntu's CUDA images, beside the C library's own.
_PRESENT = re.compile(
    r"(linux-vdso|ld-linux-\S+|lib(c|m|dl|pthread|rt|util|resolv|gcc_s|stdc\+\+|z|crypt))(\.so\S*)?"
)


class Image:
    """A built image: its root is a folder."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.home = self._inside(environment(name)["VISIONDYNO_HOME"])

    def _inside(self, text: str) -> str:
        return re.sub(r"(?<![\w/.])/(?=opt/|build\b|var/lib/visiondyno)", f"{self.root}/", text)

    def build(self) -> None:
        """Run the commands of the build stage, then put the final stage's files in place."""
        (stage,) = (s for s in read_stages(DOCKER / f"{self.name}.Dockerfile") if s.name == "build")
        context = self.root / stage.last("WORKDIR").rest.lstrip("/")
        context.mkdir(parents=True)
        (self.root / "opt").mkdir()
        environ = {**os.environ, "DEVICE": "cpu"}
        for each in stage.instructions:
            if each.name == "COPY":
                *sources, target = each.words
                self._copy(sources, context / target)
            elif each.name == "ARG":
                key, _, value = each.words[0].partition("=")
                if value or key not in environ:
                    environ[key] = ARGUMENTS.get(key, value) if "worker" in self.name else value
            elif each.name == "RUN":
                command = self._inside(each.rest).replace("python3 -m venv", f"{_python()} -m venv")
                done = subprocess.run(
                    ["sh", "-ec", command],
                    cwd=context,
                    env=environ,
                    check=False,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                assert done.returncode == 0, f"{command}\n{done.stdout}"
        for each in final_stage(self.name).all("COPY"):
            if not each.flags:
                *sources, target = each.words
                self._copy(sources, Path(self._inside(target)))
        Path(self.home).mkdir(parents=True)

    def _copy(self, sources: list[str], target: Path) -> None:
        for source in sources:
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, target, ignore=skip)
            else:
                shutil.copy(ROOT / source, target)

    def environ(self, **more: str) -> dict[str, str]:
        """What a container sees, and nothing of this process."""
        image = {key: self._inside(value) for key, value in environment(self.name).items()}
        path = image["PATH"].replace("$PATH", os.environ["PATH"])
        return {**image, "PATH": path, "OMP_NUM_THREADS": "1", **more}

    @contextmanager
    def running(
        self, environ: dict[str, str], *arguments: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """The container's process with its log in `log`; killed at the end if it still runs."""
        words = dyno_words(self.name, list(arguments) or None)
        with (self.root / "log").open("wb") as log:
            process = subprocess.Popen(
                [self.root / "opt/visiondyno/bin/dyno", *words],
                cwd=self.home,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def health(self, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run the image's health check once."""
        check = final_stage(self.name).last("HEALTHCHECK").rest.removeprefix("CMD ")
        words = [self._inside(word) for word in json.loads(check)]
        words[0] = f"{self.root}/opt/visiondyno/bin/{words[0]}"
        return subprocess.run(
            words, check=False, cwd=self.home, env=environ, text=True, capture_output=True
        )

    def becomes_well(self, environ: dict[str, str], process: subprocess.Popen[bytes]) -> None:
        """Wait for the health check to succeed."""
        log = self.root / "log"
        well = until(lambda: self.health(environ).returncode == 0, process, log)
        assert well, log.read_text(errors="replace")

    def files(self) -> dict[str, int]:
        """What a read-only root file system would hold, with the times of the last change."""
        inside = (self.root / "opt/visiondyno").rglob("*")
        return {str(path): path.stat().st_mtime_ns for path in inside if path.is_file()}


def _python() -> str:
    return os.path.realpath("/proc/self/exe")


def _built(name: str, tmp_path_factory: pytest.TempPathFactory) -> Image:
    image = Image(name, tmp_path_factory.mktemp(name))
    image.build()
    return image


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _built("api", tmp_path_factory)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _built("worker-cpu", tmp_path_factory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return _built("serve", tmp_path_factory)


def _foreign_libraries(image: Image) -> set[str]:
    found: set[str] = set()
    own = list((image.root / "opt/visiondyno").rglob("*.so*"))
    for library in own:
        told = subprocess.run(
            ["ldd", library], check=False, text=True, stdout=subprocess.PIPE
        ).stdout
        for line in told.splitlines():
            name, _, where = line.strip().partition(" => ")
            if str(image.root) not in where:
                found.add(Path(name.split()[0]).name)
    found -= {"statically", *(library.name for library in own)}
    return {name for name in found if not _PRESENT.fullmatch(name)}


def test_the_api_starts_on_redis_and_postgresql_and_ends_by_sigterm(
    api: Image, redis_url: str, postgres_url: str
) -> None:
    before = api.files()
    port = str(free_port())
    environ = api.environ(
        VISIONDYNO_PORT=port, VISIONDYNO_REDIS_URL=redis_url, VISIONDYNO_DATABASE_URL=postgres_url
    )
    assert "doesn't answer" in api.health(environ).stderr
    with api.running(environ, "db", "upgrade") as upgrading:
        assert upgrading.wait(120) == 0, (api.root / "log").read_text()
    with api.running(environ) as process:
        api.becomes_well(environ, process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert json.load(answer) == {"status": "ok", "version": __version__}
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert "API key, shown this once" in (api.root / "log").read_text()
    assert api.files() == before
    assert api.health(environ).returncode == 1


def test_a_worker_is_well_while_redis_knows_it(
    worker: Image, redis_instance: RedisInstance
) -> None:
    redis_instance.flush()
    before = worker.files()
    environ = worker.environ(VISIONDYNO_REDIS_URL=redis_instance.url)
    assert "knows no worker" in worker.health(environ).stderr
    with worker.running(environ) as process:
        worker.becomes_well(environ, process)
        assert "knows no worker" in worker.health({**environ, "WORKER_ID": "another"}).stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "knows no worker" in worker.health(environ).stderr
    assert worker.files() == before
    del environ["VISIONDYNO_REDIS_URL"]
    assert "VISIONDYNO_REDIS_URL isn't set" in worker.health(environ).stderr
    nowhere = worker.health({**environ, "VISIONDYNO_REDIS_URL": f"redis://127.0.0.1:{free_port()}"})
    assert nowhere.returncode == 1
    assert "Traceback" not in nowhere.stderr


def test_server_and_worker_do_a_job_together(
    api: Image, worker: Image, redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    port = str(free_port())
    both = {"VISIONDYNO_REDIS_URL": redis_url, "VISIONDYNO_BLOBS_URL": tmp_path.as_uri()}
    serving = api.environ(**both, VISIONDYNO_PORT=port, VISIONDYNO_DATABASE_URL=postgres_url)
    working = worker.environ(**both)
    with api.running(serving, "db", "upgrade") as upgrading:
        assert upgrading.wait(120) == 0
    with api.running(serving) as server, worker.running(working) as workers:
        api.becomes_well(serving, server)
        worker.becomes_well(working, workers)
        (key,) = re.findall(r"API key, shown this once: (\S+)", (api.root / "log").read_text())
        dyno, url = api.root / "opt/visiondyno/bin/dyno", f"http://127.0.0.1:{port}"
        tried = subprocess.run(
            [dyno, "doctor", "--json", "--server", url, "--api-key", key],
            check=False,
            env=api.environ(),
            cwd=tmp_path,
            text=True,
            capture_output=True,
        )
        assert tried.returncode == 0, tried.stdout + tried.stderr


def test_the_inference_server_is_well_when_it_is_ready(server: Image) -> None:
    before = server.files()
    port = str(free_port())
    environ = server.environ(PORT=port)
    assert "doesn't answer" in server.health(environ).stderr
    with server.running(environ) as process:
        server.becomes_well(environ, process)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert server.files() == before


def test_nothing_is_needed_of_the_system_that_base_images_lack(api: Image, worker: Image) -> None:
    assert _foreign_libraries(api) == set()
    assert _foreign_libraries(worker) == set()
