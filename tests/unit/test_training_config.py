"""A training as a file: read, overridden, checked, and written so that it repeats."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.client.training_config import (
    TrainingConfig,
    architecture,
    make_config,
    parse_config,
    read_config,
)
from visiondyno.errors import SpecError
from visiondyno.report.yaml_spec import dump_fields, read_fields, read_value

BASE = """\
model_config: {type: torchvision, name: resnet18}
training_data: mnist:train
"""
LAYERS = """\
model_config: {type: sequential, layers: [{type: linear, in_features: 2, out_features: 3}]}
training_data: {features: [[1, 2], [3, 4]], labels: [0, 1]}
"""
IMAGES = BASE.replace("mnist:train", "{data: mnist:train, channels: 3, max_images: 100}")


def parsed(text: str, **changes: Any) -> TrainingConfig:
    """`__` in a name stands for a dot."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return parse_config(text, "c.yaml", Path("/nowhere"), named)


def test_defaults_are_those_of_the_operation() -> None:
    config = parsed(BASE)
    assert config.spec.epochs == 1
    assert config.spec.hyperparameters.optimizer == "adam"
    assert config.title == "resnet18 on mnist:train"
    assert config.monitor == "train_loss"


def test_a_file_may_name_its_operation() -> None:
    assert parsed("operation: train\n" + BASE) == parsed(BASE)


@pytest.mark.parametrize("text", [BASE, LAYERS, IMAGES], ids=["name", "layers", "images"])
def test_what_is_written_reads_back_equal(text: str, tmp_path: Path) -> None:
    config = parsed(text, epochs=3, seed=7, hyperparameters__learning_rate=1e-3)
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(file) == config


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner),
        max_leaves=8,
    )
)
def test_any_value_survives_its_yaml(value: Any) -> None:
    fields = {"value": value}
    assert read_fields(dump_fields(fields), "a text", "nothing") == fields


def test_numbers_in_exponent_form_are_numbers() -> None:
    fields = read_fields("a: 1e-3\nb: '1e-3'\nc: 1e5x\n", "a text", "nothing")
    assert fields == {"a": 0.001, "b": "1e-3", "c": "1e5x"}
    assert read_value("-2E4", "a value") == -20000.0


def test_changes_override_the_file() -> None:
    config = parsed(
        LAYERS,
        epochs=4,
        hyperparameters__weight_decay=0.5,
        model_config__layers__0__out_features=9,
    )
    assert config.spec.epochs == 4
    assert config.spec.hyperparameters.weight_decay == 0.5
    assert config.fields["model_config"]["layers"][0]["out_features"] == 9


def test_another_data_set_is_prepared_like_the_one_it_replaces() -> None:
    config = parsed(IMAGES, training_data="digits:train", validation_data="digits:val")
    training, validation = config.fields["training_data"], config.fields["validation_data"]
    assert (training["data"], training["channels"], training["max_images"]) == (
        "digits:train",
        3,
        100,
    )
    assert (validation["data"], validation["channels"]) == ("digits:val", 3)
    assert "max_images" not in validation
    again = parsed(IMAGES + "validation_data: {data: a, channels: 1}", validation_data="b")
    assert again.fields["validation_data"]["channels"] == 1
    assert parsed(BASE, validation_data="sha256:" + "0" * 64).spec.validation_data is not None


def test_preparation_can_be_added_to_a_bare_reference() -> None:
    config = parsed(BASE, training_data__channels=3)
    assert config.fields["training_data"]["data"] == "mnist:train"
    assert config.fields["training_data"]["channels"] == 3


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files" / "mine" / "train").mkdir(parents=True)
    (tmp_path / "files" / "net.pt2").write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "files" / "c.yaml"
    file.write_text(
        "model_config: {type: exported, program: net.pt2}\n"
        "training_data: mine:train\n"
        "validation_data: {data: digits:val}\n"
        "model_state: w.safetensors\n",
        encoding="utf-8",
    )
    fields = read_config(file, {"training_data": "elsewhere"}).fields
    assert fields["training_data"] == str(tmp_path / "elsewhere")  # of a flag: the working folder
    assert fields["validation_data"]["data"] == "digits:val"
    assert fields["model_state"] == str(tmp_path / "files" / "w.safetensors")
    assert fields["model_config"]["program"] == str(tmp_path / "files" / "net.pt2")
    assert read_config(file).fields["training_data"] == f"{tmp_path / 'files' / 'mine'}:train"


