"""A study of an objective function of one's own."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from visiondyno.errors import SpecError
from visiondyno.places import Place
from visiondyno.settings import Settings
from visiondyno.specs.function_study import FunctionSpec
from visiondyno.specs.tuning import StudySpec
from visiondyno.tuning.function_body import FunctionBody, ObjectiveFunction
from visiondyno.tuning.runner import Limits
from visiondyno.tuning.study import OnEvent, Prepared, Study, StudyResult

_GRACE_S = 1.0
"""Of a function nobody else kills: only its jobs are, where they run."""


class AskedLater:
    """The space of a function: which parameters a trial has shows while it runs."""

    def suggest(self, trial: Any) -> dict[str, Any]:  # noqa: ARG002 - nothing is known of it yet
        """None yet."""
        return {}


class FunctionStudy(Study):
    """One run of a study of a function; like `Study`, whose arguments it takes.

    Args:
        function: is called with a `FunctionTrial` for each trial, in a thread of its own.
        spec: the fields of `FunctionSpec`, without `function`.
    """

    spec_class: ClassVar[type[StudySpec]] = FunctionSpec
    queues_ahead: ClassVar[bool] = False

    def __init__(
        self,
        function: ObjectiveFunction,
        spec: Mapping[str, Any],
        place: Place,
        *,
        workers: int = 1,
        folder: Path | None = None,
        resume: bool = False,
        settings: Settings | None = None,
    ) -> None:
        if not callable(function):
            raise SpecError(
                f"The objective is of type {type(function).__name__}; give a function of a trial."
            )
        self._function = function
        self._own_folder: TemporaryDirectory[str] | None = None
        super().__init__(
            {**spec, "function": _name(function)},
            place,
            workers=workers,
            folder=folder,
            resume=resume,
            settings=settings,
        )

    def run(self, on_event: OnEvent = lambda _: None) -> StudyResult:
        try:
            return super().run(on_event)
        finally:
            if self._own_folder is not None:
                self._own_folder.cleanup()

    def _limits(self) -> Limits:
        spec = self.spec
        limit_s = spec.trial_timeout_s
        return Limits(spec.trials, spec.timeout_s, trial_timeout_s=limit_s, grace_s=_GRACE_S)

    def _prepare(self, on_event: OnEvent) -> Prepared:  # noqa: ARG002 - nothing takes long
        limit_s = self.spec.trial_timeout_s
        body = FunctionBody(
            self._function, self.objectives, self._trial_folder, time_limit_s=limit_s
        )
        return Prepared(AskedLater(), body)

    def _trial_folder(self, number: int) -> Path:
        """Of a study that isn't kept, in a folder that goes with it."""
        if self._folder is None and self._own_folder is None:
            self._own_folder = TemporaryDirectory(prefix="study-", ignore_cleanup_errors=True)
        assert self._own_folder is not None or self._folder is not None
        top = self._folder or Path(self._own_folder.name if self._own_folder else "")
        return top / "trials" / str(number)


def _name(function: ObjectiveFunction) -> str:
    """What a study that goes on must be of again; not its module, which a script's name hides."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return str(name)[:500]
