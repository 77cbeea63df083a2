"""What an objective function is given: a trial as Optuna's, with its place and its folder."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.client.async_client import AT_ONCE, OnEvent, ignore
from visiondyno.client.client import AnyPolicy, Client
from visiondyno.client.trainer import Trainer
from visiondyno.errors import Cancelled, SpecError, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.tuning.body import Told
from visiondyno.tuning.trial import Json, TrialRecord

if TYPE_CHECKING:
    import optuna

Choice = None | bool | int | float | str


class TrialClient(Client):
    """A client whose jobs are a trial's: each is noted, and limited as the trial is."""

    def note_with(self, note: OnEvent, policy: AnyPolicy) -> None:
        """Tell `note` of each event, in the thread that waits for it; `policy` where none is given.

        Attributes set here:
            submitted: ids of jobs that were submitted and maybe never waited for.
        """
        self._note = note
        self._policy = policy
        self.submitted: list[str] = []

    def run(
        self,
        job_input: Mapping[str, Any],
        *,
        policy: AnyPolicy = None,
        on_event: OnEvent = ignore,
    ) -> Json:
        return super().run(job_input, policy=policy or self._policy, on_event=self._both(on_event))

    def run_many(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        at_once: int = AT_ONCE,
        policy: AnyPolicy = None,
        on_event: OnEvent = ignore,
    ) -> list[Json | VisionDynoError]:
        policy, listen = policy or self._policy, self._both(on_event)
        return super().run_many(inputs, at_once=at_once, policy=policy, on_event=listen)

    def submit(self, job_input: Mapping[str, Any], *, policy: AnyPolicy = None) -> str:
        job_id = super().submit(job_input, policy=policy or self._policy)
        self.submitted.append(job_id)
        return job_id

    def result(self, job_id: str, on_event: OnEvent = ignore) -> Json:
        return super().result(job_id, self._both(on_event))

    def _both(self, on_event: OnEvent) -> OnEvent:
        def listen(event: JobEvent) -> None:
            self._note(event)
            on_event(event)

        return listen


class FunctionTrial:
    """A trial of Optuna's shape, for one call of an objective function, in that call's thread.

    `suggest_float`, `suggest_int`, `suggest_categorical`, `report` and `should_prune` are those of
    `optuna.Trial`, so that a function written for Optuna runs as it is.

    Attributes:
        number: 0, 1, 2 …
        seed: the trial's own, a function of the study's seed and its number.
        client: its jobs go to the trial's place, and are cancelled when the trial ends.
    """

    def __init__(
        self,
        record: TrialRecord,
        told: Told,
        client: TrialClient,
        objectives: int,
        folder: Callable[[int], Path],
    ) -> None:
        self.number = record.number
        self.seed = record.seed
        self.client = client
        self._told = told
        self._objectives = objectives
        self._folder = folder
        self._lock = threading.RLock()
        self._is_over = False
        self._trainer: Trainer | None = None
        self._params: dict[str, Any] = {}
        self._user_attrs: Json = {}
        self._why: str | None = None

    @property
    def params(self) -> dict[str, Any]:
        """What was suggested up to now, by name."""
        return dict(self._params)

    @property
    def user_attrs(self) -> Json:
        """What `set_user_attr` noted."""
        return dict(self._user_attrs)

    @property
    def folder(self) -> Path:
        """The trial's own, made at first use; another attempt at the trial finds it as it was."""
        found = self._folder(self.number)
        found.mkdir(parents=True, exist_ok=True)
        return found

    @property
    def trainer(self) -> Trainer:
        """A trainer whose jobs are `client`'s."""
        if self._trainer is None:
            self._trainer = Trainer(self.client)
        return self._trainer

    @property
    def why_pruned(self) -> str | None:
        """Why it should stop, by its last report; None: it may go on."""
        return self._why

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`, both included.

        Raises:
            SpecError: it can't be drawn from that.
        """
        value = self._suggest(
            name, lambda trial: trial.suggest_float(name, low, high, step=step, log=log)
        )
        return float(value)

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """A whole number from `low` to `high`, both included; errors as `suggest_float`."""
        value = self._suggest(
            name, lambda trial: trial.suggest_int(name, low, high, step=step, log=log)
        )
        return int(value)

    def suggest_categorical(self, name: str, choices: Sequence[Choice]) -> Any:
        """One of the choices; errors as `suggest_float`."""
        return self._suggest(name, lambda trial: trial.suggest_categorical(name, choices))

    def report(self, value: float | Sequence[float], step: int) -> None:
        """Tell how the objectives stand after a step, counted up from 1.

        Raises:
            Cancelled: the trial is over: its time, or the study, has ended.
            SpecError: these aren't numbers, one for each objective.
        """
        values = as_numbers(value, f"What is reported of trial {self.number}")
        if len(values) != self._objectives:
            raise SpecError(
                f"Trial {self.number} reports {len(values)} values at step {step}, and the study "
                f"has {self._objectives} objectives; report one value of each."
            )
        with self._lock:
            self._check_open()
            self._why = self._told.report(int(step), values)

    def should_prune(self) -> bool:
        """Whether, by the last report, it promises nothing: then raise `optuna.TrialPruned`."""
        return self._why is not None

    def set_user_attr(self, key: str, value: Any) -> None:
        """Note something of the trial; it is kept with its result.

        Raises:
            SpecError: JSON has no such value.
        """
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise SpecError(f"The attribute '{key}' can't be kept as JSON: {error}.") from error
        self._user_attrs[key] = value

    def close(self) -> None:
        """It is over: whoever goes on with it gets `Cancelled`."""
        with self._lock:
            self._is_over = True

    @property
    def is_over(self) -> bool:
        """Whether it was closed."""
        return self._is_over

    def _suggest(self, name: str, draw: "Callable[[optuna.Trial], Any]") -> Any:
        with self._lock:
            self._check_open()
            try:
                value = self._told.suggest(name, draw)
            except (TypeError, ValueError) as error:
                raise SpecError(
                    f"'{name}' can't be suggested: {str(error).rstrip('.')}."
                ) from error
            self._params[name] = value
            return value

    def _check_open(self) -> None:
        if self._is_over:
            raise Cancelled(f"Trial {self.number} is over; its function should end.")


def as_numbers(given: Any, what: str) -> tuple[float, ...]:
    """A number, or several, as numbers.

    Args:
        given: a number, or a sequence of them; of torch or NumPy too.
        what: of messages, their first words.

    Raises:
        SpecError: it is neither.
    """
    try:
        if not isinstance(given, str | bytes):
            try:
                return (float(given),)
            except (TypeError, ValueError):
                return tuple(float(one) for one in given)
    except (TypeError, ValueError):
        pass
    raise SpecError(
        f"{what} is {given!r:.100}; it must be a number, or one for each of several objectives."
    )
