"""Reads Dockerfiles: stages with their instructions, and what the image is in the end."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCKER = ROOT / "deploy/docker"
NAMES = ("api", "serve", "worker-cpu", "worker-cuda")

# https://docs.docker.com/reference/dockerfile/, but for what these files have no use for.
KNOWN = {
    *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK"),
    *("LABEL", "RUN", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


@dataclass(frozen=True)
class Instruction:
    """One instruction, continuation lines joined, without leading flags such as `--from=build`."""

    name: str
    flags: tuple[str, ...]
    rest: str

    @property
    def words(self) -> list[str]:
        """Of the exec form, else of a shell-like splitting."""
        if self.rest.startswith("["):
            words = json.loads(self.rest)
            assert all(isinstance(word, str) for word in words), self.rest
            return list(words)
        return shlex.split(self.rest)


@dataclass
class Stage:
    """What stands between one FROM and the next; arguments are expanded where they are known."""

    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """The stage's instructions of this name, in order."""
        return [each for each in self.instructions if each.name == name]

    def last(self, name: str) -> Instruction:
        """The one that counts of those of which the last does."""
        return self.all(name)[-1]

    def pairs(self, name: str) -> dict[str, str]:
        """`KEY=VALUE` of ENV, LABEL or ARG."""
        found = {}
        for each in self.all(name):
            for word in each.words:
                key, _, value = word.partition("=")
                found[key] = value
        return found


def read_instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile; a word that is none fails the test."""
    lines = [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    found = []
    for logical in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = logical.strip().partition(" ")
        assert name in KNOWN, f"no instruction of ours: {logical}"
        rest = re.sub(r" +", " ", rest.strip())
        flags = []
        while (match := re.match(r"(--[a-z-]+=\S+) ", rest)) and name != "CMD":
            flags.append(match.group(1))
            rest = rest[match.end() :]
        found.append(Instruction(name, tuple(flags), rest))
    return found


def read_stages(path: Path, **arguments: str) -> list[Stage]:
    """The stages of a Dockerfile, with the build arguments before the first FROM applied."""
    given: dict[str, str] = {}
    stages: list[Stage] = []
    for each in read_instructions(path.read_text(encoding="utf-8")):
        if each.name == "ARG" and not stages:
            key, _, value = each.rest.partition("=")
            given[key] = arguments.get(key, value)
        elif each.name == "FROM":
            words = expanded(each.rest, given).split()
            assert len(words) == 1 or (len(words) == 3 and words[1] == "AS"), each.rest
            stages.append(Stage(words[0], words[2] if len(words) == 3 else None))
        else:
            stages[-1].instructions.append(each)
    return stages


def expanded(text: str, values: dict[str, str]) -> str:
    """`text` with `$NAME` and `${NAME}` replaced where they are known."""
    return re.sub(r"\$\{?([A-Z_]+)\}?", lambda m: values.get(m.group(1), m.group(0)), text)


def final_stage(name: str) -> Stage:
    """The last stage of the image called `name`."""
    return read_stages(DOCKER / f"{name}.Dockerfile")[-1]


def environment(name: str) -> dict[str, str]:
    """What the image sets in the environment."""
    return final_stage(name).pairs("ENV")


def ports(name: str) -> set[int]:
    """What the image exposes."""
    return {int(word) for each in final_stage(name).all("EXPOSE") for word in each.words}


def volumes(name: str) -> set[str]:
    """Folders that the image keeps writable."""
    return {word for each in final_stage(name).all("VOLUME") for word in each.words}


def user(name: str) -> str:
    """`UID:GID` that the image runs as."""
    return final_stage(name).last("USER").rest


def dyno_words(name: str, arguments: list[str] | None) -> list[str]:
    """What follows `dyno` when the image is run with `arguments` (None: its own)."""
    stage = final_stage(name)
    words = stage.last("ENTRYPOINT").words
    assert words[:3] == ["tini", "--", "dyno"], words
    return [*words[3:], *(stage.last("CMD").words if arguments is None else arguments)]


def image_called(reference: str) -> str | None:
    """Which of ours `[REGISTRY/]visiondyno-NAME:TAG` is, or None for somebody else's."""
    match = re.fullmatch(r"(?:[a-z0-9.-]+(?::\d+)?/)?visiondyno-([a-z-]+)(?::[\w.-]+)?", reference)
    return match.group(1) if match and match.group(1) in NAMES else None


def tag(reference: str) -> str:
    """The tag of an image's reference; one without it, or `latest`, fails the test."""
    found = reference.rpartition("/")[2].partition(":")[2]
    assert found, f"{reference} has no tag"
    assert found != "latest", reference
    return found
