"""`%load_ext visiondyno`: the cell magic `%%dyno_train`, which trains what the cell describes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.client.callbacks import Callback
from visiondyno.client.client import Client
from visiondyno.client.loggers import parse_logger
from visiondyno.client.training_config import parse_config
from visiondyno.client.training_report import TrainingWatch
from visiondyno.client.training_run import run_training
from visiondyno.errors import VisionDynoError
from visiondyno.job import JobEvent
from visiondyno.places import Place
from visiondyno.report.format import plural
from visiondyno.report.training import epoch_cells, epoch_columns, training_snippet

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load(shell: "InteractiveShell") -> None:
    """Give the shell its magic."""

    def dyno_train(line: str, cell: str) -> None:
        _train(shell, line, cell)

    dyno_train.__doc__ = _parser().format_help()
    shell.register_magic_function(dyno_train, "cell", "dyno_train")


class LiveEpochs(Callback):
    """The epochs so far as a display that grows: curves and a table, or lines where HTML isn't.

    Attributes:
        watch: what there is to show.
    """

    def __init__(self, watch: TrainingWatch) -> None:
        self.watch = watch
        self._doing = "starting"
        self._handle: Any = None

    def on_train_begin(self, run: dict[str, Any]) -> None:  # noqa: ARG002 - a callback's
        from IPython.display import display

        self._handle = display(self, display_id=True)

    def on_event(self, event: JobEvent) -> None:
        said = event.progress or {}
        if "stage" not in said or said["stage"] == "epoch":
            return
        count = f" {said['done']:,}/{said['total']:,}" if said.get("total") else ""
        self._doing = f"{said['stage']}{count}"

    def on_epoch_end(self, record: dict[str, Any]) -> None:
        self._doing = f"epoch {record['epoch']} of {self.watch.config.epochs} done"
        self._show()

    def on_train_end(self, result: dict[str, Any]) -> None:  # noqa: ARG002 - a callback's
        self._doing = "done"
        self._show()

    def _show(self) -> None:
        if self._handle is not None:
            self._handle.update(self)

    def __repr__(self) -> str:
        """One line: a text display shows each after the other."""
        if not self.watch.history or self._doing == "done":
            return f"{self.watch.config.title}: {self._doing}"
        record = self.watch.history[-1]
        columns = epoch_columns([record])
        cells = epoch_cells(record, columns)
        metrics = ", ".join(
            f"{part.removesuffix('_metrics')} {name} {text}"
            for (part, name), text in zip(columns, cells, strict=True)
        )
        return f"epoch {record['epoch']}/{self.watch.config.epochs}: {metrics}"

    def _repr_html_(self) -> str:
        return str(training_snippet(self.watch.record(), self._doing))


def _parser() -> Any:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise _usage_error(f"{message}; see %%dyno_train?")

    parser = Parser(
        prog="%%dyno_train",
        add_help=False,
        allow_abbrev=False,
        description="Train what the cell describes: the fields of the operation 'train' as YAML.",
    )
    parser.add_argument("--on", default="inline", help="inline, local, redis, runpod or a URL")
    parser.add_argument("--api-key", help="where a URL asks for one")
    parser.add_argument("--endpoint", help="of runpod: its id or URL")
    parser.add_argument("--gpu", help="of its workers, for the cost")
    parser.add_argument("--max-cost", type=float, help="USD that are never passed")
    parser.add_argument("--fallback", help="local or inline, where the endpoint can't be reached")
    parser.add_argument(
        "--into", default="trained", help="the name that (state, history) gets; trained if omitted"
    )
    parser.add_argument("--log", action="append", default=[], help="mlflow:URI or wandb:PROJECT")
    return parser


def _train(shell: "InteractiveShell", line: str, cell: str) -> None:
    asked = _parser().parse_args(_words(line))
    if not asked.into.isidentifier():
        raise _usage_error(f"'{asked.into}' isn't a name that Python takes; give another --into.")
    try:
        config = parse_config(cell, "The cell", Path.cwd())
        watch = TrainingWatch(config)
        loggers = [parse_logger(text) for text in asked.log]
        callbacks: list[Callback] = [watch, LiveEpochs(watch), *loggers]
        with Client(_place(asked)) as client:
            state = run_training(config, client, callbacks)
            watch.note_job(client)
    except VisionDynoError as error:
        raise _usage_error(error.message) from error
    except KeyboardInterrupt:
        done = plural(len(watch.history), "epoch")
        raise _usage_error(
            f"Interrupted after {done}. Run the cell again: it goes on from the last checkpoint "
            "that its worker kept."
        ) from None
    shell.user_ns[asked.into] = state, watch.history
    if watch.job is not None and watch.job.is_told:
        for name, text in watch.job.lines():
            print(f"{name}: {text}")  # noqa: T201  # a cell's output
    for note in watch.notes:
        print(f"Note: {note}")  # noqa: T201  # a cell's output


def _place(asked: Any) -> Place:
    return Place(
        asked.on,
        api_key=asked.api_key,
        endpoint=asked.endpoint,
        gpu=asked.gpu,
        max_cost_usd=asked.max_cost,
        fallback=asked.fallback,
    )


def _words(line: str) -> list[str]:
    import shlex

    try:
        return shlex.split(line)
    except ValueError as error:
        raise _usage_error(f"The magic's options can't be read ({error}).") from error


def _usage_error(message: str) -> Exception:
    """What IPython shows as one line, without a traceback."""
    from IPython.core.error import UsageError

    found: Exception = UsageError(message)
    return found
