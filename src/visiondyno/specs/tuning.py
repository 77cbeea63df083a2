"""What a study is: which parameters it searches, on which data, by which objectives."""

import math
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from visiondyno.specs.training import Arguments, EarlyStopping, Name, Seed
from visiondyno.specs.training_data import TrainingData

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr | None
"""What a parameter can be: what Optuna keeps of a categorical one."""

_Number = StrictInt | StrictFloat
_ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=100)]
_Side = Annotated[int, Field(ge=1, le=16_384)]
_Seconds = Annotated[float, Field(gt=0, le=366 * 86_400)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ParameterSpec(_Part):
    """One parameter: a range of numbers, or choices.

    Attributes:
        choices: its values, each once; instead of a range. A list alone means them too.
        low, high: the range, both ends in it.
        type: of a range; None: `int` where `low`, `high` and `step` are written as whole numbers.
        log: spread evenly over the orders of magnitude.
        step: from `low` in such steps; None: every number, every whole one of an `int`.
        when: this parameter is searched only in trials in which each parameter named here has the
            value given, or one of those in the list given.
    """

    choices: Annotated[tuple[Scalar, ...], Field(min_length=1, max_length=1000)] | None = None
    low: _Number | None = None
    high: _Number | None = None
    type: Literal["int", "float"] | None = None
    log: bool = False
    step: _Number | None = None
    when: dict[str, Scalar | tuple[Scalar, ...]] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.choices is not None:
            self._check_choices(self.choices)
        elif self.low is None or self.high is None:
            raise ValueError("give 'low' and 'high', or 'choices'")
        else:
            self._check_range(self.low, self.high)
        return self

    @property
    def kind(self) -> Literal["int", "float", "choices"]:
        """What it is drawn as."""
        if self.choices is not None:
            return "choices"
        if self.type is not None:
            return self.type
        numbers = (self.low, self.high, self.step)
        return "float" if any(isinstance(number, float) for number in numbers) else "int"

    def can_be(self, value: Scalar) -> bool:
        """Whether a trial may give it this value."""
        if self.choices is not None:
            return any(_same(value, choice) for choice in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None, "it is a range"
        assert self.high is not None, "it is a range"
        if not self.low <= value <= self.high or (self.kind == "int" and value % 1):
            return False
        return self.step is None or not (_exact(value) - _exact(self.low)) % _exact(self.step)

    def _check_choices(self, choices: tuple[Scalar, ...]) -> None:
        of_ranges = ("low", "high", "type", "log", "step")
        extra = next((name for name in of_ranges if getattr(self, name) not in (None, False)), None)
        if extra is not None:
            raise ValueError(f"'{extra}' belongs to a range; leave it or 'choices' out")
        if any(isinstance(value, float) and not math.isfinite(value) for value in choices):
            raise ValueError("every choice must be finite")
        for index, value in enumerate(choices):
            if value in choices[:index]:  # 1, 1.0 and True are one to Optuna
                raise ValueError(f"the choice {value!r} stands twice")

    def _check_range(self, low: float, high: float) -> None:
        numbers = [number for number in (low, high, self.step) if number is not None]
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("every number must be finite")
        if low > high:
            raise ValueError(f"'low' is {low} and 'high' {high}; swap them")
        if self.kind == "int" and any(number % 1 for number in numbers):
            raise ValueError("an 'int' needs whole numbers")
        if self.log and low <= 0:
            raise ValueError(f"'log' needs a 'low' above 0, got {low}")
        if self.step is not None:
            self._check_step(low, high, self.step)

    def _check_step(self, low: float, high: float, step: float) -> None:
        if step <= 0:
            raise ValueError(f"'step' must be above 0, got {step}")
        if self.log:
            raise ValueError("'step' and 'log' can't be given together; leave one out")
        rest = (_exact(high) - _exact(low)) % _exact(step)
        if rest:
            last = _exact(high) - rest
            raise ValueError(f"steps of {step} from {low} end at {last}; give that as 'high'")


def _same(first: Scalar, second: Scalar) -> bool:
    return first == second and isinstance(first, bool) == isinstance(second, bool)


def _exact(number: float) -> Decimal:
    """As it is written: 0.3 is three times 0.1."""
    return Decimal(str(number))


def _as_parameter(value: Any) -> Any:
    return {"choices": value} if isinstance(value, list | tuple) else value


class SpaceSpec(_Part):
    """What a study searches.

    Attributes:
        parameters: by name, in the order in which they are drawn.
        job: fields of the operation `train`. A text that is `${name}` alone becomes that
            parameter's value, and its field is left out in trials without it; inside a longer text
            it is inserted; `$${` stands for `${`. None: parameters are the hyperparameters of their
            names, and those of the built-in architecture.
    """

    parameters: Annotated[
        dict[_ParameterName, Annotated[ParameterSpec, BeforeValidator(_as_parameter)]],
        Field(min_length=1, max_length=1000),
    ]
    job: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _conditions_can_be_met(self) -> Self:
        known: dict[str, ParameterSpec] = {}
        for name, parameter in self.parameters.items():
            for other, wanted in parameter.when.items():
                if other not in known:
                    raise ValueError(
                        f"'{name}' is searched when '{other}' has some value, and '{other}' "
                        "doesn't stand before it; name a parameter that does"
                    )
                values = wanted if isinstance(wanted, tuple) else (wanted,)
                never = [value for value in values if not known[other].can_be(value)]
                if never or not values:
                    shown = repr(never[0]) if never else "one of none"
                    raise ValueError(
                        f"'{name}' is searched when '{other}' is {shown}, which it never is"
                    )
            known[name] = parameter
        return self


class StudySpec(_Part):
    """A study: trainings that differ in their parameters, and which of them is the best.

    Attributes:
        data: dataset reference of which all three parts are taken.
        training_data, validation_data, test_data: instead of those that `data` gives. Trials are
            compared on the validation data, and the best one is tested once on the test data.
        objectives: names, each with `:minimize` or `:maximize` where that isn't known.
        mode: which built-in space is searched where `space` is None.
        space: one's own.
        epochs: of a trial.
        trials: in all.
        seed: of the study; each trial's own follows from it.
        sampler, sampler_arguments: a sampler of Optuna by name.
        pruner, pruner_arguments: a pruner by name; None stops no trial early.
        trial_timeout_s: a trial that runs for longer is killed.
        timeout_s: of the whole study.
        early_stopping: of each training.
        threads: of torch on the processor, in each trial; None: torch's own default. Which trials
            come out depends on it.
        device: as of every training.
        image_size: height and width, or one number for both; None: as the images are.
        channels: 1 or 3; None: 1 where all images are grey.
        classes: how many the data have; only needed where the data aren't on this machine.
        allow_estimated: take an energy that is estimated, not measured, as an objective.
    """

    data: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    training_data: TrainingData | None = None
    validation_data: TrainingData | None = None
    test_data: TrainingData | None = None
    objectives: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10)] = ("val_accuracy",)
    mode: Literal["simple", "thorough"] = "simple"
    space: SpaceSpec | None = None
    epochs: Annotated[int, Field(ge=1, le=50_000)] = 5
    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    seed: Seed = 0
    sampler: Name = "TPESampler"
    sampler_arguments: Arguments = {}
    pruner: Name | None = None
    pruner_arguments: Arguments = {}
    trial_timeout_s: _Seconds | None = None
    timeout_s: _Seconds | None = None
    early_stopping: EarlyStopping | None = None
    threads: Annotated[int, Field(ge=1, le=256)] | None = 1
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$")] = "auto"
    image_size: _Side | tuple[_Side, _Side] | None = None
    channels: Literal[1, 3] | None = None
    classes: Annotated[int, Field(ge=2, le=1_000_000)] | None = None
    allow_estimated: bool = False

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.data is None and None in (self.training_data, self.validation_data):
            raise ValueError("give 'data', or both 'training_data' and 'validation_data'")
        if self.pruner is None and self.pruner_arguments:
            raise ValueError("'pruner_arguments' need a 'pruner'")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width to resize to; None for as they are."""
        if isinstance(self.image_size, int):
            return self.image_size, self.image_size
        return self.image_size
