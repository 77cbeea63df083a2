"""What a trial's parameters become: the fields of a training, and the job that is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from space_cases import DIGITS, LAYERS, MODES, RANGE, complete, drawn, space

from visiondyno.errors import SpecError
from visiondyno.specs.operations import parse
from visiondyno.specs.training import MAX_SEED, EarlyStopping
from visiondyno.specs.training_operations import TrainInput
from visiondyno.specs.tuning import SpaceSpec, StudySpec
from visiondyno.tuning.builtin_spaces import training_fields
from visiondyno.tuning.data_parts import StudyData, study_data
from visiondyno.tuning.space import SearchSpace, study_space
from visiondyno.tuning.trial import TrialRecord
from visiondyno.tuning.trial_job import trial_job


class TestWithoutJob:
    """Names decide where a parameter goes."""

    def test_hyperparameters_and_architecture(self) -> None:
        searched = space({
            "blocks": [2], "activation": ["gelu"], "optimizer": ["SGD"], "learning_rate": [0.01],
            "label_smoothing": [0.1], "gradient_clip_norm": [None], "schedule": ["cosine"],
        })  # fmt: skip
        fields = searched.job(drawn(searched, 0)[0])
        assert fields == {
            "model_config": {"type": "cnn", "image_shape": [1, 32, 32], "classes": 10,
                             "blocks": 2, "activation": "gelu"},
            "hyperparameters": {
                "optimizer": "SGD", "learning_rate": 0.01, "momentum": 0.9,
                "loss_arguments": {"label_smoothing": 0.1},
                "scheduler": "cosine_annealing", "scheduler_arguments": {"T_max": 5}},
        }  # fmt: skip

    def test_schedules(self) -> None:
        def hyper(**params: Any) -> Any:
            return training_fields(params, DIGITS, 3)["hyperparameters"]

        assert hyper() == {}, "one cycle needs to know how far up"
        assert hyper(learning_rate=0.1, schedule="none") == {"learning_rate": 0.1}
        assert hyper(learning_rate=0.1)["scheduler_arguments"]["max_lr"] == 0.1
        given = {"learning_rate": 0.1, "scheduler": "exponential"}
        assert hyper(**given) == given, "one's own comes first"
        assert hyper(optimizer="sgd", momentum=0.5)["momentum"] == 0.5

    @pytest.mark.parametrize(
        ("parameters", "sentence"),
        [
            ({"learning_rat": {"low": 0.1, "high": 1}}, "did you mean 'learning_rate'?"),
            ({"zzz": RANGE}, "Others need a 'job' that says what they are"),
            ({"seed": RANGE}, "there is no parameter 'seed'"),
            ({"kernel": [3, 4]}, "'kernel' can't be 4: a kernel must be odd"),
            ({"kernel": {"low": 1, "high": 7}}, "'kernel' can't be 2"),
            ({"blocks": {"low": 0, "high": 3}}, "'blocks' can't be 0"),
            ({"batch_size": {"low": 8.0, "high": 64.0}}, "'batch_size' can't be 26."),
            ({"schedule": ["one_cycle", "linear"]}, "'schedule' can't be 'linear'"),
            ({"learning_rate": [0.1, -1]}, "'learning_rate' can't be -1"),
        ],
    )
    def test_what_can_not_be(self, parameters: dict[str, Any], sentence: str) -> None:
        with pytest.raises(SpecError) as error:
            space(parameters)
        assert sentence in error.value.message

    def test_steps_keep_a_kernel_odd(self) -> None:
        assert drawn(space({"kernel": {"low": 1, "high": 7, "step": 2}}), 0)[0]["kernel"] % 2

    def test_the_shape_of_the_images_is_needed(self) -> None:
        with pytest.raises(SpecError, match="give the study its data, or the space a 'job'"):
            SearchSpace(SpaceSpec(parameters={"blocks": [1]}), None, 1)


class TestWithJob:
    """`${name}` in fields of `train`."""

    def test_values_keep_their_type_and_texts_are_put_together(self) -> None:
        searched = space(
            {"inputs": [1024], "name": ["rms"], "alpha": [0.5], "flag": [True], "clip": [None]},
            {
                "model_config": LAYERS,
                "epochs": 7,
                "hyperparameters": {
                    "optimizer": "${name}prop",
                    "optimizer_arguments": {"alpha": "${alpha}", "centered": "${flag}"},
                    "gradient_clip_norm": "${clip}",
                    "loss_arguments": {"note": "$${alpha} is ${alpha}", "all": [1, "${flag}"]},
                },
            },
        )
        fields = searched.job(drawn(searched, 0)[0])
        assert fields["model_config"]["layers"][1]["in_features"] == 1024
        assert fields["epochs"] == 7
        assert fields["hyperparameters"] == {
            "optimizer": "rmsprop",
            "optimizer_arguments": {"alpha": 0.5, "centered": True},
            "gradient_clip_norm": None,
            "loss_arguments": {"note": "${alpha} is 0.5", "all": [1, True]},
        }
        complete(fields)

    def test_a_field_is_left_out_where_its_parameter_does_not_apply(self) -> None:
        searched = space(
            {
                "inputs": [1024],
                "optimizer": ["adam", "sgd"],
                "momentum": {"low": 0.1, "high": 0.9, "when": {"optimizer": "sgd"}},
            },
            {
                "model_config": LAYERS,
                "hyperparameters": {
                    "optimizer": "${optimizer}",
                    "momentum": "${momentum}",
                    "loss_arguments": {"weights": [1, "${momentum}"]},
                },
            },
        )
        for params in drawn(searched, 0, 12):
            hyper = searched.job(params)["hyperparameters"]
            if params["optimizer"] == "adam":
                assert hyper == {"optimizer": "adam", "loss_arguments": {"weights": [1]}}
            else:
                assert hyper["loss_arguments"]["weights"] == [1, hyper["momentum"]]

    @pytest.mark.parametrize(
        ("parameters", "job", "sentence"),
        [
            ({"inputs": [1]}, {"model_confg": LAYERS}, "did you mean 'model_config'?"),
            ({"inputs": [1]}, {"zzz": 1, "model_config": LAYERS}, "no field 'zzz'; the fields"),
            ({"inputs": [1]}, {"epochs": "${inputs}"}, "'job' needs a 'model_config'"),
            ({"inputs": [1], "rate": [2]}, {"model_config": LAYERS}, "write ${rate} where"),
            ({"input": [1]}, {"model_config": LAYERS},
             "layers[1].in_features' uses ${inputs}, and there is none; did you mean ${input}?"),
            ({"x": [1]}, {"model_config": {"type": "${qqqqq}"}}, "name one of 'parameters'"),
            ({"inputs": [1]}, {"model_config": LAYERS, "seed": 1}, "each trial has its own"),
            ({"inputs": [1]}, {"model_config": LAYERS, "operation": "predict"}, "a 'train'"),
            ({"inputs": [1], "b": {"choices": [1], "when": {"inputs": 1}}},
             {"model_config": LAYERS, "device": "cuda:${b}"}, "not every trial has 'b'"),
            ({"inputs": [1]}, {"model_config": LAYERS, "epochs": 0}, "a trial's job: 'epochs'"),
            ({"inputs": [1], "e": [0]}, {"model_config": LAYERS, "epochs": "${e}"}, "'epochs'"),
        ],
    )  # fmt: skip
    def test_what_can_not_be(
        self, parameters: dict[str, Any], job: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(SpecError) as error:
            space(parameters, job)
        assert sentence in error.value.message
        assert error.value.message.startswith("s.yaml")


class TestTrialJob:
    """What is sent for a trial."""

    SPEC = StudySpec(data="digits", epochs=4, seed=3)

    @given(
        mode=MODES,
        seed=st.integers(0, 2**31),
        trial_seed=st.integers(2**31 - 10, 2**31 - 1),
        data=st.sampled_from(["digits", "mnist", "cifar10", "/home/somebody/data/images/flowers"]),
    )
    def test_it_has_less_than_a_kilobyte(
        self, mode: Any, seed: int, trial_seed: int, data: str
    ) -> None:
        classes = 1000 if data.startswith("/") else None  # data that are known tell theirs
        spec = StudySpec(
            data=data, mode=mode, channels=3, classes=classes, image_size=(224, 224),
            device="cuda:0",
            objectives=("val_accuracy", "latency_ms", "energy_joules:minimize"),
            epochs=50_000,
        )  # fmt: skip
        parts = study_data(spec)
        searched = study_space(spec, parts)
        record = TrialRecord(0, trial_seed, drawn(searched, seed)[0])
        job = trial_job(spec, parts, searched, record)
        assert len(json.dumps(job).encode()) < 1000
        checked: TrainInput = parse(TrainInput, job, "job")
        assert checked.seed_used == trial_seed
        assert checked.epochs == 50_000
        assert checked.threads == 1
        assert checked.measure == ("latency_ms", "energy_joules")
        assert checked.health
        assert checked.early_stopping is None

    def test_the_job_of_a_space_comes_before_the_study(self) -> None:
        job = {"model_config": LAYERS, "epochs": "${epochs}", "device": "cpu"}
        searched = space({"inputs": [1024], "epochs": [9]}, job)
        spec = self.SPEC.model_copy(update={"space": searched.spec, "threads": None})
        watched = spec.model_copy(update={"early_stopping": EarlyStopping(patience=10)})
        record = TrialRecord(4, MAX_SEED, {"inputs": 1024, "epochs": 9})
        made = trial_job(spec, study_data(spec), searched, record)
        assert made["epochs"] == 9
        assert made["device"] == "cpu"
        assert made["training_data"] == "digits:train"
        assert made["validation_data"] == "digits:val"
        assert "threads" not in made
        assert "early_stopping" not in made
        assert "measure" not in made
        assert made["seed"] == MAX_SEED
        again = trial_job(watched, study_data(spec), searched, record)
        assert again == made | {"early_stopping": {"patience": 10}}


def test_study_data_without_a_shape_is_enough_for_a_job(tmp_path: Path) -> None:
    data = StudyData("a", "b", None, None, True, ())
    own = SpaceSpec.model_validate({
        "parameters": {"inputs": [3]}, "job": {"model_config": LAYERS}})  # fmt: skip
    assert study_space(StudySpec(data="x", space=own), data).job({"inputs": 3})
