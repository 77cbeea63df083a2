"""From an address to a queue."""

from pathlib import Path

from visiondyno.errors import MissingExtra
from visiondyno.executors.queue import DEFAULT_RETENTION_S, JobQueue


def is_redis(address: str) -> bool:
    """Whether `address` names a Redis server rather than a file."""
    return address.partition("://")[0] in {"redis", "rediss", "unix"}


def open_queue(address: str, retention_s: float = DEFAULT_RETENTION_S) -> JobQueue:
    """The queue at `address`: a Redis URL, or the path of the local queue's file.

    Raises:
        TransportDown: it can't be reached or opened.
        MissingExtra: the extra for Redis isn't installed.
    """
    if not is_redis(address):
        from visiondyno.executors.sqlite_queue import SqliteQueue

        return SqliteQueue(Path(address), retention_s=retention_s)
    try:
        from visiondyno.executors.redis_queue import RedisQueue
    except ImportError as error:
        raise MissingExtra("redis", "A queue on Redis") from error
    return RedisQueue(address, result_expiry_s=retention_s)
