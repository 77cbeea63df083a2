"""The store's seams. Contract: tests/contracts/store_contract.py, run on SQLite and PostgreSQL.

Methods block shortly; the service calls them from a thread. Each is one transaction. All raise
`TransportDown` where the database can't be reached, and `StorageFull` where its disk is full.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from visiondyno.job import JobState
from visiondyno.store.records import (
    ApiKeyRecord,
    ComparisonRecord,
    JobFilter,
    JobRecord,
    NewJob,
    Observed,
    RecordedEvent,
    SubmissionRecord,
    WebhookRecord,
)


class JobStore(ABC):
    """Jobs and their numbered events."""

    @abstractmethod
    def add(self, jobs: Sequence[NewJob]) -> None:
        """Add jobs, each with event 1 (IN_QUEUE); all of them or none.

        Raises:
            Conflict: a job has an id that is stored already.
        """

    @abstractmethod
    def record(self, observed: Sequence[Observed]) -> list[RecordedEvent]:
        """Append executors' events under the store's own numbers; return what was appended.

        Dropped: events of another dispatch than the job's present one, events not above `seen`
        (each is recorded once, however many processes saw it), anything after a terminal state,
        illegal moves, and changes of state that change nothing and carry no progress (a job that
        was put back is IN_QUEUE still); events of unknown jobs. The job's row follows: state,
        times, attempts, worker, progress, answer (its id becomes the job's). A terminal event of a
        job whose request names a webhook adds a `WebhookRecord` in the same transaction.
        """

    @abstractmethod
    def get(self, job_id: str) -> JobRecord | None:
        """The job."""

    @abstractmethod
    def find(self, wanted: JobFilter) -> list[JobRecord]:
        """Jobs, newest first."""

    @abstractmethod
    def open_jobs(self) -> list[JobRecord]:
        """All jobs in no terminal state, oldest first."""

    @abstractmethod
    def count_open(self) -> int:
        """How many jobs are in no terminal state; quick, however many have ended."""

    @abstractmethod
    def counts(self, endpoint: str | None = None) -> dict[JobState, int]:
        """How many jobs are in each state (each state is a key)."""

    @abstractmethod
    def oldest_waiting(self) -> float | None:
        """`created_at` of the oldest IN_QUEUE job."""

    @abstractmethod
    def count_retried(self, endpoint: str) -> int:
        """How many of the endpoint's jobs began to run more than once."""

    @abstractmethod
    def events(self, job_id: str, after: int = 0) -> list[RecordedEvent]:
        """Events with numbers above `after`, in order."""

    @abstractmethod
    def put_back(self, job_id: str, lost_dispatch: int) -> JobRecord | None:
        """The transport lost the job: back to IN_QUEUE under the next dispatch.

        One more IN_QUEUE event if it was IN_PROGRESS, none if it was IN_QUEUE still. Answers None
        if it is in a terminal state or somebody put it back already.
        """

    @abstractmethod
    def retry(self, job_id: str, at: float) -> JobRecord | None:
        """A FAILED or TIMED_OUT job waits anew; None if its state is another.

        Next dispatch, no answer, and one more IN_QUEUE event, at which its watch now begins.
        """

    @abstractmethod
    def request_cancel(self, job_id: str) -> JobRecord | None:
        """Note that the user wants the job cancelled; None if there is no such job."""

    @abstractmethod
    def end_unsent(
        self, job_id: str, state: JobState, code: str, message: str, at: float
    ) -> RecordedEvent | None:
        """End a waiting job that no executor runs (cancelled or expired before it was sent).

        Returns the terminal event, or None if the job isn't IN_QUEUE.
        """

    @abstractmethod
    def remember_request(
        self, scope: str, key: str, digest: str, answer_id: str, at: float
    ) -> tuple[str, str]:
        """Bind an idempotency key to what it created, unless it is bound already.

        Returns what the key is bound to: `(digest of the request, id of what was created)`.
        """

    @abstractmethod
    def forget_requests(self, before: float) -> int:
        """Forget idempotency keys bound earlier."""


class SubmissionStore(ABC):
    """Submissions to evaluation tasks."""

    @abstractmethod
    def save(self, submission: SubmissionRecord) -> None:
        """Add it, or replace the one with its id."""

    @abstractmethod
    def get(self, submission_id: str) -> SubmissionRecord | None:
        """The submission."""

    @abstractmethod
    def of_job(self, job_id: str) -> SubmissionRecord | None:
        """The submission that a job scores."""

    @abstractmethod
    def find(
        self, task: str | None = None, owner: str | None = None, limit: int = 100
    ) -> list[SubmissionRecord]:
        """Newest first."""

    @abstractmethod
    def ranked(self, task: str) -> list[SubmissionRecord]:
        """Completed submissions of the task (no order)."""

    @abstractmethod
    def count_since(self, task: str, owner: str | None, since: float) -> int:
        """How many the owner handed in since then, for the limit of a day."""

    @abstractmethod
    def delete(self, submission_id: str) -> bool:
        """Whether there was one."""


class ComparisonStore(ABC):
    """Comparisons and their results, found again by content."""

    @abstractmethod
    def save(self, comparison: ComparisonRecord) -> None:
        """Add it, or replace the one with its id."""

    @abstractmethod
    def get(self, comparison_id: str) -> ComparisonRecord | None:
        """The comparison."""

    @abstractmethod
    def with_content(self, content_key: str) -> ComparisonRecord | None:
        """The newest completed, really run comparison with this content key."""

    @abstractmethod
    def find(self, limit: int = 50) -> list[ComparisonRecord]:
        """Newest first."""

    @abstractmethod
    def delete(self, comparison_id: str) -> bool:
        """Whether there was one."""


class KeyStore(ABC):
    """API keys, hashed."""

    @abstractmethod
    def add(self, key: ApiKeyRecord) -> None:
        """Add it."""

    @abstractmethod
    def with_digest(self, digest: str) -> ApiKeyRecord | None:
        """The key that isn't revoked."""

    @abstractmethod
    def find(self) -> list[ApiKeyRecord]:
        """All, newest first."""

    @abstractmethod
    def touch(self, key_id: str, at: float) -> None:
        """Note its use."""

    @abstractmethod
    def revoke(self, key_id: str, at: float) -> bool:
        """Whether there was such a key in force."""


class WebhookStore(ABC):
    """Deliveries that are due."""

    @abstractmethod
    def due(self, now: float, limit: int = 20) -> list[WebhookRecord]:
        """Deliveries whose time has come, each claimed for a minute: no other process gets it."""

    @abstractmethod
    def delivered(self, webhook_id: str) -> None:
        """It arrived."""

    @abstractmethod
    def failed(self, webhook_id: str, next_at: float | None, error: str) -> None:
        """Try again at `next_at`, or never (None); one more attempt, and the error is kept."""


class Store(ABC):
    """Everything that is kept, in one database."""

    jobs: JobStore
    submissions: SubmissionStore
    comparisons: ComparisonStore
    keys: KeyStore
    webhooks: WebhookStore

    @abstractmethod
    def check(self) -> None:
        """Raise `TransportDown` unless the database answers, has our schema, and can be written."""

    @abstractmethod
    def close(self) -> None:
        """Free the connections."""
