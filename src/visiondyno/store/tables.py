"""The tables, as the code of today needs them. `migrations` makes them; a test compares both.

Times are seconds since the epoch. JSON is text: it is never searched, and one form serves both
databases.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    literal_column,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
    }
)

RETRIED = literal_column("attempts") > literal_column("1")
"""Jobs that ran more than once; literal, so that SQLite sees that the index for it serves."""

# What changes with each event is kept small: SQLite writes a changed row anew as a whole, so the
# request (megabytes, perhaps) is beside it, and an answer lies with its terminal event alone.
jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("dispatch", Integer, nullable=False),
    Column("seen", Integer, nullable=False),
    Column("first_number", Integer, nullable=False),
    Column("last_number", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("worker_id", Text),
    Column("progress", Text),
    Column("cancel_requested", Boolean, nullable=False),
    Column("webhook", Text),
    Column("owner", Text),
    Index(None, "created_at"),
    Index(None, "state", "created_at", "endpoint"),
    Index("ix_jobs_retried", "endpoint", sqlite_where=RETRIED, postgresql_where=RETRIED),
    sqlite_with_rowid=False,
)

job_requests = Table(
    "job_requests",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("request", Text, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", Text, ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("progress", Text),
    Column("answer", Text),
    sqlite_with_rowid=False,
)

# What is sent is the answer of event `number`; `next_at` is NULL once nothing is due any more.
webhooks = Table(
    "webhooks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("job_id", Text, ForeignKey("jobs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("url", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double),
    Column("delivered_at", Double),
    Column("error", Text),
    Index(None, "next_at"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("answer_id", Text, nullable=False),
    Column("bound_at", Double, nullable=False),
    Index(None, "bound_at"),
)

submissions = Table(
    "submissions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("task", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("model_sha256", Text, nullable=False),
    Column("file_name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("job_id", Text),
    Column("owner", Text),
    Column("ended_at", Double),
    Column("score", Double),
    Column("low", Double),
    Column("high", Double),
    Column("metrics", Text, nullable=False),
    Column("error", Text),
    Index(None, "created_at"),
    Index(None, "task", "created_at"),
    Index(None, "job_id"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("spec", Text, nullable=False),
    Column("content_key", Text),
    Column("comparison", Text),
    Column("cached_from", Text),
    Column("owner", Text),
    Index(None, "created_at"),
    Index(None, "content_key"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("scope", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double),
    Column("revoked_at", Double),
)
