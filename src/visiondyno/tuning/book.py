"""The study itself: what to try next, what was tried, and what is kept of it."""

import json
import math
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from visiondyno.errors import Cancelled, SpecError
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.objectives import Objective, pareto_front
from visiondyno.tuning.trial import Failure, State, TrialRecord, trial_seed

if TYPE_CHECKING:
    import optuna


_LONGEST_NOTE = 4000
"""Characters of JSON; it is in each of its trial's lines."""


class Space(Protocol):
    """Asks a trial of Optuna for its parameters."""

    def suggest(self, trial: "optuna.Trial") -> dict[str, Any]:
        """The parameters, by name."""


class Pruner(Protocol):
    """Says which trials promise nothing."""

    def take_up(self, record: TrialRecord) -> None:
        """A trial of an earlier run of this study, which had ended."""

    def reason(self, trial: "optuna.Trial", step: int, values: Sequence[float]) -> str | None:
        """Why the trial should stop after this report, in a sentence; None: it may go on.

        Args:
            trial: whose.
            step: counts up from 1.
            values: of the objectives.
        """


class Book:
    """The trials of one study. Safe for use from several threads; calls block for milliseconds.

    The live study is in memory: Optuna's own files and databases cost a third of the trials' time
    where they are short. What must survive this process is in the journal, from which `take_up`
    makes the same study again: trials that had ended aren't run again, those that hadn't are
    asked again, under their number, with their parameters and seed.

    Of a sampler's own memory its short notes survive (generations of NSGA-II and NSGA-III, places
    in a grid). CMA-ES keeps pickles, which are left out: it begins anew from the trials' values.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        space: Space,
        sampler: "optuna.samplers.BaseSampler",
        pruner: Pruner | None,
        seed: int,
        journal: Journal | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """A study without trials.

        Args:
            objectives: at least one.
            space: what is searched.
            sampler: of Optuna.
            pruner: None: no trial is stopped early.
            seed: of the study.
            journal: where it is kept; None keeps it in memory alone.
            now: seconds since the epoch.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.objectives = tuple(objectives)
        self.records: dict[int, TrialRecord] = {}
        self._space = space
        self._pruner = pruner
        self._seed = seed
        self._journal = journal
        self._now = now
        self._lock = threading.RLock()
        self._open: dict[int, optuna.Trial] = {}
        self._begun_before: dict[int, TrialRecord] = {}
        self.study = optuna.create_study(
            directions=[objective.direction for objective in objectives], sampler=sampler
        )
        self.is_exhausted = False
        """Whether the sampler has tried all there is, as a grid's does."""
        # Optuna's own is for its own loop, and raises elsewhere.
        self.study.stop = self._exhaust

    def take_up(self, kept: Sequence[Mapping[str, Any]]) -> None:
        """Go on where a journal ended; for a book without trials.

        Args:
            kept: each trial as the journal tells of it, in the order of the lines.

        Raises:
            SpecError: they aren't trials of this study.
        """
        last: dict[int, TrialRecord] = {}
        try:
            for one in kept:
                record = TrialRecord.from_json(one)
                last[record.number] = record
            records = [last[number] for number in range(len(last))]
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Optuna only warns of values out of range
                frozen = [self._frozen(record) for record in records]
        except (AttributeError, KeyError, TypeError, ValueError, UserWarning) as error:
            raise SpecError(
                f"The study's journal can't be gone on with ({type(error).__name__}: {error}); it "
                "is damaged, or of another space. Begin a new study in another folder."
            ) from error
        with self._lock:
            self.study.add_trials(frozen)
            self.records |= {r.number: r for r in records if r.state.has_ended}
            self._begun_before = {
                r.number: r for r in records if r.distributions and not r.state.has_ended
            }
            if self._pruner is not None:
                for record in self.records.values():
                    self._pruner.take_up(record)

    def ask(self) -> TrialRecord:
        """The next trial, queued."""
        with self._lock:
            trial = self.study.ask()
            params = self._space.suggest(trial)
            number = trial.number
            self._open[number] = trial
            before = self._begun_before.pop(number, None)
            record = TrialRecord(
                number,
                trial_seed(self._seed, number),
                params if before is None else {**before.params, **params},
                asked_at=self._now(),
                sampler_notes=self._notes_of(number),
                distributions={} if before is None else before.distributions,
            )
            self._keep(record)
            return record

    def suggest(self, number: int, name: str, draw: Callable[["optuna.Trial"], Any]) -> Any:
        """A parameter of a trial that runs, by what its sampler says; noted, and kept.

        Args:
            number: of the trial.
            name: of the parameter.
            draw: asks the trial of Optuna for it.

        Raises:
            Cancelled: the trial has ended.
            SpecError: the parameter isn't one that can be kept, or was another one in an earlier
                run of the study.
            ValueError: of Optuna: the range is none.
        """
        with self._lock:
            record, trial = self.records[number], self._open.get(number)
            if trial is None:
                raise Cancelled(f"Trial {number} has ended; it takes no more parameters.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a value out of range: refused just below
                value = draw(trial)
            kind = _as_text(name, trial)
            if record.distributions.get(name, kind) != kind:
                raise SpecError(
                    f"The objective asks for '{name}' from another range, or other choices, than "
                    "when the study began; begin a new study in another folder."
                )
            if record.distributions.get(name) != kind:
                kinds = {**record.distributions, name: kind}
                params = {**record.params, name: value}
                self._keep(record.with_(params=params, distributions=kinds))
            return value

    def report(self, number: int, step: int, values: Sequence[float]) -> str | None:
        """Note what a running trial told; why it should stop, in a sentence, or None."""
        with self._lock:
            record = self.records[number]
            if step in record.reports or record.state.has_ended:
                return None  # of an attempt that was begun again, or left alone
            reports = {**record.reports, step: tuple(values)}
            self.records[number] = record.with_(reports=reports)
            if self._pruner is None or any(math.isnan(value) for value in values):
                return None
            return self._pruner.reason(self._open[number], step, values)

    def note(self, record: TrialRecord) -> TrialRecord:
        """The trial has been given to a lane, or back; what it reported and was suggested stays."""
        with self._lock:
            before = self.records[record.number]
            if before.state.has_ended:
                return before
            record = _with_told(record, before)
            self._keep(record)
            return record

    def tell(self, record: TrialRecord) -> TrialRecord:
        """The trial has ended. Told once: what ended stays as it is.

        One that completed without a number for each objective has FAILED.
        """
        with self._lock:
            before = self.records[record.number]
            if before.state.has_ended:
                return before
            record = _with_told(record, before).with_(ended_at=self._now())
            if record.state is State.COMPLETED:
                record = self._with_numbers(record)
            else:
                record = record.with_(values=())
            trial = self._open.pop(record.number)
            if record.distributions:  # what it was suggested in an earlier run, and not in this
                record = _of_this_run(record, trial)
            self.study.tell(trial, list(record.values) or None, _optuna_state(record))
            record = record.with_(sampler_notes=self._notes_of(record.number))
            self._keep(record)
            return record

    def best(self) -> list[TrialRecord]:
        """The best completed trial; of several objectives all that no other one dominates."""
        with self._lock:
            done = [record for record in self.records.values() if record.state is State.COMPLETED]
        done.sort(key=lambda record: record.number)
        front = [done[index] for index in pareto_front(self.objectives, [r.values for r in done])]
        return front if len(self.objectives) > 1 else front[:1]

    def all(self) -> list[TrialRecord]:
        """Every trial, by number."""
        with self._lock:
            return [self.records[number] for number in sorted(self.records)]

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()

    def _keep(self, record: TrialRecord) -> None:
        self.records[record.number] = record
        if self._journal is not None:
            self._journal.write(
                "trial", {"trial": record.to_json()}, is_final=record.state.has_ended
            )

    def _notes_of(self, number: int) -> dict[str, Any]:
        return _notes(self.study.get_trials(deepcopy=False)[number].system_attrs)

    def _exhaust(self) -> None:
        self.is_exhausted = True

    def _with_numbers(self, record: TrialRecord) -> TrialRecord:
        """The same, or FAILED where its values aren't a number for each objective."""
        names = [objective.name for objective in self.objectives]
        if len(record.values) != len(names):
            code = "wrong_values"
            message = (
                f"The trial gave {len(record.values)} values for the objectives "
                f"{', '.join(names)}; it must give one for each."
            )
        elif any(math.isnan(value) for value in record.values):
            code = "not_a_number"
            missing = [name for name, v in zip(names, record.values, strict=True) if math.isnan(v)]
            message = (
                f"The trial's {', '.join(missing)} is not a number; a lower learning rate, or "
                "gradient clipping, may help."
            )
        else:
            return record
        failure = Failure(code, message, record.lane or "")
        return record.with_(state=State.FAILED, values=(), failures=(*record.failures, failure))

    def _known_of(
        self, record: TrialRecord
    ) -> "tuple[dict[str, Any], dict[str, optuna.distributions.BaseDistribution]]":
        """A trial's parameters, and what each was drawn from."""
        import optuna

        if record.distributions:
            kinds = {
                name: optuna.distributions.json_to_distribution(kind)
                for name, kind in record.distributions.items()
            }
            return dict(record.params), kinds
        fixed = optuna.trial.FixedTrial(dict(record.params), number=record.number)
        suggested = self._space.suggest(fixed)
        if dict(suggested) != dict(record.params):
            raise ValueError(f"trial {record.number} has parameters of another space")
        return fixed.params, fixed.distributions

    def _frozen(self, record: TrialRecord) -> "optuna.trial.FrozenTrial":
        """A trial as Optuna keeps it: the space is asked what its parameters are of.

        One that hasn't ended waits, and is the next to be asked.
        """
        import optuna

        params, distributions = self._known_of(record)
        if not record.state.has_ended:
            return optuna.trial.create_trial(
                state=optuna.trial.TrialState.WAITING,
                system_attrs={**record.sampler_notes, "fixed_params": params},
            )
        if record.state is State.COMPLETED and len(record.values) != len(self.objectives):
            raise ValueError(f"trial {record.number} has values of other objectives")
        single = len(self.objectives) == 1
        return optuna.trial.create_trial(
            state=_optuna_state(record),
            values=list(record.values) if record.state is State.COMPLETED else None,
            params=params,
            distributions=distributions,
            intermediate_values=(
                {step: values[0] for step, values in record.reports.items()} if single else {}
            ),
            system_attrs=dict(record.sampler_notes),
        )


def _with_told(record: TrialRecord, before: TrialRecord) -> TrialRecord:
    """The same with what its trial told and asked for while it ran."""
    return record.with_(
        reports=before.reports, params=before.params, distributions=before.distributions
    )


def _of_this_run(record: TrialRecord, trial: "optuna.Trial") -> TrialRecord:
    kinds = {name: kind for name, kind in record.distributions.items() if name in trial.params}
    return record.with_(params={name: record.params[name] for name in kinds}, distributions=kinds)


def _as_text(name: str, trial: "optuna.Trial") -> str:
    """What a parameter was drawn from, as Optuna's JSON."""
    from optuna.distributions import distribution_to_json

    try:
        text: str = distribution_to_json(trial.distributions[name])
    except TypeError as error:
        raise SpecError(
            f"A choice of '{name}' is neither a number nor a text, true, false or none, so the "
            "study can't be kept; give texts, and look up what they stand for in the objective."
        ) from error
    return text


def _optuna_state(record: TrialRecord) -> "optuna.trial.TrialState":
    import optuna

    states = optuna.trial.TrialState
    known = {State.COMPLETED: states.COMPLETE, State.PRUNED: states.PRUNED}
    return known.get(record.state, states.FAIL)


def _notes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What a sampler noted of a trial, without long ones and texts: CMA-ES's are pickles."""
    return {
        name: value
        for name, value in attributes.items()
        if name != "fixed_params"
        and not isinstance(value, str)
        and len(json.dumps(value)) <= _LONGEST_NOTE
    }
