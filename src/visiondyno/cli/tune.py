"""`dyno tune`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from rich.console import Console

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.tune_options import asked_of, check_folder, whereabouts
from visiondyno.cli.tune_summary import is_in_vain, summary_lines
from visiondyno.cli.tuning_display import TuningDisplay
from visiondyno.errors import SpecError, VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.places import Place
from visiondyno.settings import load_settings
from visiondyno.tuning.json_lines import JsonLines
from visiondyno.tuning.progress import AggregatedProgress
from visiondyno.tuning.run_record import StudyRun, registered
from visiondyno.tuning.study import Study, StudyResult

PROGRESS = "progress.jsonl"
RESULTS = "results.json"

_EPILOG = (
    "Example: dyno tune --data mnist --trials 20 --workers 4 --on local. Ctrl-C ends it, and "
    "dyno tune --resume goes on; --trials and --timeout may be given anew then."
)


def _some(
    context: click.Context, parameter: click.Parameter, value: tuple[str, ...]
) -> list[str] | None:
    found = options.split_list(context, parameter, value)
    if value and found is None:  # the default isn't what was asked for
        raise click.BadParameter("give one such as val_accuracy.")
    return found


def _at_places(function: Callable[..., Any]) -> Callable[..., Any]:
    return place_options(function, default="local")


@click.command(epilog=_EPILOG)
@click.option(
    "--data",
    metavar="REF",
    help="digits, mnist, fashion_mnist, cifar10, or a folder of labelled images.",
)
@click.option("--trials", type=int, metavar="N", help="In all. [default: 20]")
@click.option("--workers", type=int, metavar="N", help="Trials at once. [default: 1]")
@_at_places
@click.option(
    "--mode",
    type=click.Choice(["simple", "thorough"]),
    help="Which built-in space is searched. [default: simple]",
)
@click.option(
    "--space", type=click.Path(path_type=Path), metavar="FILE.yaml", help="Search your own space."
)
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    callback=_some,
    metavar="NAME[,NAME]",
    help="What is searched for, such as val_accuracy,latency_ms,energy_joules; add :minimize or "
    ":maximize to other names. [default: val_accuracy]",
)
@click.option(
    "--allow-estimated",
    is_flag=True,
    default=None,
    help="Take an energy that is estimated, not measured, as an objective.",
)
@click.option("--epochs", type=int, metavar="N", help="Of a trial. [default: 5]")
@click.option("--seed", type=int, metavar="N", help="Of the study. [default: 0]")
@click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N. [default: auto]")
@click.option(
    "--image-size", type=int, metavar="N", help="Scale to N x N. [default: as the images are]"
)
@click.option("--channels", type=int, metavar="1|3", help="Of data that only workers have.")
@click.option("--classes", type=int, metavar="N", help="Of data that only workers have.")
@click.option("--sampler", metavar="NAME", help="A sampler of Optuna. [default: TPESampler]")
@click.option("--pruner", metavar="NAME", help="asha, none, or a pruner of Optuna. [default: asha]")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any field of a study by its dotted name, such as sampler_arguments.n_startup_trials=5.",
)
@click.option(
    "--trial-timeout",
    "trial_timeout_s",
    callback=options.duration_s,
    metavar="TIME",
    help="Kill a trial that runs for longer: 90s, 10m, 2h. [default: never]",
)
@click.option(
    "--timeout",
    "timeout_s",
    callback=options.duration_s,
    metavar="TIME",
    help="End the study after this time. [default: never]",
)
@click.option("--resume", is_flag=True, help="Go on with the study in --out.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("dyno-tuning"),
    show_default=True,
    metavar="DIR",
    help="Where the study is kept, and its results go.",
)
@click.option(
    "--progress",
    "shown",
    type=click.Choice(["live", "plain", "json"]),
    help="live redraws a view on standard error, plain writes a line a trial there, json writes "
    "lines of JSON to standard output. [default: live on a terminal, else plain]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--no-test", is_flag=True, help="Leave the best trial untested.")
def command(
    *,
    place: Place,
    workers: int | None,
    space: Path | None,
    changes: tuple[str, ...],
    resume: bool,
    out: Path,
    shown: str | None,
    as_json: bool,
    no_test: bool,
    **given: Any,
) -> int:
    """Search hyperparameters with many workers at once.

    Trials are trainings of one model each, compared on validation data; the best one is tested
    once on data that no trial has seen. What fails is tried again elsewhere or left behind, and
    the study goes on. Everything is kept in --out as it happens: after Ctrl-C, a crash or a
    power cut, --resume goes on from there.
    """
    if shown == "json" and as_json:
        raise SpecError(
            "--json and --progress json both write to standard output; leave --json out, and read "
            f"{out / RESULTS} at the end."
        )
    asked = asked_of(options.given(given), space, changes, resume=resume)
    named = click.get_current_context().get_parameter_source("where")
    is_named = named is not ParameterSource.DEFAULT
    place, workers = whereabouts(place, workers, out, resume=resume, is_named=is_named)
    check_folder(out, resume=resume)
    study = Study(asked, place, workers=workers, folder=out, resume=resume)
    run = _Run(study, place, workers, out, shown)
    result = run.to_its_end(is_tested=not no_test)
    _print(result, workers, out, as_json=as_json, is_aside=shown == "json")
    return 1 if is_in_vain(result) else 0


class _Run:
    """One run of a study: what is shown of it, and what is kept."""

    def __init__(
        self, study: Study, place: Place, workers: int, out: Path, shown: str | None
    ) -> None:
        self._study = study
        self._out = out
        self._shown = shown
        self._title = f"{_data_of(study)}: {', '.join(o.name for o in study.objectives)}"
        self._kept = _Kept(study, _run_of(study, place, workers, self._title), out)
        self._is_over = False

    def to_its_end(self, *, is_tested: bool) -> StudyResult:
        """Run it, write its results, and test the best trial."""
        home = load_settings().folder
        with registered(home, self._out), self._keeping_what_is_known():
            self._kept.begin()
            self._study.board.subscribe(self._kept, "what is kept of the progress")
            with self._display():
                result = self._study.run(_Stages())
            self._kept.end(result.stopped)
            self._write(result)
            if is_tested:
                result = self._tested(result)
        return result

    @contextmanager
    def _keeping_what_is_known(self) -> Iterator[None]:
        """Writes the results up to now before an error goes on its way."""
        try:
            yield
        except BaseException as error:
            if self._is_over:
                click.echo(
                    f"The study was over, and its results are in {self._out}; only the test was "
                    f"stopped. Go on with it with: dyno tune --resume --out {self._out}",
                    err=True,
                )
                raise
            why = "It was interrupted."
            if not isinstance(error, KeyboardInterrupt):
                said = error.message if isinstance(error, VisionDynoError) else repr(error)
                why = f"It failed: {said}"
            result = self._study.left_behind(why)
            if result is not None:
                self._kept.end(why)
                self._write(result)
                _say_how_to_go_on(result, self._out)
            raise

    def _write(self, result: StudyResult) -> None:
        from visiondyno.tuning.results import write_results

        write_results(result, self._out)
        self._is_over = True

    def _tested(self, result: StudyResult) -> StudyResult:
        from visiondyno.tuning.tested import with_test

        if result.best:
            click.echo("testing what was found", err=True)
        tested = with_test(self._study, result, self._out)
        self._write(tested)
        return tested

    def _display(self) -> AbstractContextManager[object]:
        study = self._study
        if self._shown == "json":
            lines = JsonLines(sys.stdout, study.objectives)
            study.board.subscribe(lines, "lines of JSON")
            return nullcontext()
        is_drawn = None if self._shown is None else self._shown == "live"
        console = Console(stderr=True, force_terminal=is_drawn)
        return TuningDisplay(study.board, study.objectives, self._title, console)


class _Kept:
    """Keeps `progress.jsonl` and `run.json` in the study's folder, from its first change on.

    A study whose data can't be used leaves no folder.
    """

    def __init__(self, study: Study, run: StudyRun, out: Path) -> None:
        self._objectives = study.objectives
        self._run = run
        self._out = out
        self._lines: JsonLines | None = None

    def begin(self) -> None:
        """The run has begun; of a study that is gone on with it is told at once."""
        if self._out.is_dir():
            self._run.write(self._out)

    def __call__(self, progress: AggregatedProgress) -> None:
        if self._lines is None:
            self._run.write(self._out)
            self._lines = JsonLines(self._out / PROGRESS, self._objectives)
        self._lines(progress)

    def end(self, stopped: str | None) -> None:
        """The run has ended."""
        if self._lines is not None:
            self._lines.close()
        replace(self._run, ended_at=time.time(), stopped=stopped).write(self._out)


class _Stages:
    """Says once each what is done before the first trial, on standard error."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, event: JobEvent) -> None:
        stage = str((event.progress or {}).get("stage", ""))
        if stage and stage != self._said:
            self._said = stage
            click.echo(stage, err=True)


