"""Requests to a model's graph, in the replica: read, checked, run and answered.

They are read here and not in the front: a request of some megabytes of JSON takes a processor for
hundreds of ms, in which the front would answer nobody.

An item's options: `form` (`http` or `grpc`), `json_size` (of an HTTP body with binary data),
`model` (its name, for the response), `most_rows` (of one request).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json

from visiondyno.errors import ModelError, NotFound, SpecError, VisionDynoError
from visiondyno.runtimes.base import GraphModel, GraphTensor
from visiondyno.serving import protocol_json
from visiondyno.serving.protocol_requests import InferRequest
from visiondyno.serving.tensors import Tensor
from visiondyno.serving.wire import Answer, Item, Media, Stages

_BAD_REQUEST = 400


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A request that was read and fits the graph.

    Attributes:
        place: of its item in the batch.
        item: that it came as.
        request: what it asks.
        wanted: names of outputs.
        rows: along the free dimension 0; 1 where the graph has none.
        read_ms: taken by reading it.
    """

    place: int
    item: Item
    request: InferRequest
    wanted: tuple[str, ...]
    rows: int
    read_ms: float

    @property
    def company(self) -> tuple[object, ...]:
        """Requests for which this is equal may share a run."""
        inputs = sorted((one.name, one.array.shape[1:]) for one in self.request.inputs)
        return (*self.wanted, *inputs)


@dataclass(slots=True)
class PreparedTensors:
    """A batch that was read.

    Attributes:
        count: of its items.
        read: the requests that can be run.
        refused: answers of the others, by their place.
    """

    count: int
    read: list[ReadRequest]
    refused: dict[int, Answer]


class TensorBatches:
    """Runs requests through one graph. `prepare` may be called from a thread of its own."""

    def __init__(self, graph: GraphModel | None, clock: Callable[[], int]) -> None:
        """`clock` gives ns."""
        # Here rather than at the first message; the front reads this module without it.
        from visiondyno.serving import protocol_messages

        self._messages = protocol_messages
        self._graph = graph
        self._clock = clock

    def prepare(self, items: Sequence[Item]) -> PreparedTensors:
        """Read the requests; one that is wrong gets its answer here."""
        prepared = PreparedTensors(len(items), [], {})
        for place, item in enumerate(items):
            try:
                prepared.read.append(self._read(place, item))
            except VisionDynoError as error:
                prepared.refused[place] = _refusal(error)
        return prepared

    def finish(self, prepared: PreparedTensors) -> list[Answer]:
        """Run and answer; one answer an item, in order."""
        answers = prepared.refused
        run = 0
        for members in self._runs(prepared.read):
            for group in self._answer(members):
                for place, answer in group:
                    answers[place] = Answer(
                        answer.status, answer.media, answer.body, answer.stages, run, answer.rows
                    )
                run += 1
        return [answers[place] for place in range(prepared.count)]

    def _read(self, place: int, item: Item) -> ReadRequest:
        started = self._clock()
        if self._graph is None:
            raise NotFound("This model's graph can't be run by itself; send images.")
        if item.options["form"] == "grpc":
            request = self._messages.read_request(self._messages.parse_request(item.payload))
        else:
            request = protocol_json.read_request(item.payload, item.options["json_size"])
        wanted = request.wanted([one.name for one in self._graph.outputs])
        check_inputs(request.inputs, self._graph.inputs)
        rows = 1
        if self._graph.has_free_rows:
            rows = _rows(request.inputs, item.options["most_rows"])
        took_ms = (self._clock() - started) / 1e6
        return ReadRequest(place, item, request, tuple(wanted), rows, took_ms)

    def _runs(self, read: Sequence[ReadRequest]) -> list[list[ReadRequest]]:
        """What shares a run: requests of one row that agree in all but its content.

        Those of several rows are batches already, made by who sent them.
        """
        runs: list[list[ReadRequest]] = []
        open_: dict[tuple[object, ...], list[ReadRequest]] = {}
        assert self._graph is not None or not read
        for one in read:
            if self._graph is None or not self._graph.has_free_rows or one.rows != 1:
                runs.append([one])
            elif one.company in open_:
                open_[one.company].append(one)
            else:
                open_[one.company] = members = [one]
                runs.append(members)
        return runs

    def _answer(self, members: list[ReadRequest]) -> list[list[tuple[int, Answer]]]:
        """Answers by run: of one, or of one each where they can't share it after all."""
        try:
            return [self._answer_together(members)]
        except ModelError as error:
            if len(members) > 1:
                return [found for one in members for found in self._answer([one])]
            return [[(members[0].place, _refusal(error))]]

    def _answer_together(self, members: list[ReadRequest]) -> list[tuple[int, Answer]]:
        assert self._graph is not None
        begun = self._clock()
        feeds = {
            one.name: _joined([_named(member.request, one.name) for member in members])
            for one in self._graph.inputs
        }
        started = self._clock()
        wanted = members[0].wanted
        outputs = self._graph.run_graph(feeds, wanted)
        inferred = self._clock()
        if len(members) > 1 and any(len(one) != len(members) for one in outputs):
            # The graph said that its rows are free, and they aren't.
            raise ModelError("The outputs of a joined run can't be taken apart.")
        datatypes = {one.name: one.datatype for one in self._graph.outputs}
        found = []
        for index, member in enumerate(members):
            mine = outputs if len(members) == 1 else [one[index : index + 1] for one in outputs]
            tensors = [
                Tensor(name, datatypes[name], _as_bytes(array) if array.dtype == object else array)
                for name, array in zip(wanted, mine, strict=True)
            ]
            found.append((member, self._response(member, tensors)))
        read_ms = sum(member.read_ms for member in members)
        stages = Stages(
            read_ms,
            (started - begun) / 1e6,
            (inferred - started) / 1e6,
            (self._clock() - inferred) / 1e6,
        )
        return [
            (member.place, Answer(one.status, one.media, one.body, stages, 0, member.rows))
            for member, one in found
        ]

    def _response(self, member: ReadRequest, outputs: Sequence[Tensor]) -> Answer:
        options = member.item.options
        if options["form"] == "grpc":
            body = self._messages.write_response(options["model"], member.request, outputs)
            return Answer(200, Media.TENSORS, body)
        try:
            body, json_size = protocol_json.write_response(
                options["model"], member.request, outputs
            )
        except SpecError as error:
            return _refusal(error)
        return Answer(200, Media.TENSORS, (json_size or 0).to_bytes(4, "little") + body)


