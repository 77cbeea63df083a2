"""What a study's best trial is worth on data that no trial was chosen on."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from visiondyno.client.callbacks import Callback
from visiondyno.client.client import Client
from visiondyno.client.model_state import ModelState
from visiondyno.client.state_transfer import StateTransfer
from visiondyno.client.time_limit import policy_within
from visiondyno.client.trainer import Trainer
from visiondyno.errors import BudgetSpent, Cancelled, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.measurements.percentiles import proportion_interval
from visiondyno.places import Place
from visiondyno.tuning.objectives import Objective
from visiondyno.tuning.study import Prepared, Study, StudyResult
from visiondyno.tuning.trial import Json, TrialRecord

MOST_TESTED = 10
"""Trials of a front; each is trained once more."""

OnEvent = Callable[[JobEvent], None]


def _ignore(_: JobEvent) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class TrialTest:
    """A trial's model on the test data.

    Attributes:
        trial: its number.
        metrics: on the test data.
        samples: how many there were; None where the worker didn't say.
        accuracy_interval: of the accuracy, with 95 % confidence (Wilson 1927); None where there is
            no accuracy.
        again: each objective that training gives: `trial`, its value in the trial; `again`, that
            of the training that gave the model tested; `difference`.
        is_same: whether these are equal, all of them.
        weights: file with the model's weights, in the study's folder; None where nothing is kept.
        weights_sha256: their identity.
        where: the lane's place.
        worker: that evaluated; None where it wasn't told.
        device: that was evaluated on.
        seconds: of training and evaluation.
        cost: of both, as `executors.cost.Cost.to_json`; None where nothing is paid, or it isn't
            known.
    """

    trial: int
    metrics: dict[str, float]
    samples: int | None
    accuracy_interval: tuple[float | None, float | None] | None
    again: dict[str, dict[str, float]]
    is_same: bool
    weights: str | None
    weights_sha256: str
    where: str
    worker: str | None
    device: str | None
    seconds: float
    cost: Json | None


def with_test(
    study: Study,
    result: StudyResult,
    folder: Path | None = None,
    on_event: OnEvent = _ignore,
) -> StudyResult:
    """Train the best trial's model once more, as it was trained, and score it on the test data.

    Trials keep no weights, for these are a function of their parameters and seed: the same job
    gives the same bits on the same kind of processor. On a GPU they may differ, and then the result
    says by how much. Of several objectives each trial of the front is tested, at most `MOST_TESTED`
    of them.

    Args:
        study: that ran.
        result: of it.
        folder: where `best.safetensors` is written; of a front `trial-N.safetensors` of each.
        on_event: told what the jobs tell.

    Returns:
        The result with `test`: `trials`, each as `TrialTest`; `skipped`, why there are none, in
        a sentence, or None; `failed`: trial, code and message of what went wrong; `left_out`,
        trials of a front beyond the first; `seconds`; `usd`, at least and at most, or None. A
        failure here is told there, and the study's own result stays.

    Raises:
        Cancelled, KeyboardInterrupt: somebody asked for it.
    """
    why = _why_not(study, result)
    if why is not None:
        return replace(result, test=_test(skipped=why))
    began_s = time.monotonic()
    tested: list[TrialTest] = []
    failed: list[Json] = []
    skipped: str | None = None
    for record in result.best[:MOST_TESTED]:
        name = "best" if len(result.objectives) == 1 else f"trial-{record.number}"
        path = None if folder is None else folder / f"{name}.safetensors"
        try:
            with Client(_place(study, result, record, tested)) as client:
                limit_s = result.spec.trial_timeout_s
                tested.append(_tested(study, record, client, (path, limit_s), on_event))
        except Cancelled:
            raise
        except BudgetSpent as error:
            skipped = f"The limit of cost leaves nothing for the test: {error.message}"
            break
        except VisionDynoError as error:
            failed.append({"trial": record.number, "code": error.code, "message": error.message})
    return replace(
        result,
        test=_test(
            skipped=skipped,
            trials=[asdict(one) for one in tested],
            failed=failed,
            left_out=[record.number for record in result.best[MOST_TESTED:]],
            seconds=time.monotonic() - began_s,
            usd=_sum_usd(one.cost for one in tested),
        ),
    )


def _test(**known: Any) -> Json:
    empty: Json = {
        "skipped": None,
        "trials": [],
        "failed": [],
        "left_out": [],
        "seconds": 0.0,
        "usd": None,
    }
    return empty | known


def _why_not(study: Study, result: StudyResult) -> str | None:
    """Why nothing is tested, in a sentence; None where it can be."""
    prepared = study.prepared
    if prepared is None or prepared.job_of is None:
        return "The study's trials are those of a function of its own, which has no test data."
    if prepared.test is None:
        return "The study has no test data; give 'test_data', or data with a test part."
    if not result.best:
        return "No trial was completed, so there is no best one to test."
    return None


def _place(
    study: Study, result: StudyResult, record: TrialRecord, tested: Sequence[TrialTest]
) -> Place:
    """Where a trial is trained once more: where it was trained, with the money that is left.

    Raises:
        BudgetSpent: nothing is left.
    """
    place = study.place_of(record.lane)
    if place.max_cost_usd is not None:
        spent = [result.cost, *(one.cost for one in tested)]
        left = place.max_cost_usd - sum(cost["usd_at_most"] for cost in spent if cost)
        if left <= 0:
            raise BudgetSpent(
                f"all of its {place.max_cost_usd:.4g} USD may be spent. Give a higher --max-cost "
                "with --resume."
            )
        place = replace(place, max_cost_usd=left)
    return replace(place, workers=1) if place.where == "local" else place


def _tested(
    study: Study,
    record: TrialRecord,
    client: Client,
    kept: tuple[Path | None, float | None],
    on_event: OnEvent,
) -> TrialTest:
    """Train and evaluate; `kept` is where the weights are, and the limit of each job in seconds."""
    path, limit_s = kept
    prepared = study.prepared
    assert prepared is not None, "`_why_not` saw it"
    began_s = time.monotonic()
    jobs: dict[str, JobEvent] = {}

    def note(event: JobEvent) -> None:
        if event.job_id:
            jobs[event.job_id] = event
        on_event(event)

    policy = policy_within(client, limit_s)
    job, state, output = _trained(prepared, record, client, policy, note)
    if path is not None:
        state.save(path)
    metrics = _evaluated(prepared, job, state, client, note)
    again = _compared(record, study.objectives, output)
    samples = metrics.pop("samples_processed", None)
    answers = [event.answer for event in jobs.values() if event.answer is not None]
    return TrialTest(
        trial=record.number,
        metrics=metrics,
        samples=None if samples is None else int(samples),
        accuracy_interval=_interval(metrics, samples),
        again=again,
        is_same=all(one["difference"] == 0 for one in again.values()),
        weights=None if path is None else path.name,
        weights_sha256=state.sha256,
        where=client.place.where,
        worker=answers[-1].worker_id if answers else None,
        device=output.get("device"),
        seconds=time.monotonic() - began_s,
        cost=_cost(client),
    )


def _trained(
    prepared: Prepared, record: TrialRecord, client: Client, policy: Json | None, on_event: OnEvent
) -> tuple[Json, ModelState, Json]:
    """The trial's job, its weights and its output."""
    assert prepared.job_of is not None, "`_why_not` saw it"
    job = prepared.job_of(record)
    output = client.run(job, policy=policy, on_event=on_event)
    return job, StateTransfer(client, None).receive(output, None), output