def _data_of(study: Study) -> str:
    spec = study.spec
    if spec.data is not None:
        return Path(spec.data).name or spec.data
    return spec.training_data if isinstance(spec.training_data, str) else "own data"


def _run_of(study: Study, place: Place, workers: int, title: str) -> StudyRun:
    return StudyRun(
        title=title,
        where=place.where,
        workers=workers,
        objectives=tuple(f"{one.name}:{one.direction}" for one in study.objectives),
        began_at=time.time(),
        endpoint=place.endpoint,
        gpu=place.gpu,
        max_cost_usd=place.max_cost_usd,
        fallback=place.fallback,
    )


def _say_how_to_go_on(result: StudyResult, out: Path) -> None:
    ended = sum(trial.state.has_ended for trial in result.trials)
    click.echo(
        f"{ended} of {result.spec.trials} trials have ended and are kept in {out}; go on with: "
        f"dyno tune --resume --out {out}",
        err=True,
    )


def _print(result: StudyResult, workers: int, out: Path, *, as_json: bool, is_aside: bool) -> None:
    if as_json:
        click.echo((out / RESULTS).read_text(encoding="utf-8"), nl=False)
        return
    for name, text in summary_lines(result, workers, out):
        click.echo(f"{name:<12} {text}", err=is_aside)
    for note in result.notes:
        click.echo(f"Note: {note}", err=is_aside)