def check_inputs(given: Sequence[Tensor], announced: Sequence[GraphTensor]) -> None:
    """Hold a request's inputs against a model's.

    Raises:
        SpecError: one is missing, unknown, given twice, or of another type or shape.
    """
    names = [one.name for one in given]
    known = {one.name: one for one in announced}
    for name in names:
        if name not in known:
            raise SpecError(
                f"The model has no input '{name}'; it has {', '.join(map(repr, known))}."
            )
    if len(set(names)) < len(names):
        raise SpecError("An input is given twice.")
    missing = next((name for name in known if name not in names), None)
    if missing is not None:
        raise SpecError(f"The input '{missing}' is missing.")
    for one in given:
        said = known[one.name]
        if one.datatype != said.datatype:
            raise SpecError(f"Input '{one.name}' is {said.datatype}, not {one.datatype}.")
        fits = len(one.shape) == len(said.shape) and all(
            wanted in (-1, size) for wanted, size in zip(said.shape, one.shape, strict=True)
        )
        if not fits:
            raise SpecError(
                f"Input '{one.name}' has the shape {one.shape}; the model takes "
                f"{list(said.shape)}, -1 being any size."
            )


def _rows(inputs: Sequence[Tensor], most: int) -> int:
    counts = {len(one.array) for one in inputs}
    if len(counts) > 1:
        raise SpecError("Dimension 0, the batch, must be of one size in all inputs.")
    rows = counts.pop()
    if rows == 0:
        raise SpecError("The batch is empty: dimension 0 is 0.")
    if rows > most:
        raise SpecError(f"The batch has {rows} rows; at most {most} are taken in one request.")
    return rows


def _named(request: InferRequest, name: str) -> NDArray[Any]:
    return next(one.array for one in request.inputs if one.name == name)


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    if array.dtype != object:
        return array
    try:
        texts = [element.decode() for element in array.ravel()]
    except UnicodeDecodeError:
        raise ModelError("The graph takes strings, and BYTES came that aren't UTF-8.") from None
    found = np.empty(len(texts), object)
    found[:] = texts
    return found.reshape(array.shape)


def _as_bytes(array: NDArray[Any]) -> NDArray[Any]:
    """Strings of a graph as BYTES."""
    found = np.empty(array.size, object)
    found[:] = [str(element).encode() for element in array.ravel()]
    return found.reshape(array.shape)


def _refusal(error: VisionDynoError) -> Answer:
    """The answer that tells of a request's own error; what a graph can't run is one too."""
    status = _BAD_REQUEST if error.http_status == 422 else error.http_status
    return Answer(status, Media.PROBLEM, to_json({"code": error.code, "message": error.message}))
