"""The whole tree of errors, on one screen.

    VisionDynoError
    ├── InputError              the user's request can't be carried out as it stands
    │   ├── SpecError           a value, option or configuration file is wrong
    │   ├── ModelError          a model can't be read, understood or run
    │   │   └── BaseMissing     a model state is a difference to one that isn't held here
    │   ├── DatasetError        a data set can't be read, or its labels don't fit
    │   ├── ClassMismatch       the classes of model and data don't match
    │   ├── NotFound            nothing has this id, name or address
    │   ├── Conflict            it stands in the way of what is there already
    │   ├── TooLarge            more bytes than are taken
    │   ├── UnsupportedMedia    a file is of a kind that isn't taken here
    │   ├── UrlRefused          a URL names what isn't fetched from here
    │   ├── SourceFailed        what a URL names couldn't be had
    │   ├── Unauthorized        no valid API key came with the request
    │   ├── Forbidden           the API key doesn't allow this
    │   ├── RateLimited         too much at once; says when to come again
    │   └── BudgetSpent         it could cost more than the user allows
    ├── Unavailable             this machine lacks something that was asked for
    │   ├── MissingExtra        a Python extra isn't installed
    │   ├── NotReady            not now: it starts, stops, or can't start; says when to come again
    │   ├── TransportDown       the queue or the store can't be reached just now
    │   └── StorageFull         the disk or the quota is full; nothing was lost
    ├── OperationFailed         an operation stopped; says at which stage
    │   ├── ChildDied           a child process ended without an answer
    │   ├── Diverged            a training's loss or weights are no longer finite numbers
    │   └── TimeLimitExceeded   an operation ran past its time limit
    ├── Cancelled               the user stopped it
    └── RegressionFound         a comparison is worse than its baseline allows

A message says what went wrong, where, and what to do next, in one sentence or two. `code` is for
programs, `http_status` for the HTTP API, `exit_code` for the command line: status is data.
"""

from typing import ClassVar


class VisionDynoError(Exception):
    """Base of every error raised on purpose."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    @property
    def message(self) -> str:
        """What, where, and the next step."""
        return str(self)


class InputError(VisionDynoError):
    """The request can't be carried out as it stands; changing it helps, repeating it doesn't."""

    code = "bad_input"
    http_status = 422
    exit_code = 2


class SpecError(InputError):
    """A value, an option or a configuration file is wrong."""

    code = "bad_spec"


class ModelError(InputError):
    """A model can't be read, understood or run."""

    code = "bad_model"


class BaseMissing(ModelError):
    """A model state came as the difference to one that isn't held here: send the whole state.

    Attributes:
        sha256: the identity of the missing one; None where the error came over a wire.
    """

    code = "base_missing"
    http_status = 409
    sha256: str | None = None

    def __init__(self, message: str, sha256: str | None = None) -> None:
        self.sha256 = sha256
        super().__init__(message)


class DatasetError(InputError):
    """A data set can't be read, or its labels don't fit its images."""

    code = "bad_dataset"


class ClassMismatch(InputError):
    """The classes of a model and of the data don't match."""

    code = "class_mismatch"


class NotFound(InputError):
    """Nothing has this id, name or address."""

    code = "not_found"
    http_status = 404


class Conflict(InputError):
    """The request stands in the way of what is there already."""

    code = "conflict"
    http_status = 409


class TooLarge(InputError):
    """More bytes than are taken."""

    code = "too_large"
    http_status = 413


class UnsupportedMedia(InputError):
    """A file is of a kind that isn't taken here: by its content, whatever it is called."""

    code = "unsupported_media_type"
    http_status = 415


class UrlRefused(InputError):
    """A URL names what isn't fetched from here: its host, address or scheme isn't allowed."""

    code = "url_refused"


class SourceFailed(InputError):
    """What a URL names couldn't be had: the other server failed, refused or was too slow."""

    code = "source_failed"
    http_status = 424


class Unauthorized(InputError):
    """No valid API key came with the request."""

    code = "unauthorized"
    http_status = 401


class Forbidden(InputError):
    """The API key doesn't allow this."""

    code = "forbidden"
    http_status = 403


class RateLimited(InputError):
    """Too much at once.

    Attributes:
        retry_after_s: when to come again, seconds from now; None where only waiting is known.
    """

    code = "rate_limited"
    http_status = 429

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class BudgetSpent(InputError):
    """It could cost more than the user allows (`--max-cost`)."""

    code = "budget_spent"
    http_status = 402


class Unavailable(VisionDynoError):
    """This machine lacks something that was asked for; nothing was used in its place."""

    code = "unavailable"
    http_status = 503
    exit_code = 2


INSTALL_GPU = (
    "pip uninstall --yes onnxruntime && pip install --force-reinstall --no-deps onnxruntime-gpu"
)
"""The extra alone won't do: onnxruntime and onnxruntime-gpu are one folder, and the last one
installed has it."""


class MissingExtra(Unavailable):
    """A Python extra isn't installed."""

    code = "missing_extra"

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        command = INSTALL_GPU if extra == "gpu" else f"pip install 'visiondyno[{extra}]'"
        super().__init__(
            f"{needed_for} needs the extra '{extra}', which isn't installed. "
            f"Install it with: {command}"
        )


class NotReady(Unavailable):
    """Not now: what would answer is starting, stopping, or can't be started.

    Attributes:
        retry_after_s: when to come again, seconds from now; None where that isn't known.
    """

    code = "not_ready"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TransportDown(Unavailable):
    """The queue or the store can't be reached just now; what was accepted is kept."""

    code = "transport_down"


class StorageFull(Unavailable):
    """The disk or the quota is full; nothing that was stored is lost."""

    code = "storage_full"
    http_status = 507


class OperationFailed(VisionDynoError):
    """An operation stopped for a reason that isn't the user's input."""

    code = "operation_failed"

    def __init__(self, message: str, stage: str = "run", traceback: str | None = None) -> None:
        self.stage = stage
        self.traceback = traceback
        super().__init__(message)


class ChildDied(OperationFailed):
    """A child process ended without an answer (killed, out of memory, crashed in native code)."""

    code = "child_died"


class Diverged(OperationFailed):
    """A training's loss or weights are no longer finite numbers: its hyperparameters are why."""

    code = "diverged"


class TimeLimitExceeded(OperationFailed):
    """An operation ran past its time limit and was killed."""

    code = "time_limit"
    http_status = 504


class Cancelled(VisionDynoError):
    """The user stopped it."""

    code = "cancelled"
    http_status = 409
    exit_code = 130


class RegressionFound(VisionDynoError):
    """A comparison is worse than its baseline allows (`--fail-if`)."""

    code = "regression"
    http_status = 200
    exit_code = 3


def error_classes() -> dict[str, type[VisionDynoError]]:
    """Every error class by its `code` (how an error crosses a process or a wire)."""
    found: dict[str, type[VisionDynoError]] = {}
    pending: list[type[VisionDynoError]] = [VisionDynoError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found
