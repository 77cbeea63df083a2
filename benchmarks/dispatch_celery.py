"""Celery's application and its no-op task, for its workers and for who asks them."""

import os
from typing import Any

from celery import Celery

SETTINGS: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {"visibility_timeout": 30},
    "result_backend_transport_options": {"visibility_timeout": 30},
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
}

_URL = os.environ["DISPATCH_REDIS"]
app = Celery("dispatch", broker=_URL, backend=_URL)
app.conf.update(SETTINGS)


@app.task(name="noop")  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    """Answer with the number that came."""
    return number
