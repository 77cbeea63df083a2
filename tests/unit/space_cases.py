"""Spaces of the tests, what is drawn of them, and the trainings it becomes."""

from typing import Any

import optuna
from hypothesis import strategies as st

from visiondyno.specs.operations import parse
from visiondyno.specs.training_operations import TrainInput
from visiondyno.specs.tuning import SpaceSpec
from visiondyno.tuning.data_parts import ImageShape
from visiondyno.tuning.space import SearchSpace

DIGITS = ImageShape(1, 32, 32, 10)
RANGE = {"low": 1, "high": 3}
LAYERS: dict[str, Any] = {
    "type": "sequential",
    "layers": [{"type": "flatten"},
               {"type": "linear", "in_features": "${inputs}", "out_features": 10}],
}  # fmt: skip
MODES = st.sampled_from(["simple", "thorough"])


def space(parameters: dict[str, Any], job: dict[str, Any] | None = None) -> SearchSpace:
    spec: SpaceSpec = parse(SpaceSpec, {"parameters": parameters, "job": job}, "s.yaml")
    return SearchSpace(spec, DIGITS, 5, "s.yaml")


def drawn(searched: SearchSpace, seed: int, count: int = 1) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [searched.suggest(study.ask()) for _ in range(count)]


def complete(fields: dict[str, Any]) -> TrainInput:
    checked: TrainInput = parse(TrainInput, {"training_data": "digits", **fields}, "job")
    return checked
