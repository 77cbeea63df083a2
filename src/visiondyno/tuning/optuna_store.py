"""A study in Optuna's own file, for `optuna-dashboard` and everything else that reads it."""

import datetime
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.tuning.book import Space
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.progress import AggregatedProgress
from visiondyno.tuning.trial import Json, State, TrialRecord

if TYPE_CHECKING:
    import optuna

NAME = "optuna.log"
STUDY = "visiondyno"
"""The study's name inside the file."""


class OptunaStore:
    """Writes a study's trials to a file of Optuna's journal storage; a subscriber of its board.

    Trials stand there under their own numbers, and Optuna counts them in the order in which they
    come: so a trial is written once it and all before it have ended, in one piece. When the study
    is over those that never ended follow, as waiting. The file is for readers: the study itself
    goes on from its own journal, and a file of an earlier run is written anew.

    It runs on the thread that tells subscribers, so that the study never waits for it.

    Args:
        folder: of the study.
        objectives: of the study.
        space: says what the parameters are of.
        about: attributes of the study, as JSON.
        earlier: trials that had ended in earlier runs.
    """

    def __init__(
        self,
        folder: Path,
        objectives: Sequence[Objective],
        space: Space,
        about: Json,
        earlier: Iterable[TrialRecord] = (),
    ) -> None:
        self.path = folder / NAME
        self._objectives = tuple(objectives)
        self._space = space
        self._about = about
        self._records = {record.number: record for record in earlier}
        self._study: optuna.Study | None = None
        self._written = 0

    def __call__(self, progress: AggregatedProgress) -> None:
        """Write what the change makes ready to be written.

        Raises:
            OSError: it can't be written; what wasn't is tried again with the next change.
        """
        record = None if progress.change is None else progress.change.record
        if record is not None and not self._has_ended(record.number):
            self._records[record.number] = record
        if self._study is None:
            self._study = _new_study(self.path, self._objectives, self._about)
        while self._has_ended(self._written):
            self._write_next(self._study)
        while progress.is_over and self._written in self._records:
            self._write_next(self._study)

    def _has_ended(self, number: int) -> bool:
        return number in self._records and self._records[number].state.has_ended

    def _write_next(self, study: "optuna.Study") -> None:
        study.add_trial(frozen_trial(self._records[self._written], self._objectives, self._space))
        self._written += 1


def _new_study(path: Path, objectives: Sequence[Objective], about: Json) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    # The study's journal is locked by this process: whoever wrote these is gone.
    for old in (path, path.with_name(f"{path.name}.lock")):
        old.unlink(missing_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=STUDY,
        directions=[objective.direction for objective in objectives],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.name for objective in objectives])
    for name, value in about.items():
        study.set_user_attr(name, value)
    return study


def frozen_trial(
    record: TrialRecord, objectives: Sequence[Objective], space: Space
) -> "optuna.trial.FrozenTrial":
    """A trial as Optuna keeps it, with our own facts as user attributes.

    Optuna takes reports of studies of one objective only: of several they are the attribute
    `reports`.
    """
    import optuna

    params, distributions = _drawn(record, space)
    states = optuna.trial.TrialState
    state = {
        State.COMPLETED: states.COMPLETE,
        State.PRUNED: states.PRUNED,
        State.FAILED: states.FAIL,
    }.get(record.state, states.WAITING)
    single = len(objectives) == 1
    has_ended = record.state.has_ended
    return optuna.trial.FrozenTrial(
        number=record.number,
        trial_id=-1,  # the storage gives it one
        state=state,
        value=None,
        values=list(record.values) if record.state is State.COMPLETED else None,
        datetime_start=_local_time(record.started_at or record.asked_at) if has_ended else None,
        datetime_complete=(_local_time(record.ended_at or record.asked_at) if has_ended else None),
        params=params,
        distributions=distributions,
        user_attrs=_attributes(record, objectives, reports=not single),
        system_attrs={} if has_ended else {"fixed_params": params},
        intermediate_values=(
            {step: values[0] for step, values in record.reports.items()} if single else {}
        ),
    )


def _drawn(
    record: TrialRecord, space: Space
) -> "tuple[dict[str, Any], dict[str, optuna.distributions.BaseDistribution]]":
    """A trial's parameters, and what each was drawn from: its own record says, or the space."""
    import optuna

    if record.distributions:
        known = {
            name: optuna.distributions.json_to_distribution(kind)
            for name, kind in record.distributions.items()
        }
        return dict(record.params), known
    fixed = optuna.trial.FixedTrial(dict(record.params), number=record.number)
    space.suggest(fixed)
    return fixed.params, fixed.distributions


def _attributes(record: TrialRecord, objectives: Sequence[Objective], *, reports: bool) -> Json:
    attributes: dict[str, Any] = {
        "seed": record.seed,
        "lane": record.lane,
        "worker": record.worker_id,
        "attempts": record.attempts,
        "duration_s": record.duration_s,
    }
    if record.cost is not None:
        attributes["usd_at_most"] = record.cost["usd_at_most"]
    if record.failures:
        attributes["failure"] = f"{record.failures[-1].code}: {record.failures[-1].message}"
    if reports:
        names = [objective.name for objective in objectives]
        attributes["reports"] = {
            str(step): dict(zip(names, values, strict=True))
            for step, values in record.reports.items()
        }
    return {name: value for name, value in attributes.items() if value is not None}


def _local_time(seconds: float) -> datetime.datetime:
    """As Optuna has its times: this machine's, without a zone."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone().replace(tzinfo=None)
