"""The connection to Redis: opened at the first use, checked, and its failures in our words."""

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
)
from redis.retry import Retry

from visiondyno.errors import SpecError, StorageFull, TransportDown
from visiondyno.executors.redis_bell import RedisBell

T = TypeVar("T")

_OLDEST = (6, 2)
_CONNECT_S = 3.0
_ANSWER_S = 10.0


class RedisConnection:
    """One Redis or Valkey, version 6.2 or newer, and the queue's script on it.

    Attributes:
        place: host and port (or socket path), for messages: the URL holds a password.
    """

    def __init__(self, url: str, script: str) -> None:
        """Nothing is connected yet.

        Raises:
            SpecError: the URL is none of Redis.
        """
        try:
            parts = urlsplit(url)
            self.place = f"{parts.hostname}:{parts.port or 6379}" if parts.netloc else parts.path
            self._client = redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=_CONNECT_S,
                socket_timeout=_ANSWER_S,
                socket_keepalive=True,
                health_check_interval=10,
                # A connection that was idle over a restart is found broken only when it is used.
                # Not after a time-out: what was asked may still be done.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
        except ValueError:
            raise SpecError(
                "The Redis URL is wrong; it looks like redis://HOST:6379/0, "
                "rediss://USER:PASSWORD@HOST:PORT/0 or unix:///PATH."
            ) from None  # the cause's text may hold the password
        self._script = self._client.register_script(script)
        self._checked = False

    def run(self, keys: list[str], arguments: list[Any]) -> Any:
        """Run the script.

        Raises:
            TransportDown: Redis can't be reached, or doesn't take writes just now.
            StorageFull: its memory or its disk is full.
            SpecError: it doesn't let us in, is too old, or may evict jobs.
        """
        return self._asking(lambda: self._script(keys=keys, args=arguments))

    def listen(self, channel: str) -> RedisBell:
        """Listen to a channel; raises what `run` does."""
        return self._asking(lambda: RedisBell(self._client, channel))

    def close(self) -> None:
        """Free the connections."""
        self._client.close()

    def _asking(self, ask: Callable[[], T]) -> T:
        try:
            if not self._checked:
                self._check()
            return ask()
        except redis.RedisError as error:
            explained = self._explained(error)
            if explained is None:
                raise
            raise explained from error

    def _check(self) -> None:
        told: dict[str, Any] = self._client.info()
        version = str(told["redis_version"])
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise SpecError(f"Redis at {self.place} is version {version}; 6.2 or newer is needed.")
        policy = told.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise SpecError(
                f"Redis at {self.place} may evict jobs: its maxmemory-policy is '{policy}'. "
                "Set it to 'noeviction'."
            )
        self._checked = True

    def _explained(self, error: redis.RedisError) -> Exception | None:
        """The error in our words; None if it is a defect of ours."""
        text = str(error)
        if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
            return SpecError(
                f"Redis at {self.place} doesn't let us in; "
                "correct user and password in VISIONDYNO_REDIS_URL."
            )
        if "DB index" in text:
            return SpecError(
                f"Redis at {self.place} has no database of that number; "
                "correct the end of VISIONDYNO_REDIS_URL."
            )
        # Before Redis 7 a script's errors come wrapped: only their text tells them apart.
        if isinstance(error, OutOfMemoryError) or "OOM command" in text or "MISCONF" in text:
            return StorageFull(
                f"Redis at {self.place} is out of memory or disk; nothing that was accepted is "
                "lost. Raise its maxmemory or free some space, and submit again."
            )
        if isinstance(error, BusyLoadingError):
            why = "is reading its data and answers soon"
        elif isinstance(error, redis.TimeoutError):
            why = "doesn't answer"
        elif isinstance(error, redis.ConnectionError):
            why = "can't be reached"
        elif any(code in text for code in ("READONLY", "read only", "NOREPLICAS", "MASTERDOWN")):
            why = "takes no writes just now"
        else:
            return None
        return TransportDown(
            f"Redis at {self.place} {why}; what was accepted is kept. "
            "Check that it runs; asking again is safe."
        )
