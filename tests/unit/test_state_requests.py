"""States into an operation: every format, what is kept, what is refused."""

import base64
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_cases import EPOCH, Worker, asking, assert_same, full, sending

from visiondyno.errors import BaseMissing, ModelError, NotFound, SpecError, TooLarge
from visiondyno.operations.state_exchange import receive_state
from visiondyno.specs.operations import parse
from visiondyno.specs.training_operations import TrainEpochInput, TrainInput
from visiondyno.state import FORMATS, EncodedState, State, encode, identity, to_safetensors


def state_of(seed: int = 0, rows: int = 64) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "weight": random.standard_normal((rows, 32)).astype(np.float32),
        "bias": random.standard_normal(rows).astype(np.float32),
        "steps": np.array(seed, np.int64),
    }


def stepped(state: State, seed: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: np.asarray(array + 1e-4 * random.standard_normal(array.shape), array.dtype)
        for name, array in state.items()
    }


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def test_no_state_is_none(worker: Worker) -> None:
    assert receive_state(asking(None), worker.files) is None


@pytest.mark.parametrize("blob", [False, True])
@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_is_taken_inline_and_as_a_blob(
    format_name: str, blob: bool, worker: Worker
) -> None:
    base = worker.receive(sending(encode(state_of())))
    kind = format_name.removesuffix("+shuffle+zstd")
    options: dict[str, Any] = {
        "safetensors": {},
        "delta": {"base": base.state},
        "bf16": {"lossy": "bf16"},
        "int8-delta": {"base": base.state, "lossy": "int8-delta"},
    }[kind]
    state = stepped(state_of())
    sent = encode(state, **options)
    if format_name == kind:  # `encode` takes the smaller; the receiver must read both
        sent = unpacked(sent, kind)
    assert sent.format == format_name
    given = worker.put(sent.data) if blob else base64.b64encode(sent.data).decode()
    received = worker.receive(asking(given, format_name))
    assert_same(received.state, sent.decoded)
    assert received.sha256 == sent.sha256 == identity(sent.decoded)


def unpacked(sent: EncodedState, kind: str) -> EncodedState:
    from visiondyno.state.packing import unpack

    data = bytes(unpack(sent.data, 10**9)) if sent.format != kind else sent.data
    return EncodedState(kind, data, sent.sha256, sent.raw_bytes, decoded=sent.decoded)


def test_safetensors_is_the_format_if_none_is_named(worker: Worker) -> None:
    data = to_safetensors(state_of(), {"note": "of somebody else"})
    received = worker.receive(asking(base64.b64encode(data).decode()))
    assert_same(received.state, state_of())
    assert received.sha256 == identity(state_of())


def test_a_state_that_comes_back_without_its_format_is_read(worker: Worker) -> None:
    sent = encode(state_of())
    assert sent.format == "safetensors+shuffle+zstd"
    for given in (base64.b64encode(sent.data).decode(), worker.put(sent.data)):
        assert worker.receive(asking(given)).sha256 == sent.sha256


@pytest.mark.parametrize("format_name", [name for name in FORMATS if "safetensors" not in name])
def test_a_difference_or_rounded_state_without_its_format_is_refused(
    format_name: str, worker: Worker
) -> None:
    base = worker.receive(sending(encode(state_of()))).state
    kind = format_name.removesuffix("+shuffle+zstd")
    options: dict[str, Any] = {"delta": {"base": base}, "bf16": {"lossy": "bf16"}}.get(
        kind, {"base": base, "lossy": "int8-delta"}
    )
    sent = encode(stepped(state_of()), **options)
    if format_name == kind:
        sent = unpacked(sent, kind)
    with pytest.raises(ModelError, match="Send the 'model_state_format' that came with it"):
        worker.receive(asking(base64.b64encode(sent.data).decode()))


def test_what_was_received_is_kept_for_a_difference(worker: Worker, tmp_path: Path) -> None:
    base, new = state_of(), stepped(state_of())
    delta = encode(new, base=base)
    with pytest.raises(BaseMissing, match=r"^'model_state': .*Send the entire state") as caught:
        worker.receive(sending(delta))
    assert caught.value.sha256 == identity(base)
    worker.receive(sending(encode(base)))
    again = Worker(tmp_path)  # another process of the same home
    assert_same(again.receive(sending(delta)).state, new)
    nothing_new = encode(new, base=new)
    assert nothing_new.size_bytes < 400
    assert_same(worker.receive(sending(nothing_new)).state, new)
    assert worker.cache.read("states", identity(new)) == to_safetensors(new)