def _evaluated(
    prepared: Prepared, job: Json, state: ModelState, client: Client, on_event: OnEvent
) -> dict[str, float]:
    trainer = Trainer(client, callbacks=[_Listener(on_event)])
    options: Any = {name: job[name] for name in ("device", "threads") if name in job}
    return dict(
        trainer.evaluate(
            job["model_config"],
            state,
            prepared.test,
            job.get("hyperparameters"),
            policy=policy_within(client),
            **options,
        )
    )


class _Listener(Callback):
    def __init__(self, on_event: OnEvent) -> None:
        self._listen = on_event

    def on_event(self, event: JobEvent) -> None:
        self._listen(event)


def _compared(
    record: TrialRecord, objectives: Sequence[Objective], output: Json
) -> dict[str, dict[str, float]]:
    """The objectives that training gives, in the trial and in this training.

    What a worker measures, such as its latency, is never twice the same: it is left out.
    """
    last = output["history"][-1]
    found: dict[str, dict[str, float]] = {}
    for objective, before in zip(objectives, record.values, strict=True):
        if objective.part is not None:
            now = float(last[objective.part][objective.metric])
            found[objective.name] = {"trial": before, "again": now, "difference": now - before}
    return found


def _interval(
    metrics: Mapping[str, float], samples: float | None
) -> tuple[float | None, float | None] | None:
    accuracy = metrics.get("accuracy")
    if accuracy is None or not samples:
        return None
    return proportion_interval(round(accuracy * samples), int(samples))


def _cost(client: Client) -> Json | None:
    try:
        cost = client.total_cost()
    except VisionDynoError:  # by which price isn't known
        return None
    return None if cost is None else cost.to_json()


def _sum_usd(costs: Iterable[Json | None]) -> list[float] | None:
    known = [cost for cost in costs if cost is not None]
    if not known:
        return None
    return [math.fsum(cost[name] for cost in known) for name in ("usd_at_least", "usd_at_most")]
