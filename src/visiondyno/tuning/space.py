"""What a study searches: trials get their parameters, and parameters become trainings."""

import math
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from visiondyno.errors import SpecError
from visiondyno.report.yaml_spec import read_fields, read_text
from visiondyno.specs.operations import describe_validation, parse
from visiondyno.specs.training import CnnConfig, Hyperparameters
from visiondyno.specs.training_operations import TrainInput
from visiondyno.specs.tuning import ParameterSpec, Scalar, SpaceSpec, StudySpec
from visiondyno.tuning.builtin_spaces import (
    ARCHITECTURE,
    RECIPE,
    Recipe,
    builtin_space,
    training_fields,
)
from visiondyno.tuning.data_parts import ImageShape, StudyData
from visiondyno.tuning.trial import Json

if TYPE_CHECKING:
    import optuna

_INSERTED = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_OF_THE_STUDY = {
    "operation": "every trial is a 'train'",
    "seed": "each trial has its own",
    "state_reply": "no weights are sent back to be gone on with",
}
_SCALAR_HYPERPARAMETERS = tuple(
    name
    for name in Hyperparameters.model_fields
    if name != "seed" and not name.endswith("_arguments")
)
_LEFT_OUT = object()


class SearchSpace:
    """The parameters of a study, and the trainings that they describe.

    Args:
        spec: which parameters.
        shape: of the images, for a space without `job`.
        epochs: of a training.
        place: what messages call the space, such as its file.

    Raises:
        SpecError: a parameter isn't used, isn't known or can have a value that can't be, or the
            job of a trial isn't one: the message names it.
    """

    def __init__(
        self, spec: SpaceSpec, shape: ImageShape | None, epochs: int, place: str = "The space"
    ) -> None:
        self.spec = spec
        self._shape = shape
        self._epochs = epochs
        self._place = place
        check_space(spec, place)
        if spec.job is None and shape is None:
            raise SpecError(
                f"{place} has no 'job', and the shape of the images isn't known; give the study "
                "its data, or the space a 'job'."
            )
        self._check_one_job()

    def suggest(self, trial: "optuna.Trial | optuna.trial.FixedTrial") -> dict[str, Any]:
        """The parameters of a trial of Optuna, in the space's order; those that apply to it.

        Fractions are rounded to a millionth of their range, or of themselves where it is `log`.
        """
        params: dict[str, Any] = {}
        for name, parameter in self.spec.parameters.items():
            if _applies(parameter, params):
                params[name] = _suggested(trial, name, parameter)
        return params

    def job(self, params: Mapping[str, Any]) -> Json:
        """Fields of `train` for these parameters; at least `model_config`."""
        if self.spec.job is not None:
            fields: Json = _filled(self.spec.job, params)
            return fields
        assert self._shape is not None, "looked at when the space was made"
        return training_fields(params, self._shape, self._epochs)

    def _check_one_job(self) -> None:
        import optuna

        first = {name: _first_value(one) for name, one in self.spec.parameters.items()}
        fields = self.job(self.suggest(optuna.trial.FixedTrial(first)))
        parse(TrainInput, {"training_data": "digits", **fields}, f"{self._place}: a trial's job")


def study_space(spec: StudySpec, data: StudyData, place: str = "'space'") -> SearchSpace:
    """The space of a study: its own, or the built-in one of its mode.

    Where an objective is a loss, label smoothing isn't searched: it changes what the loss means.

    Raises:
        SpecError: see `SearchSpace`.
    """
    if spec.space is not None:
        return SearchSpace(spec.space, data.shape, spec.epochs, place)
    assert data.shape is not None, "known where a study has no 'job'"
    found = builtin_space(spec.mode, data.shape)
    if any(objective.partition(":")[0].endswith("_loss") for objective in spec.objectives):
        rest = {name: p for name, p in found.parameters.items() if name != "label_smoothing"}
        found = SpaceSpec(parameters=rest)
    return SearchSpace(found, data.shape, spec.epochs, f"The space '{spec.mode}'")


def load_space(path: Path) -> SpaceSpec:
    """The space that a YAML file describes.

    Raises:
        SpecError: the file can't be read, isn't YAML, or a field is wrong; names file and line, or
            field.
    """
    needs = "a space needs 'parameters', and may have a 'job'"
    fields = read_fields(read_text(path), str(path), needs)
    spec: SpaceSpec = parse(SpaceSpec, fields, str(path))
    check_space(spec, str(path))
    return spec


def check_space(spec: SpaceSpec, place: str) -> None:
    """Refuses parameters that nothing uses, and values that can't be.

    Raises:
        SpecError: see `SearchSpace`.
    """
    if spec.job is None:
        _check_names(spec, place)
    else:
        _check_job(spec, spec.job, place)


# ---- of a trial


def _applies(parameter: ParameterSpec, params: Mapping[str, Any]) -> bool:
    return all(
        other in params and ParameterSpec(choices=_listed(wanted)).can_be(params[other])
        for other, wanted in parameter.when.items()
    )


