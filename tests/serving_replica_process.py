"""A replica's loop around a model with defects: `python serving_replica_process.py FD AHEAD`.

An image whose first pixel is 13 brings out a defect when it is pre-processed; one of 14 when its
boxes are made.
"""

import socket
import sys
from typing import Any

from visiondyno.runtimes.registry import load_model
from visiondyno.serving import replica
from visiondyno.serving.batches import Batches

BAD_INPUT, BAD_OUTPUT = 13, 14


class WithDefects:
    """The fake detector, but for two kinds of images."""

    def __init__(self) -> None:
        self._model: Any = load_model("fake:detection")
        self.description = self._model.description
        self.graph = self._model.graph

    def preprocess(self, images: list[Any]) -> Any:
        firsts = [int(one[0, 0, 0]) for one in images]
        if BAD_INPUT in firsts:
            raise ZeroDivisionError("a defect at the input")
        return firsts, self._model.preprocess(images)

    def infer(self, prepared: Any) -> Any:
        return self._model.infer(prepared[1])

    def postprocess(self, outputs: Any, prepared: Any, **named: Any) -> Any:
        if BAD_OUTPUT in prepared[0]:
            raise ZeroDivisionError("a defect at the output")
        return self._model.postprocess(outputs, prepared[1], **named)


if __name__ == "__main__":
    front = socket.socket(fileno=int(sys.argv[1]))
    model: Any = WithDefects()
    replica._serve(front, replica._Frames(front), Batches(model), ahead=sys.argv[2] == "1")
