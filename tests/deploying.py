"""`dyno deploy` on a machine with a stand-in for docker, which keeps what it was told."""

import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from visiondyno.cli.deploy import command as deploy

BLOBS = "VISIONDYNO_BLOBS_URL=https://vd.example.com/blobs"
IMAGE = "docker.io/u/worker"
DOCKER = """#!/bin/sh
echo "$*" >> "$DOCKER_LOG"
what=$1
[ "$1" = buildx ] && what=$2
case "$*" in
  "buildx version") [ -z "$DOCKER_LACKS_BUILDX" ] && exit 0; echo "unknown command" >&2; exit 1;;
  version*) [ -z "$DOCKER_DOWN" ] && echo 28.0 && exit 0; echo "no daemon" >&2; exit 1;;
esac
echo "step of $what"
[ "$DOCKER_SLEEPS" = "$what" ] && sleep 612.5
if [ "$DOCKER_FAILS" = "$what" ]; then echo "the reason of $what" >&2; exit 7; fi
exit 0
"""


class Machine:
    """Its home, its checkout, its docker and what that was told."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.checkout = a_checkout(folder / "checkout")
        self.log = folder / "docker.log"
        self.tried: list[dict[str, Any]] = []

    @property
    def docker(self) -> list[str]:
        """What docker was told, without looks at its version."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if "version" not in line]

    def images(self) -> list[str]:
        """What was pushed."""
        return [line.split()[1] for line in self.docker if line.startswith("push")]


def dyno_deploy(*arguments: str) -> Result:
    return CliRunner().invoke(deploy, list(arguments))


def well(*arguments: str) -> Result:
    """A deployment that succeeds."""
    result = dyno_deploy("runpod", "--env", BLOBS, *arguments)
    assert result.exception is None, (result.exception, result.stderr)
    return result


def refused(kind: type[BaseException], says: str, *arguments: str) -> Result:
    """One that ends with this error."""
    result = dyno_deploy("runpod", "--env", BLOBS, *arguments)
    assert isinstance(result.exception, kind), result.exception
    assert re.search(says, str(result.exception)), result.exception
    return result


def a_checkout(folder: Path) -> Path:
    """A folder with all that the image is built from, in miniature."""
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "src/a.py",
                 "deploy/runpod/Dockerfile", "deploy/runpod/Dockerfile.dockerignore"):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return folder
