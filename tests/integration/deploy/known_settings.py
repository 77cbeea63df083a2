"""Holds commands and environment variables of deployments against the programs themselves."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import click
import pytest
from pydantic import AliasChoices

from visiondyno.cli import dyno
from visiondyno.settings import Settings, load_settings

# Read by others in the containers: Python, the bucket's library, the CUDA images.
OF_OTHERS = {
    "HOME",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONUNBUFFERED",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
}


def parsed(words: Sequence[str]) -> click.Context:
    """`dyno WORDS…` as click takes it; nothing is run. A wrong word raises `click.UsageError`."""
    command: click.Command = dyno
    name, rest, context = "dyno", list(words), None
    while True:
        context = command.make_context(name, rest, parent=context)
        if not isinstance(command, click.Group):
            return context
        found, chosen, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert found is not None
        assert chosen is not None
        name, command = found, chosen


def settings_variables() -> set[str]:
    """Names of all variables that `dyno up` and `dyno worker` read."""
    names: set[str] = set()
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            names.update(str(choice) for choice in alias.choices)
        else:
            names.add(f"VISIONDYNO_{name.upper()}")
    return names


def settings_of(environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that a container with this environment has; an unknown variable fails."""
    unknown = set(environ) - settings_variables() - OF_OTHERS
    assert not unknown, f"nothing reads {sorted(unknown)}"
    with monkeypatch.context() as patch:
        for name in list(os.environ):
            if name in settings_variables():
                patch.delenv(name)
        for name, value in environ.items():
            if name not in OF_OTHERS:
                patch.setenv(name, value)
        return load_settings(_env_file=None)


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """Values of the options of `dyno WORDS…`."""
    return dict(parsed(words).params)


def serving_variables() -> set[str]:
    """Names of all variables that `dyno serve` reads."""
    from visiondyno.serving.config import ServingConfig

    names: set[str] = set()
    for name, field in ServingConfig.model_fields.items():
        alias = field.validation_alias
        if isinstance(alias, AliasChoices):
            names.update(str(choice) for choice in alias.choices)
        else:
            names.add(f"VISIONDYNO_SERVE_{name.upper()}")
    return names


def serving_of(
    words: Sequence[str], environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The configuration by the environment alone of `dyno serve …`, whose words are parsed."""
    from visiondyno.serving.config import load_serving_config

    assert words[0] == "serve"
    parsed(words)
    known = serving_variables()
    unknown = set(environ) - known - OF_OTHERS - {"VISIONDYNO_HOME"}
    assert not unknown, f"dyno serve doesn't read {sorted(unknown)}"
    with monkeypatch.context() as patch:
        for name in known:
            patch.delenv(name, raising=False)
        for name, value in environ.items():
            if name in known:
                patch.setenv(name, value)
        return load_serving_config(model=words[1], _env_file=None)
