"""How much of their time workers spend on trials: our studies beside Optuna's own threads.

Every trial takes 2 s, in which nothing is computed, of six parameters that TPE suggests. The
efficiency is the time of all trials, divided by the number of workers, over the time from the
study's begin to its end. Ours runs them in real worker processes of `local`, with a lease each and
a journal on the disk; Optuna's own (`optimize(n_jobs=…)`) in threads of one process, in memory.

Workers are started before the clock is, and once for all rounds; each round runs both arms, the
first one changing from round to round.
"""

import asyncio
import math
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import optuna

from record import Figure, Ratio, record
from tuning_trial import score, suggest
from visiondyno.client.async_client import AsyncClient
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.settings import load_settings
from visiondyno.tuning.body import JobBody
from visiondyno.tuning.book import Book
from visiondyno.tuning.journal import Journal
from visiondyno.tuning.lanes import Lane, Lanes
from visiondyno.tuning.objectives import parse_objectives
from visiondyno.tuning.runner import Limits, StudyRunner
from visiondyno.tuning.samplers import make_sampler
from visiondyno.tuning.session import SharedClient
from visiondyno.tuning.trial import State, TrialRecord
from visiondyno.wiring import make_queue_executor

TRIAL_S = 2.0
ROUNDS = 5
TRIALS = {2: 16, 4: 32, 8: 64, 64: 512}
"""By number of workers: eight trials each, an ideal of 16 s."""
BESIDE_OPTUNA = (8, 64)


class Space:
    """The six parameters."""

    suggest = staticmethod(suggest)


@asynccontextmanager
async def worker_pool(workers: int) -> AsyncIterator[AsyncClient]:
    """A client whose workers are all ready."""
    with tempfile.TemporaryDirectory(prefix="visiondyno-bench-") as home:
        settings = load_settings(home=Path(home), workers_min=workers, workers_max=workers)
        executor = make_queue_executor(settings, entry="tuning_trial:run")
        async with AsyncClient(executor) as client:
            await executor.start()
            while (await executor.health()).workers_ready < workers:
                await asyncio.sleep(0.2)
            yield client


async def our_efficiency(client: AsyncClient, workers: int, seed: int) -> float:
    """One study on workers that are there."""
    objectives = parse_objectives(["score:maximize"])
    # A job for every eight workers lies ready; with one worker trials are strictly in turn.
    at_once = workers + (math.ceil(workers / 8) if workers > 1 else 0)

    def job(trial: TrialRecord) -> dict[str, object]:
        return {"operation": "trial", "seconds": TRIAL_S, "params": dict(trial.params)}

    with tempfile.TemporaryDirectory(prefix="visiondyno-bench-") as folder:
        journal = Journal.begin(Path(folder) / "study", {"seed": seed})
        book = Book(objectives, Space(), make_sampler("tpe", {}, seed), None, seed, journal)
        body = JobBody(objectives, job, values_of=lambda output: [output["score"]])
        lane = Lane("local", SharedClient(client, is_here=True), at_once)
        runner = StudyRunner(book, body, Lanes([lane], at_once), Limits(TRIALS[workers]))
        began_s = time.perf_counter()
        await runner.run()
        took_s = time.perf_counter() - began_s
        book.close()
    assert all(trial.state is State.COMPLETED for trial in book.all())
    assert len(book.all()) == TRIALS[workers]
    return TRIALS[workers] * TRIAL_S / workers / took_s


def optunas_efficiency(workers: int, seed: int) -> float:
    """Optuna's own loop: so many threads, in memory."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial)
        time.sleep(TRIAL_S)
        return score(params)

    began_s = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS[workers], n_jobs=workers)
    took_s = time.perf_counter() - began_s
    assert len(study.trials) == TRIALS[workers]
    return TRIALS[workers] * TRIAL_S / workers / took_s


async def run_rounds(workers: int) -> tuple[list[float], list[float]]:
    """Ours and, where it is measured beside, Optuna's efficiencies, round by round."""
    ours, theirs = [], []
    async with worker_pool(workers) as client:
        for number in range(ROUNDS):
            arms = ["ours"] + (["optuna"] if workers in BESIDE_OPTUNA else [])
            for arm in arms if number % 2 == 0 else reversed(arms):
                if arm == "ours":
                    ours.append(await our_efficiency(client, workers, number))
                else:
                    theirs.append(await asyncio.to_thread(optunas_efficiency, workers, number))
            beside = f", Optuna's own {theirs[-1]:.3f}" if theirs else ""
            print(f"{workers} workers, round {number + 1}: {ours[-1]:.3f}{beside}", flush=True)
    return ours, theirs


def main() -> None:
    """Measure, print and record."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # our workers find tuning_trial there
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monitor = QuietMonitor()
    monitor.start()
    targets = {8: ">= 0.97", 64: ">= 0.92"}
    figures, ratios = {}, {}
    for workers, trials in TRIALS.items():
        ours, theirs = asyncio.run(run_rounds(workers))
        figures[f"efficiency_{workers}"] = Figure(
            ours, "1", f"{workers} worker processes, {trials} trials",
            targets.get(workers, "none"),
        )  # fmt: skip
        if theirs:
            figures[f"optuna_efficiency_{workers}"] = Figure(
                theirs, "1", f"Optuna's own, {workers} threads, {trials} trials"
            )
            ratios[f"efficiency_{workers}_vs_optuna"] = Ratio(
                list(zip(ours, theirs, strict=True)), "1", "ours over Optuna's own", "none"
            )
    settings = {
        "trial_s": TRIAL_S,
        "trials": {str(workers): count for workers, count in TRIALS.items()},
        "rounds": ROUNDS,
        "sampler": "TPESampler with Optuna's defaults, six parameters",
        "ours": "local executor (SQLite queue), journal on the disk",
        "optuna": f"{optuna.__version__}, optimize(n_jobs=workers), in memory, threads",
    }
    record("tuning", ratios, settings, monitor, figures)


if __name__ == "__main__":
    main()
