"""Model states as values: immutable, named by their hash, files that others read too."""

import copy
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from visiondyno.client.model_state import ModelState, TrainedSoFar
from visiondyno.errors import BaseMissing, ModelError, NotFound, SpecError, StorageFull
from visiondyno.state import decode, encode_held
from visiondyno.whole_file import write_whole

DTYPES = ("<f4", "<f8", "<f2", "<i8", "|u1", "|i1", "|b1")

tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays(np.dtype(dtype), array_shapes(min_dims=0, max_dims=3, max_side=4))
    ),
    max_size=4,
)


def small() -> ModelState:
    return ModelState(
        {
            "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
            "half": np.ones(2, ml_dtypes.bfloat16),
            "count": np.array(7),
        }
    )


@given(tensors)
def test_a_state_survives_its_bytes_bit_by_bit(state: dict[str, np.ndarray]) -> None:
    first = ModelState(state)
    second = pickle.loads(pickle.dumps(first))
    assert second == first
    assert hash(second) == hash(first)
    assert second.sha256 == first.sha256
    assert set(second) == set(state)
    for name, tensor in state.items():
        assert second[name].tobytes() == tensor.tobytes()
        assert second[name].shape == tensor.shape
        assert second[name].dtype == tensor.dtype


def test_it_never_changes_and_shares_nothing_with_what_it_was_made_of() -> None:
    own = np.zeros(3, np.float32)
    state = ModelState({"weight": own})
    before = state.sha256
    own[:] = 1
    assert state["weight"].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="read-only"):
        state["weight"][0] = 5
    with pytest.raises(ValueError, match="WRITEABLE"):
        state["weight"].flags.writeable = True
    assert state.sha256 == before
    assert copy.copy(state) is copy.deepcopy(state) is state


def test_it_is_loaded_into_modules_only() -> None:
    with pytest.raises(SpecError, match=r"torch\.nn\.Module; got dict"):
        small().load_into({})


def test_it_says_shortly_what_it_is() -> None:
    state = small()
    assert repr(state) == f"<ModelState {state.sha256[:12]}: 3 tensors, {len(bytes(state))} bytes>"
    assert state.size_bytes == len(bytes(state))
    assert len(state) == 3
    assert "weight" in state
    assert not state.worker_holds
    assert state != {"weight": state["weight"]}


def test_equal_states_are_one_key() -> None:
    assert len({small(), small(), ModelState({"weight": np.zeros(1)})}) == 2


def test_what_it_was_trained_with_goes_with_copies_and_not_with_files(tmp_path: Path) -> None:
    trained = TrainedSoFar(3, f"sha256:{'a' * 64}")
    state = ModelState({"weight": np.zeros(2)}, trained)
    assert pickle.loads(pickle.dumps(state)).trained == trained
    state.save(tmp_path / "state.safetensors")
    assert ModelState.load(tmp_path / "state.safetensors").trained == TrainedSoFar()


def test_who_holds_it_is_known_of_each_client() -> None:
    state = small()
    state.note_held("one")
    assert state.worker_holds
    assert state.held_by("one")
    assert not state.held_by("two")
    state.note_held("one", held=False)
    assert not state.worker_holds


def test_files_go_both_ways_with_the_librarys_own(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    state = ModelState({"b": np.arange(4, dtype=np.float32), "a": np.array([True, False])})
    state.save(ours)
    read = library.load_file(ours)
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        "b": [0, 1, 2, 3],
        "a": [True, False],
    }
    library.save_file(read, theirs)
    assert ModelState.load(theirs) == state
    assert theirs.read_bytes() == ours.read_bytes()


def test_saving_replaces_a_file_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    ModelState({"weight": np.zeros(1000)}).save(path)
    small().save(path)
    assert ModelState.load(path) == small()
    assert list(tmp_path.iterdir()) == [path]


def test_what_cant_be_written_is_told_and_the_old_file_stays(tmp_path: Path) -> None:
    with pytest.raises(StorageFull, match="no_such"):
        small().save(tmp_path / "no_such" / "state.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageFull, match="folder"):
        write_whole(tmp_path / "folder", b"", "The model")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_pickle_is_refused_by_name_and_not_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (tmp_path / "sprung").touch, ()

    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps({"weight": Trap()}))
    with pytest.raises(ModelError, match=r"model\.pt: .* pickle"):
        ModelState.load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_isnt_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"absent\.safetensors"):
        ModelState.load(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="Is a directory"):
        ModelState.load(tmp_path)
    short = tmp_path / "short.safetensors"
    short.write_bytes(bytes(small())[:-1])
    with pytest.raises(ModelError, match=r"short\.safetensors"):
        ModelState.load(short)


def test_names_and_dtypes_that_no_file_takes_are_refused_at_once() -> None:
    with pytest.raises(ModelError, match="__metadata__"):
        ModelState({"__metadata__": np.zeros(1)})
    with pytest.raises(ModelError, match="dtype"):
        ModelState({"weight": np.array(["text"])})


@pytest.mark.torch
def test_it_is_taken_of_a_module_and_loaded_into_one() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    source = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).bfloat16()
    state = ModelState.of(source)
    assert ModelState(source.state_dict()) == state
    with torch.no_grad():
        source[0].weight.zero_()
    assert state != ModelState.of(source)
    state.load_into(source)
    assert state == ModelState.of(source)
    with pytest.raises(ModelError, match="another model"):
        state.load_into(torch.nn.Linear(3, 4))


def test_a_state_that_the_other_side_holds_travels_as_its_name() -> None:
    state = ModelState({"weight": np.random.default_rng(0).normal(size=100_000)})
    encoded = encode_held(state, state.sha256)
    assert encoded.size_bytes < 1000
    received = decode(encoded.data, encoded.format, {state.sha256: state})
    assert ModelState(received) == state
    with pytest.raises(BaseMissing):
        decode(encoded.data, encoded.format)
