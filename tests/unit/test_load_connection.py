"""A connection whose transport tells late that the request was sent, as TLS does."""

import asyncio

import pytest

from visiondyno.loadtest.connection import Connection

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Transport(asyncio.Transport):
    """Says that it is full at each write, as uvloop's TLS does until the next turn of its loop."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: object) -> None:
        self._connection.pause_writing()

    def is_closing(self) -> bool:
        return False


class Owner:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.reusable: list[bool] = []

    def connected(self, connection: Connection) -> None: ...
    def answered(self, connection: Connection) -> None:
        self.reusable.append(connection.is_reusable)
        connection.row = -1

    def broke(self, connection: Connection, why: str) -> None: ...
    def lost(self, connection: Connection) -> None: ...


@pytest.mark.parametrize("ends", ["sent", "not sent", "lost"])
def test_an_answer_that_comes_before_all_is_known_to_be_sent(ends: str) -> None:
    async def talk() -> tuple[Owner, Connection]:
        owner = Owner()
        connection = Connection(owner)
        connection.connection_made(Transport(connection))
        connection.send(0, b"GET / HTTP/1.1\r\n\r\n")
        connection.data_received(OK)
        assert owner.reusable == []
        if ends == "sent":
            connection.resume_writing()
        elif ends == "lost":
            connection.connection_lost(None)
        await asyncio.sleep(0)
        return owner, connection

    owner, connection = asyncio.run(talk())
    assert owner.reusable == [ends == "sent"]
    assert connection.status == 200
    if ends == "sent":
        assert 0 < connection.sent_ns <= connection.first_byte_ns
