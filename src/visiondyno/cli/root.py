"""The group `dyno`: which commands there are, and how each of them ends."""

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from visiondyno import __version__
from visiondyno.errors import VisionDynoError

_GROUPS = {
    "Measure": {
        "demo": "Compare the two shipped detectors on synthetic street scenes.",
        "compare": "Compare models on one data set and one machine; write a report.",
        "report": "Merge reports: their models side by side, and how each model's runs agree.",
        "evaluate": "Score one model's accuracy on a data set, without timing.",
        "profile": "Find out where a model's time goes, operator by operator.",
        "doctor": "Say what this machine can measure, and what is missing.",
    },
    "Make models": {
        "train": (
            "Train a model from a YAML file or from options; write weights, curves and history."
        ),
        "tune": "Search hyperparameters with many workers at once.",
        "export": "Write a model as ONNX, OpenVINO or TensorRT, checked against it.",
        "quantize": "Write a model in int8 or fp16, and compare it with what it was.",
        "prune": "Remove channels of a trained model, train what is left, and compare the two.",
    },
    "Use models": {
        "predict": "Run a model on images or a video; print what it finds, or draw it.",
        "serve": "Serve a model over HTTP: REST, Open Inference Protocol, metrics.",
        "loadtest": "Put one or more targets under a load, and report how they behave.",
    },
    "Models and data that are here": {
        "models": (
            "List models, show what a model says of itself, download weights, write model cards."
        ),
        "datasets": (
            "List data sets, describe one, write the built-in ones to a folder, "
            "pull published ones."
        ),
    },
    "Servers and workers": {
        "up": "Start the server: job API, dashboard, submissions, and workers on this machine.",
        "worker": "Run worker processes for a queue on Redis, on this machine.",
        "jobs": "List, show, follow, cancel and retry a server's jobs; print their logs.",
        "workers": "List a server's workers; drain, resume or restart one.",
        "keys": "Make, list and revoke the API keys of this machine's server.",
        "db": "Upgrade, back up or restore the server's database.",
        "emulate": "Run a RunPod endpoint on this machine, to develop against without paying.",
        "deploy": "Build, push and deploy the worker's image to RunPod.",
    },
}
_COMMANDS = {name: said for group in _GROUPS.values() for name, said in group.items()}


_IN_PLACE = frozenset(
    {"compare", "evaluate", "predict", "models", "serve", "export", "quantize", "prune", "profile"}
)
"""Commands that may run the user's own choice of models in place, Python code included."""


class _LazyGroup(click.Group):
    """A group that knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        with _ending_at_once():
            module = importlib.import_module(f"visiondyno.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name in _IN_PLACE:
            from visiondyno.runtimes.trusted_code import trusting_code

            ctx.with_resource(trusting_code())
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Padded, so that the summaries of all sections begin in one column.
        width = max(map(len, _COMMANDS))
        for title, commands in _GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), said) for name, said in commands.items()])


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dyno")
def dyno() -> None:
    """Put a vision model on the dyno: measurements that can be trusted.

    Start with `dyno demo`, then `dyno compare MODEL… --data FOLDER`.
    """


def run(arguments: list[str] | None = None) -> Any:
    """Run the command line and exit with its code.

    Exit codes: 0 done, 1 a defect or a failed operation, 2 bad input or something missing, 3 a
    regression against a baseline, 130 interrupted (Ctrl-C), 143 terminated, 129 hung up. A
    defect's traceback is shown with VISIONDYNO_DEBUG=1.
    """
    _end_by_signals_as_by_an_interrupt()
    try:
        code = dyno.main(arguments, prog_name="dyno", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        number = _told_to_end[0] if _told_to_end else signal.SIGINT
        what = "Interrupted" if number == signal.SIGINT else "Terminated"
        _show_notes(error if isinstance(error, KeyboardInterrupt) else error.__cause__)
        click.echo(f"{what}; everything it started was stopped.", err=True)
        sys.exit(128 + number)
    except VisionDynoError as error:
        _explain(error)
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("VISIONDYNO_DEBUG"):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}:{last.lineno}"  # noqa: PTH119 - pathlib costs a start
        what = f"{type(error).__name__}: {error}"
        click.echo(
            f"Error: a defect of visiondyno itself ({what}, at {where}). "
            "Please report it; VISIONDYNO_DEBUG=1 shows the traceback.",
            err=True,
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """Inside, Ctrl-C ends the process there and then: nothing was started that must be stopped.

    An exception out of a handler would come up inside the native code that modules of C++ run when
    they are imported, which takes it for an error of its own, or aborts.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _end_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end_at_once(number: int, _: FrameType | None) -> NoReturn:
    sys.stderr.write("\nInterrupted; nothing was started.\n")
    sys.stderr.flush()
    os._exit(128 + number)


def _end_by_signals_as_by_an_interrupt() -> None:
    """So that what costs elsewhere is stopped; `up` and `worker` set handlers of their own."""
    _told_to_end.clear()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # One that is ignored was told to be: `nohup dyno …` outlives its terminal.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


_told_to_end: list[int] = []
"""Numbers of the signals that came, besides SIGINT."""


def _terminate(number: int, frame: FrameType | None) -> None:
    _told_to_end.append(number)
    interrupt = signal.getsignal(signal.SIGINT)
    if callable(interrupt) and interrupt is not signal.default_int_handler:
        # An event loop's: it cancels what runs. An exception from here would break into whatever
        # the loop is at.
        interrupt(signal.SIGINT, frame)
        return
    raise KeyboardInterrupt


def _explain(error: Any) -> None:
    click.echo(f"Error: {error.message}", err=True)
    _show_notes(error)
    if os.environ.get("VISIONDYNO_DEBUG") and getattr(error, "traceback", None):
        click.echo(error.traceback, err=True)


def _show_notes(error: BaseException | None) -> None:
    """What an error carries beside its message, such as what its job has cost."""
    for note in getattr(error, "__notes__", ()):
        click.echo(note, err=True)
