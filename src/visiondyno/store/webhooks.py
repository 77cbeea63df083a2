"""Deliveries of webhooks in SQL. Who adds them: `JobStore.record`, with the terminal event."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, and_, func, select, update

from visiondyno.store.base import WebhookStore
from visiondyno.store.database import Database
from visiondyno.store.records import WebhookRecord
from visiondyno.store.tables import job_events, webhooks

CLAIM_S = 60.0
"""How long a delivery that was given out isn't given out again."""


class SqlWebhookStore(WebhookStore):
    """Deliveries in the table `webhooks`; the body is the event's answer as it was stored."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def due(self, now: float, limit: int = 20) -> list[WebhookRecord]:
        event = and_(
            job_events.c.job_id == webhooks.c.job_id, job_events.c.number == webhooks.c.number
        )
        query = (
            select(webhooks, job_events.c.answer.label("body"))
            .join(job_events, event)
            .where(webhooks.c.next_at <= now)
            .order_by(webhooks.c.next_at, webhooks.c.id)
            .limit(limit)
            .with_for_update(of=webhooks, skip_locked=True)
        )
        with self._database.read() as connection:  # asked often: take no write lock for nothing
            soonest = connection.execute(select(func.min(webhooks.c.next_at))).scalar_one()
        if soonest is None or soonest > now:
            return []
        with self._database.write() as connection:
            rows = connection.execute(query).fetchall()
            claimed = webhooks.c.id.in_([row.id for row in rows])
            connection.execute(update(webhooks).where(claimed).values(next_at=now + CLAIM_S))
        return [_record(row, now) for row in rows]

    def delivered(self, webhook_id: str) -> None:
        self._update(webhook_id, next_at=None, delivered_at=self._clock(), error=None)

    def failed(self, webhook_id: str, next_at: float | None, error: str) -> None:
        self._update(webhook_id, next_at=next_at, error=error, attempts=webhooks.c.attempts + 1)

    def _update(self, webhook_id: str, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(values))


def _record(row: Row[Any], now: float) -> WebhookRecord:
    return WebhookRecord(
        id=row.id,
        job_id=row.job_id,
        url=row.url,
        body=row.body,
        attempts=row.attempts,
        next_at=now + CLAIM_S,
    )
