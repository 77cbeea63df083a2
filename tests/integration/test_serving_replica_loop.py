"""A replica's loop, in turn and with the next batch prepared ahead: defects stay their own."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving_replica_process import BAD_INPUT, BAD_OUTPUT
from visiondyno.serving.wire import Answer, FrameReader, Item, Kind, batch_parts, read_answers

SCRIPT = Path(__file__).resolve().parents[1] / "serving_replica_process.py"


class Loop:
    """The front's end of such a process."""

    def __init__(self, *, ahead: bool) -> None:
        self.socket, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(theirs.fileno()), str(int(ahead))],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        self._reader = FrameReader()
        self._read: list[tuple[int, list[Answer]]] = []

    def send(self, batch_id: int, *firsts: int) -> None:
        items = []
        for first in firsts:
            pixels = np.full((8, 8, 3), first, np.uint8).tobytes()
            items.append(Item(Kind.PIXELS, pixels, {"height": 8, "width": 8, "conf": 0.0}))
        self.socket.sendall(b"".join(bytes(part) for part in batch_parts(batch_id, items)))

    def answers(self) -> tuple[int, list[Answer]]:
        while not self._read:
            chunk = self.socket.recv(1 << 16)
            assert chunk, self.process.communicate()[1].decode()
            self._read += [read_answers(body) for body in self._reader.feed(chunk)]
        return self._read.pop(0)

    def close(self) -> tuple[int, str]:
        """Exit code, and what it printed."""
        self.socket.close()
        _, printed = self.process.communicate(timeout=60)
        return self.process.returncode, printed.decode()


@pytest.fixture(params=[False, True], ids=["in-turn", "ahead"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    started = Loop(ahead=request.param)
    yield started
    started.close()


def test_batches_are_answered_in_order_however_many_wait(loop: Loop) -> None:
    for batch_id in range(20):
        loop.send(batch_id, *range(20, 21 + batch_id % 3))
    for batch_id in range(20):
        found_id, answers = loop.answers()
        assert found_id == batch_id
        assert [one.status for one in answers] == [200] * (1 + batch_id % 3)
        assert all(len(json.loads(one.body)["boxes_xyxy"]) == 5 for one in answers)


@pytest.mark.parametrize("bad", [BAD_INPUT, BAD_OUTPUT])
def test_a_defect_that_one_image_brings_out_is_not_the_others_affair(loop: Loop, bad: int) -> None:
    loop.send(1, 20, bad, 21)
    loop.send(2, 22)
    assert [one.status for one in loop.answers()[1]] == [200, 500, 200]
    assert [one.status for one in loop.answers()[1]] == [200]
    loop.send(3, bad)
    ((failed,),) = [loop.answers()[1]]
    assert "ZeroDivisionError" in json.loads(failed.body)["message"]
    assert "defect at the" not in failed.body.decode()  # the log has more, not the client
    code, printed = loop.close()
    assert code == 0
    assert "a defect at the" in printed


def test_an_answer_that_nobody_can_take_any_more_ends_the_loop_quietly(loop: Loop) -> None:
    loop.send(1, 20)
    loop.answers()
    for batch_id in range(2, 30):
        loop.send(batch_id, 20, 21, 22)
    code, printed = loop.close()
    assert code == 0
    assert "Traceback" not in printed


def test_what_is_no_frame_ends_the_process_so_that_the_front_sees_it(loop: Loop) -> None:
    loop.socket.sendall(b"\x02\x00\x00\x00no")
    assert loop.socket.recv(10) == b""
    assert loop.close()[0] == 1
