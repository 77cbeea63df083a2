"""The options of commands whose jobs may run elsewhere."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from visiondyno.cli.place import place_options
from visiondyno.places import Place


def told(*arguments: str) -> Place:
    """The place that a command is given."""
    found: list[Place] = []

    def function(*, place: Place) -> None:
        """A command."""
        found.append(place)

    command: Any = click.command()(place_options(function))
    result = CliRunner().invoke(command, list(arguments), standalone_mode=False)
    assert result.exception is None, result.exception
    return found[0]


def test_all_of_it_is_one_place() -> None:
    assert told() == Place()
    given = ("--on", "runpod", "--endpoint", "abc", "--api-key", "k", "--gpu", "A4000")
    assert told(*given, "--max-cost", "2", "--fallback", "local") == Place(
        "runpod", api_key="k", endpoint="abc", gpu="A4000", max_cost_usd=2.0, fallback="local"
    )


@pytest.mark.parametrize(
    ("where", "key"),
    [
        ("http://127.0.0.1:8000", "vd_1"),
        ("https://dyno.example/v2/default", "vd_1"),
        ("https://api.runpod.ai/v2/abc", None),
        ("runpod", None),
        ("inline", None),
        ("local", None),
    ],
)
def test_a_servers_key_of_the_environment_goes_to_servers_alone(
    where: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_API_KEY", "vd_1")
    assert told("--on", where).api_key == key
    assert told("--on", where, "--api-key", "mine").api_key == "mine"
