"""What a study of an objective function is."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from visiondyno.specs.tuning import StudySpec

_OF_ANY_STUDY = frozenset(
    {
        "function",
        "objectives",
        "trials",
        "seed",
        "sampler",
        "sampler_arguments",
        "pruner",
        "pruner_arguments",
        "trial_timeout_s",
        "timeout_s",
    }
)


class FunctionSpec(StudySpec):
    """A study of an objective function: what it trains, and on what data, the function says.

    Attributes:
        function: its name; a study that is gone on with is of the same.
    """

    function: Annotated[str, Field(min_length=1, max_length=500)]

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if "objectives" not in self.model_fields_set:
            raise ValueError(
                "give 'objectives': what the function returns, and which way is better, as in "
                "accuracy:maximize"
            )
        of_trainings = sorted(self.model_fields_set - _OF_ANY_STUDY)
        if of_trainings:
            raise ValueError(
                f"'{of_trainings[0]}' is of studies that train by themselves; leave it out, and "
                "see to it in the objective function"
            )
        if self.pruner is None and self.pruner_arguments:
            raise ValueError("'pruner_arguments' need a 'pruner'")
        return self
