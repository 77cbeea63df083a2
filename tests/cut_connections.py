"""A way to a server that can be cut, for tests: every byte passes until it is."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


class CutConnections:
    """Listens at `url` and passes bytes on to the server at `to_port`, which may change.

    `after_bytes` cuts each connection once that many bytes came back over it, once for each
    number in the list.
    """

    def __init__(self, to_port: int, after_bytes: list[int] | None = None) -> None:
        self.to_port = to_port
        self.after_bytes = after_bytes or []
        self.cuts = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def cut(self) -> None:
        """Cut every connection now."""
        for one in list(self._open):
            _close(one)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join(timeout=10)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                _close(client)
                continue
            self._open += [client, server]
            self._start(self._pass, client, server, False)
            self._start(self._pass, server, client, True)

    def _pass(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        passed_bytes = 0
        with contextlib.suppress(OSError):
            while data := source.recv(256):
                target.sendall(data)
                passed_bytes += len(data)
                if is_answer and self.after_bytes and passed_bytes >= self.after_bytes[0]:
                    self.after_bytes.pop(0)
                    self.cuts += 1
                    break
        _close(source)
        _close(target)


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
