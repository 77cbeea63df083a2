"""The training that a trial is."""

from typing import get_args

from visiondyno.specs.training_operations import Measurable, TrainInput
from visiondyno.specs.tuning import StudySpec
from visiondyno.tuning.data_parts import StudyData
from visiondyno.tuning.space import SearchSpace
from visiondyno.tuning.trial import Json, TrialRecord


def trial_job(spec: StudySpec, data: StudyData, space: SearchSpace, record: TrialRecord) -> Json:
    """The input of a trial's job; what the space says of the job comes before the study's.

    Objectives that a worker measures are measured, and each epoch tells of its gradients.

    Data are named, never sent, and nothing is written that is a default anyway: such a job of a
    built-in space has less than 1 KB.
    """
    fields: Json = {"training_data": data.training, "validation_data": data.validation}
    fields |= {"epochs": spec.epochs, "threads": spec.threads, "device": spec.device}
    names = [objective.partition(":")[0].strip() for objective in spec.objectives]
    fields |= {"measure": [name for name in names if name in _MEASURABLE], "health": True}
    if spec.early_stopping is not None:
        fields["early_stopping"] = spec.early_stopping.model_dump(
            mode="json", exclude_defaults=True
        )
    fields |= space.job(record.params)
    fields = {
        name: value for name, value in fields.items() if value not in (_DEFAULTS.get(name), [])
    }
    return {"operation": "train", **fields, "seed": record.seed}


_DEFAULTS = {field.alias or name: field.default for name, field in TrainInput.model_fields.items()}
_MEASURABLE = frozenset(get_args(Measurable))
