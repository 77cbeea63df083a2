"""The worker's image: what goes into it, its name, and docker's building and pushing of it."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from visiondyno.errors import OperationFailed, SpecError, Unavailable

DOCKERFILE = "deploy/runpod/Dockerfile"
PLATFORM = "linux/amd64"
"""Of RunPod's machines, whatever this one is."""

_NAME = re.compile(
    r"(?P<repository>(?:[A-Za-z0-9.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)
_SOURCES = ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "src")
"""What `Dockerfile.dockerignore` lets through."""
_NOT_SOURCES = re.compile(r"(^|/)__pycache__/|\.pyc$")
_LAST_WORDS = 20
_ANSWER_S = 30
_END_S = 10.0

Tell = Callable[[str], None]
"""Takes a line of docker's output."""


def split_image(image: str) -> tuple[str, bool]:
    """The repository of an image, and whether a tag or digest says which image of it.

    Raises:
        SpecError: it can't be an image's name.
    """
    match = _NAME.fullmatch(image)
    if match is None:
        raise SpecError(
            f"'{image:.200}' can't be an image's name; give one such as docker.io/USER/"
            "visiondyno-worker (in small letters), with a tag only where it has been pushed."
        )
    return match["repository"], bool(match["tag"] or match["digest"])


def tagged(repository: str, now_s: float) -> str:
    """`repository:YYYYMMDD-HHMMSS`, in UTC, of `now_s` seconds since the epoch."""
    return f"{repository}:{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now_s))}"


def find_context(given: Path | None, here: Path) -> Path:
    """The folder that the image is built from: `given`, or the checkout that `here` is in.

    Raises:
        SpecError: it holds no VisionDyno sources.
    """
    places = (here, *here.parents) if given is None else (given,)
    for place in places:
        if all((place / name).exists() for name in (DOCKERFILE, *_SOURCES)):
            return place.resolve()
    where = f"{given} isn't" if given is not None else "The command runs outside of"
    raise SpecError(
        f"{where} a checkout of VisionDyno, which the image is built from; run it in one, name "
        "one with --context DIR, or name an image that has been pushed: --image NAME:TAG."
    )


def source_digest(context: Path, build_args: Sequence[str] = ()) -> str:
    """SHA-256 of all that decides the image: its files, the Dockerfile, the build arguments.

    Raises:
        SpecError: a file can't be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(_source_files(context)):
            content = hashlib.sha256((context / path).read_bytes()).hexdigest()
            digest.update(f"{path}\0{content}\n".encode())
    except OSError as error:
        raise SpecError(
            f"{error.filename}, a part of the image, can't be read ({error.strerror}); make it "
            "readable."
        ) from error
    for argument in sorted(build_args):
        digest.update(f"{argument}\n".encode())
    return digest.hexdigest()


class Docker:
    """The `docker` command of this machine.

    What it starts doesn't outlive a call: an interrupt ends it before it goes on its way.

    Args:
        tell: takes each line that docker prints while it builds or pushes.

    Raises:
        Unavailable: there is no such command.
    """

    def __init__(self, tell: Tell) -> None:
        found = shutil.which("docker")
        if found is None:
            raise Unavailable(
                "The image is built with docker, which isn't on the PATH; install it "
                "(https://docs.docker.com/engine/install/), or name an image that has been "
                "pushed: --image NAME:TAG."
            )
        self._command = found
        self._tell = tell

    def check(self) -> None:
        """See that its daemon answers, and that it has BuildKit, which the Dockerfile needs.

        Raises:
            Unavailable: one of them is missing.
        """
        said = self._asked("version", "--format", "{{.Server.Version}}")
        if said is not None:
            raise Unavailable(
                f"docker's daemon doesn't answer ({said:.200}); start it, and see that you may use "
                "it: docker version."
            )
        if self._asked("buildx", "version") is not None:
            raise Unavailable(
                "docker has no buildx, which builds with BuildKit; install it "
                "(https://docs.docker.com/go/buildx/)."
            )

    def build(self, context: Path, image: str, build_args: Sequence[str] = ()) -> None:
        """Build `image` from the folder `context`.

        Raises:
            OperationFailed: docker couldn't; its last words are in `traceback`.
        """
        arguments = ["buildx", "build", "--load", "--progress", "plain", "--platform", PLATFORM]
        for argument in build_args:
            arguments += ["--build-arg", argument]
        arguments += ["-f", DOCKERFILE, "-t", image, "."]
        self._run(arguments, context, "build", "read its last lines above")

    def push(self, image: str) -> None:
        """Push `image`; errors as `build`."""
        first = image.split("/", maxsplit=1)[0]
        login = f"docker login {first}" if "." in first or ":" in first else "docker login"
        self._run(["push", image], Path.cwd(), "push", f"log in with '{login}' if it was refused")

    def _asked(self, *arguments: str) -> str | None:
        """None where docker is content; else its last words."""
        try:
            done = subprocess.run(  # noqa: S603 - the command that was found
                [self._command, *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                timeout=_ANSWER_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(
                f"docker doesn't answer ({type(error).__name__}); see that it runs: docker version."
            ) from error
        if not done.returncode:
            return None
        return (done.stderr.strip().splitlines() or ["no reason"])[-1]

    def _run(self, arguments: list[str], folder: Path, stage: str, next_step: str) -> None:
        last: deque[str] = deque(maxlen=_LAST_WORDS)
        process: subprocess.Popen[str] | None = None
        try:
            with _interrupts_wait():
                process = subprocess.Popen(  # noqa: S603 - the command that was found
                    [self._command, *arguments],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,  # an interrupt is ours to pass on, once
                )
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    last.append(line.rstrip())
                    self._tell(line.rstrip())
            code = process.wait()
        finally:
            if process is not None:
                _end(process)
        if code:
            raise OperationFailed(
                f"'docker {stage}' ended with code {code}; {next_step}, and run the command again.",
                stage=stage,
                traceback="\n".join(last),
            )


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits: of a process that has begun and isn't known yet, nobody could end it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # they are the main thread's
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _end(process: "subprocess.Popen[str]") -> None:
    """Interrupt it and all that it started, and kill what doesn't go."""
    if process.poll() is not None:
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
            return


def _source_files(context: Path) -> Iterator[str]:
    yield DOCKERFILE
    yield f"{DOCKERFILE}.dockerignore"
    for name in _SOURCES:
        top = context / name
        if not top.is_dir():
            yield name
            continue
        for path in top.rglob("*"):
            relative = path.relative_to(context).as_posix()
            if path.is_file() and not _NOT_SOURCES.search(relative):
                yield relative