def test_titles_name_any_kind_of_model() -> None:
    exported = {"model_config": {"type": "exported", "program": "AA=="}, "training_data": "a"}
    assert make_config(exported, "x").title == "exported program on a"
    assert parsed(LAYERS).title == "1 layer on 2 inline samples"
    keras = {"model_config": {"type": "keras", "model": {}}, "training_data": "a"}
    assert make_config(keras, "x").title == "Keras model on a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: [", "c.yaml: isn't valid YAML at line"),
        ("just a text", "holds no 'key: value' lines; a training needs at least 'model_config'"),
        ("training_data: a", "'model_config' is missing; a training needs at least"),
        (BASE + "epoch: 3", "there is no field 'epoch'; did you mean 'epochs'?"),
        (BASE + "qqq: 3", "there is no field 'qqq'; the fields are device, early_stopping, epochs"),
        (
            BASE + "hyperparameters: {learning_rat: 1}",
            "there is no field 'learning_rat' in 'hyperparameters'; did you mean 'learning_rate'?",
        ),
        (
            BASE.replace("mnist:train", "{data: a, image_siz: 3}"),
            "no field 'image_siz' in 'training_data'; did you mean 'image_size'?",
        ),
        (
            BASE.replace("mnist:train", "{dataset: a}"),
            "'training_data' needs 'data', a dataset reference, or both 'features' and 'labels'.",
        ),
        (
            LAYERS.replace("sequential", "sequentail"),
            "'model_config.type' must be one of sequential, torchvision, timm",
        ),
        ("model_config: {layers: []}\ntraining_data: a", "'model_config.type' must be one of"),
        ("model_config: {type: timm}\ntraining_data: a", "'model_config.name' is missing."),
        (BASE + "epochs: 0", "'epochs': Input should be greater than or equal to 1, got 0."),
        (BASE + "epochs: 2020-01-01", "a value can't travel in a job"),
        (BASE + "seed: &a [*a]", "a value can't travel in a job"),
        (BASE + "early_stopping: {}", "'early_stopping.monitor' is 'val_loss': give"),
        (BASE + "model_state_format: x", "leave out 'model_state_format'"),
        (LAYERS.replace("[3, 4]", "[3]"), "'features[1]' must hold 2 values"),
    ],
    ids=range(17),
)  # fmt: skip
def test_a_mistake_is_one_sentence_that_names_the_place(text: str, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)) as raised:
        parsed(text)
    assert "\n" not in raised.value.message
    assert raised.value.message.startswith("c.yaml: ")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("model_config.layers.7.bias", "'7' isn't an index from 0 to 0"),
        ("model_config.layers.x", "'x' isn't an index from 0 to 0"),
        ("model_config.type.name", "'model_config.type' holds no fields"),
        ("model_config.type.name.more", "there are no fields above it"),
    ],
    ids=["index", "word", "value", "below a value"],
)
def test_a_change_without_a_place_is_refused(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=re.escape(said)):
        parse_config(LAYERS, "c.yaml", Path(), {name: 1})


def test_architectures_by_reference() -> None:
    assert architecture("timm:resnet10t") == {"type": "timm", "name": "resnet10t"}
    for wrong in ("resnet18", "onnx:resnet18", "timm:", ":resnet18"):
        with pytest.raises(SpecError, match="names no architecture to train"):
            architecture(wrong)


def test_a_file_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="can't be read as text \\(No such file"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="can't be read as text \\(not UTF-8"):
        read_config(tmp_path / "bytes.yaml")
    with pytest.raises(SpecError, match="isn't valid YAML"):
        read_value("[", "--set epochs")