def _listed(wanted: Scalar | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _suggested(trial: Any, name: str, parameter: ParameterSpec) -> Any:
    if parameter.choices is not None:
        return trial.suggest_categorical(name, parameter.choices)
    if parameter.kind == "int":
        ends = int(parameter.low or 0), int(parameter.high or 0)
        return trial.suggest_int(name, *ends, step=int(parameter.step or 1), log=parameter.log)
    assert parameter.low is not None, "it is a range"
    assert parameter.high is not None, "it is a range"
    low, high = float(parameter.low), float(parameter.high)
    value = trial.suggest_float(name, low, high, step=parameter.step, log=parameter.log)
    return _short(value, low, high, log=parameter.log)


def _short(value: float, low: float, high: float, *, log: bool) -> float:
    """`value` without the digits that matter to nobody: a millionth of the range, or of itself."""
    finest = min(high - low, abs(value) if log else math.inf)
    if finest <= 0:
        return value
    return min(max(round(value, 6 - math.floor(math.log10(finest))), low), high)


def _first_value(parameter: ParameterSpec) -> Any:
    return parameter.low if parameter.choices is None else parameter.choices[0]


# ---- without a job


def _check_names(spec: SpaceSpec, place: str) -> None:
    known = [*ARCHITECTURE, *RECIPE, *_SCALAR_HYPERPARAMETERS]
    for name, parameter in spec.parameters.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = (
                f"did you mean '{near[0]}'?"
                if near
                else f"known are {', '.join(known)}. Others need a 'job' that says what they are"
            )
            raise SpecError(f"{place}: there is no parameter '{name}'; {hint}")
        for value in _values_to_try(parameter):
            _check_value(name, value, place)


def _check_value(name: str, value: Any, place: str) -> None:
    try:
        if name in ARCHITECTURE:
            least = {"type": "cnn", "image_shape": (1, 1, 1), "classes": 1}
            CnnConfig.model_validate({**least, name: value})
        else:
            (Recipe if name in RECIPE else Hyperparameters).model_validate({name: value})
    except ValidationError as error:
        said = describe_validation(error).removeprefix(f"'{name}': ")
        raise SpecError(f"{place}: the parameter '{name}' can't be {value!r}: {said}.") from error


def _values_to_try(parameter: ParameterSpec) -> tuple[Any, ...]:
    """Values that show whether all fit."""
    if parameter.choices is not None:
        return parameter.choices
    assert parameter.low is not None, "it is a range"
    assert parameter.high is not None, "it is a range"
    between: Any = parameter.low + (parameter.high - parameter.low) / 3
    if parameter.kind == "int" or parameter.step is not None:
        between = min(parameter.low + (parameter.step or 1), parameter.high)
    return parameter.low, between, parameter.high


# ---- with a job


def _check_job(spec: SpaceSpec, job: Json, place: str) -> None:
    known = [field.alias or name for name, field in TrainInput.model_fields.items()]
    for name in job:
        if name in _OF_THE_STUDY:
            raise SpecError(f"{place}: leave 'job.{name}' out; {_OF_THE_STUDY[name]}.")
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the fields are {', '.join(known)}."
            raise SpecError(f"{place}: the operation 'train' has no field '{name}'; {hint}")
    if "model_config" not in job:
        raise SpecError(f"{place}: 'job' needs a 'model_config', the model that is trained.")
    used: set[str] = set()
    for path, text in _texts(job, "job"):
        used |= _check_text(spec, path, text, place)
    unused = [name for name in spec.parameters if name not in used]
    if unused:
        raise SpecError(
            f"{place}: nothing uses the parameter '{unused[0]}'; write ${{{unused[0]}}} where it "
            "belongs in 'job', or leave it out."
        )


def _check_text(spec: SpaceSpec, path: str, text: str, place: str) -> set[str]:
    """The parameters that a text uses."""
    names = [found[1] for found in _INSERTED.finditer(text) if found[1] is not None]
    for name in names:
        if name not in spec.parameters:
            near = get_close_matches(name, spec.parameters, n=1)
            hint = f"did you mean ${{{near[0]}}}?" if near else "name one of 'parameters'."
            raise SpecError(f"{place}: '{path}' uses ${{{name}}}, and there is none; {hint}")
        if spec.parameters[name].when and text != f"${{{name}}}":
            raise SpecError(
                f"{place}: '{path}' inserts ${{{name}}} into a text, and not every trial has "
                f"'{name}'; only a value of its own can be left out."
            )
    return set(names)


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{path}[{index}]")


def _filled(value: Any, params: Mapping[str, Any]) -> Any:
    """`value` with its parameters; what isn't there in this trial is left out."""
    if isinstance(value, dict):
        inner = {key: _filled(one, params) for key, one in value.items()}
        return {key: one for key, one in inner.items() if one is not _LEFT_OUT}
    if isinstance(value, list):
        return [one for one in (_filled(v, params) for v in value) if one is not _LEFT_OUT]
    if not isinstance(value, str):
        return value
    whole = _INSERTED.fullmatch(value)
    if whole is not None and whole[1] is not None:
        return params.get(whole[1], _LEFT_OUT)
    return _INSERTED.sub(lambda found: "${" if found[1] is None else str(params[found[1]]), value)
