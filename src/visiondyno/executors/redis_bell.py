"""A bell over Redis' publish and subscribe: a thread listens and makes a socket readable."""

import contextlib
import socket
import threading

import redis
from redis.client import PubSub

from visiondyno.executors.queue import Bell

_LOOK_S = 0.5
_RETRY_S = 0.2


class RedisBell(Bell):
    """One listener. It subscribes anew after a lost connection and rings then: it may have missed.

    The file descriptor stays the same meanwhile, so that event loops can keep it.
    """

    def __init__(self, client: "redis.Redis", channel: str) -> None:
        """Subscribe.

        Raises:
            redis.RedisError: Redis can't be reached.
        """
        self._pubsub: PubSub = client.pubsub()  # type: ignore[no-untyped-call]  # redis's, no types
        self._pubsub.subscribe(channel)
        self._pubsub.get_message(timeout=None)  # the confirmation: what is published now arrives
        self._readable, self._ringing = socket.socketpair()
        self._readable.setblocking(False)
        self._ringing.setblocking(False)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="redis-bell", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._readable.fileno()

    def drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._readable.recv(4096):
                pass

    def close(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        with contextlib.suppress(redis.RedisError, OSError):
            # Its answer wakes the thread.
            self._pubsub.unsubscribe()  # type: ignore[no-untyped-call]  # redis's, no types
        self._thread.join()
        self._pubsub.close()
        self._readable.close()
        self._ringing.close()

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                message = self._pubsub.get_message(timeout=_LOOK_S)
            except (redis.RedisError, OSError):
                self._stopping.wait(_RETRY_S)
                continue
            if message is not None:  # a ring, or the confirmation of a new subscription
                with contextlib.suppress(BlockingIOError):  # full of rings already
                    self._ringing.send(b"!")
