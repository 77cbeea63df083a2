"""Results of studies: what runs of so and so many trials leave, without running them."""

import math
import random
from collections.abc import Sequence

from visiondyno.executors.breaker import BreakerReading, BreakerState
from visiondyno.executors.cost import Cost
from visiondyno.probes.cost import Price
from visiondyno.specs.tuning import StudySpec
from visiondyno.tuning.importances import FEWEST_TRIALS, METHOD
from visiondyno.tuning.lanes import LaneReading
from visiondyno.tuning.objectives import Objective, pareto_front, parse_objectives
from visiondyno.tuning.study import StudyResult
from visiondyno.tuning.subscribers import CallbackReading
from visiondyno.tuning.trial import Failure, Json, State, TrialRecord, trial_seed

BEGAN_AT = 1_790_000_000.0
_LANES = ("https://one.example/v2/a", "https://two.example/v2/b")
_REASONS = ("The worker died.", "Out of memory at batch 128.", "The endpoint can't be reached.")


def a_result(
    trials: int = 40,
    objectives: Sequence[str] = ("val_accuracy",),
    *,
    seed: int = 0,
    paid: bool = False,
    stopped: str | None = None,
    **changes: object,
) -> StudyResult:
    """A study of conditional, logarithmic and chosen parameters with all that can go wrong."""
    draw = random.Random(seed)
    parsed = parse_objectives(objectives)
    records = []
    free = {lane: [BEGAN_AT, BEGAN_AT] for lane in _LANES}
    for number in range(trials):
        records.append(_record(number, parsed, draw, free, paid=paid))
    done = [record for record in records if record.state is State.COMPLETED]
    front = [done[place] for place in pareto_front(parsed, [one.values for one in done])]
    found: dict[str, object] = {
        "spec": StudySpec(data="mnist", objectives=tuple(objectives), trials=max(1, trials)),
        "objectives": parsed,
        "trials": tuple(records),
        "best": tuple(front if len(parsed) > 1 else front[:1]),
        "stopped": stopped,
        "lanes": tuple(_lane(name, records) for name in _LANES),
        "callbacks": (CallbackReading("display", 400, 0, 0, 0.02, 0.00004, 0.0003),),
        "cost": a_cost(900, 1100) if paid else None,
        "notes": ("Its splits are used: train, val, and test for the test",),
        "began_at": BEGAN_AT,
        "seconds": max(max(ends) for ends in free.values()) - BEGAN_AT,
        "searched": {
            "learning_rate": {"low": 1e-5, "high": 0.1, "log": True},
            "width": {"low": 8, "high": 64, "log": False},
            "optimizer": {"choices": ["adam", "adamw", "sgd"]},
        },
        "importances": {
            "method": METHOD,
            "trials": len(done),
            "of": {one.name: {"learning_rate": 0.7, "width": 0.2, "optimizer": 0.1}
                   for one in parsed if len(done) >= FEWEST_TRIALS},
            "reason": None if len(done) >= FEWEST_TRIALS else "Importances need 10 trials.",
        },
    }  # fmt: skip
    return StudyResult(**found | changes)  # type: ignore[arg-type]


def a_cost(least: int, most: int) -> Json:
    """So many seconds at 0.72 USD an hour."""
    return Cost(least, most, Price(0.72, None, "as given")).to_json()


def _record(
    number: int,
    objectives: Sequence[Objective],
    draw: random.Random,
    free: dict[str, list[float]],
    *,
    paid: bool,
) -> TrialRecord:
    params: Json = {
        "learning_rate": 10 ** draw.uniform(-5, -1),
        "width": draw.randrange(8, 65),
        "blocks": draw.choice([1, 2, 3]),
        "optimizer": draw.choice(["adam", "adamw", "sgd"]),
        "dropout": draw.uniform(0, 0.5),
    }
    if params["optimizer"] == "sgd":
        params["momentum"] = draw.uniform(0.5, 0.99)
    lane = min(free, key=lambda name: min(free[name]))
    place = free[lane].index(min(free[lane]))
    chance = draw.random()
    state = State.FAILED if chance < 0.1 else State.PRUNED if chance < 0.4 else State.COMPLETED
    epochs = 10 if state is State.COMPLETED else draw.randrange(1, 7)
    began = free[lane][place] + 0.3
    free[lane][place] = began + epochs * draw.uniform(1, 3)
    quality = math.exp(-((math.log10(params["learning_rate"]) + 2.6) ** 2)) * 0.6 + 0.38
    steps = range(1, epochs + 1)
    curves = [_values(objectives, quality, epoch, params["width"]) for epoch in steps]
    failures = () if chance > 0.16 else (Failure("x", draw.choice(_REASONS), lane),)
    return TrialRecord(
        number,
        trial_seed(0, number),
        params,
        state,
        values=curves[-1] if state is State.COMPLETED else (),
        asked_at=began - 0.3,
        started_at=began,
        ended_at=free[lane][place],
        reports=dict(enumerate(curves, 1)),
        attempts=1 + (len(failures) if state is not State.FAILED else 0),
        lane=lane,
        worker_id=f"worker-{place}",
        cost=a_cost(epochs, 2 * epochs) if paid else None,
        measured={
            "health": [_health(epoch, quality, is_bad=chance < 0.05) for epoch in steps],
            "device": "cuda:0" if lane == _LANES[0] else "cpu",
            "threads": 1,
            "torch": "2.14.1",
        },
        failures=failures,
    )


def _values(
    objectives: Sequence[Objective], quality: float, epoch: int, width: int
) -> tuple[float, ...]:
    known = {"val_accuracy": quality * (1 - 0.5**epoch), "latency_ms": 0.2 + width / 30}
    return tuple(known.get(objective.name, 1 - quality) for objective in objectives)


def _health(epoch: int, quality: float, *, is_bad: bool) -> Json:
    loss = (1.1 - quality) * 2 / epoch
    return {
        "epoch": epoch,
        "train_loss": math.nan if is_bad and epoch > 2 else loss,
        "val_loss": loss * 1.2,
        "gradient_norm_mean": 3 / epoch,
        "gradient_norm_max": 9 / epoch,
        "nonfinite_steps": 4 if is_bad and epoch > 2 else 0,
    }


def _lane(name: str, records: Sequence[TrialRecord]) -> LaneReading:
    here = [record for record in records if record.lane == name]
    failed = [failure for record in here for failure in record.failures]
    breaker = BreakerReading(BreakerState.CLOSED, 0, "It answered 429.", None)
    failures = {"x": len(failed)} if failed else {}
    return LaneReading(name, 2, 2, 0, len(here), failures, 0, breaker, None, ("worker-7",))
