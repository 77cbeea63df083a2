"""A study of its own process: `python tuned_process.py OUT TRIALS [--resume]`; told on its output.

Its two local workers run `counted_operations`, which leave a note of each run.
"""

import sys
from functools import partial
from typing import Any

import visiondyno
from visiondyno import places
from visiondyno.tuning.progress import AggregatedProgress
from visiondyno.wiring import make_queue_executor


def objective(trial: Any) -> float:
    x = trial.suggest_float("x", 0.0, 1.0)
    trial.client.run(
        {"operation": "work", "name": f"trial {trial.number}", "steps": 5, "step_s": 0.1}
    )
    return float(x)


def tell(progress: AggregatedProgress) -> None:
    print(progress.completed_trials, progress.running_trials, flush=True)


if __name__ == "__main__":
    places.make_queue_executor = partial(make_queue_executor, entry="counted_operations:run")
    result = visiondyno.tune(
        objective,
        objectives="score:maximize",
        trials=int(sys.argv[2]),
        workers=2,
        seed=5,
        out=sys.argv[1],
        resume="--resume" in sys.argv,
        callbacks=[tell],
    )
    print("ended", len(result.trials), result.taken_up, flush=True)