def test_a_damaged_base_is_as_good_as_none(worker: Worker) -> None:
    base = state_of()
    delta = encode(stepped(base), base=base)
    name = identity(base)
    whole = to_safetensors(base)
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        worker.cache.put("states", name, damaged)
        with pytest.raises(BaseMissing, match="'model_state'") as caught:
            worker.receive(sending(delta))
        assert caught.value.sha256 == name
        assert worker.cache.get("states", name) is None
    worker.cache.put("states", name, whole)
    damaged = bytearray(delta.data)
    damaged[len(damaged) // 2] ^= 1
    spec = asking(base64.b64encode(damaged).decode(), delta.format)
    with pytest.raises(ModelError, match=r"^'model_state': .*can't be read") as refused:
        worker.receive(spec)
    assert not isinstance(refused.value, BaseMissing)
    assert worker.cache.get("states", name) is not None


def test_a_base_that_is_a_path_is_only_missing(worker: Worker) -> None:
    from visiondyno.state.packing import pack

    hostile = to_safetensors({}, {"base": "../../../etc/passwd", "sha256": "0" * 64})
    spec = asking(base64.b64encode(pack(hostile, 1)).decode(), "delta+shuffle+zstd")
    with pytest.raises(BaseMissing, match="etc/passwd"):
        worker.receive(spec)


def test_without_room_a_state_is_taken_and_not_kept(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    assert_same(worker.receive(sending(encode(state_of()))).state, state_of())
    assert worker.cache.get("states", identity(state_of())) is None


class Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def saved(value: object, **options: Any) -> bytes:
    torch = pytest.importorskip("torch")
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


@pytest.mark.torch
@pytest.mark.parametrize("blob", [False, True])
@pytest.mark.parametrize("format_name", [None, *FORMATS])
def test_a_pickle_is_called_one_and_never_opened(
    format_name: str | None, blob: bool, worker: Worker, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    hostile = {"weight": Touching(touched)}
    pickles = [
        saved(hostile),
        saved(hostile, _use_new_zipfile_serialization=False),
        *(pickle.dumps(hostile, protocol) for protocol in (2, 5)),
    ]
    for data in pickles:
        given = worker.put(data) if blob else base64.b64encode(data).decode()
        with pytest.raises(ModelError, match=r"^'model_state' is a pickle.*ModelState\.load"):
            worker.receive(asking(given, format_name))
    assert not touched.exists()
    pickle.loads(pickles[-1])
    assert touched.exists(), "the payload must be one that would have run"


def test_a_file_whose_length_looks_like_a_pickle_is_read(worker: Worker) -> None:
    state = {"a": np.ones(2, np.float32)}
    headers = (to_safetensors(state, {"n": "x" * length}) for length in range(2000))
    data = next(data for data in headers if data.startswith(b"\x80\x03"))
    assert_same(worker.receive(asking(base64.b64encode(data).decode())).state, state)


@pytest.mark.parametrize(
    ("given", "format_name", "error", "words"),
    [
        (base64.b64encode(bytes(12_000_000)).decode(), None, TooLarge, "12,000,000 bytes .*blob"),
        ("not base64!", None, ModelError, "isn't base64"),
        (base64.b64encode(b"nothing of that kind").decode(), None, ModelError, "can't be read"),
        (base64.b64encode(b"nothing").decode(), "safetensors+shuffle+zstd", ModelError, "frame"),
        ("sha256:" + "0" * 64, None, NotFound, "VISIONDYNO_BLOBS_URL"),
        ("sha256:0", None, SpecError, "no blob's name"),
        (base64.b64encode(b"x").decode(), "pickle", SpecError, "no model_state_format 'pickle'"),
    ],
    ids=["12 MB", "no base64", "garbage", "no frame", "no blob", "no name", "no format"],
)
def test_what_is_wrong_is_named(
    given: str, format_name: str | None, error: type[Exception], words: str, worker: Worker
) -> None:
    with pytest.raises(error, match=words) as caught:
        worker.receive(asking(given, format_name))
    if error is not SpecError:
        assert str(caught.value).startswith("'model_state'")


def test_the_limit_holds_for_blobs_and_for_what_comes_out(worker: Worker) -> None:
    data = encode(state_of()).data
    spec = asking(worker.put(data), encode(state_of()).format)
    with pytest.raises(TooLarge, match="'model_state'"):
        receive_state(spec, worker.files, len(data) - 1)
    with pytest.raises(TooLarge, match="'model_state'"):
        receive_state(spec, worker.files, len(data) + 10)


@pytest.mark.parametrize("operation", [TrainEpochInput, TrainInput])
def test_int8_delta_without_a_state_is_refused_before_training(
    operation: type[TrainEpochInput] | type[TrainInput],
) -> None:
    given = EPOCH | {"operation": operation.model_fields["operation"].default}
    given["state_reply"] = {"lossy": "int8-delta"}
    with pytest.raises(SpecError, match=r"'state_reply\.lossy' is 'int8-delta'"):
        parse(operation, given, "The input is wrong")
    parse(operation, given | {"model_state": "AAAA"}, "The input is wrong")
