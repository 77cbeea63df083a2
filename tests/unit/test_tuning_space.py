"""What a study searches: trials draw valid parameters, and those become trainings."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.specs.operations import parse
from visiondyno.specs.training import MAX_SEED, EarlyStopping
from visiondyno.specs.training_operations import TrainInput
from visiondyno.specs.tuning import ParameterSpec, SpaceSpec, StudySpec
from visiondyno.tuning.builtin_spaces import builtin_space, training_fields
from visiondyno.tuning.data_parts import ImageShape, StudyData, study_data
from visiondyno.tuning.space import SearchSpace, load_space, study_space
from visiondyno.tuning.trial import TrialRecord
from visiondyno.tuning.trial_job import trial_job

DOCS = Path(__file__).parents[2] / "docs" / "tuning-spaces.md"
DIGITS = ImageShape(1, 32, 32, 10)
RANGE = {"low": 1, "high": 3}
LAYERS: dict[str, Any] = {
    "type": "sequential",
    "layers": [{"type": "flatten"},
               {"type": "linear", "in_features": "${inputs}", "out_features": 10}],
}  # fmt: skip


def space(parameters: dict[str, Any], job: dict[str, Any] | None = None) -> SearchSpace:
    spec: SpaceSpec = parse(SpaceSpec, {"parameters": parameters, "job": job}, "s.yaml")
    return SearchSpace(spec, DIGITS, 5, "s.yaml")


def drawn(searched: SearchSpace, seed: int, count: int = 1) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [searched.suggest(study.ask()) for _ in range(count)]


def complete(fields: dict[str, Any]) -> TrainInput:
    checked: TrainInput = parse(TrainInput, {"training_data": "digits", **fields}, "job")
    return checked


class TestParameters:
    """Of which kind they are, and what can't be."""

    @pytest.mark.parametrize(
        ("given_as", "kind"),
        [
            ({"low": 1, "high": 4}, "int"),
            ({"low": 1, "high": 4.0}, "float"),
            ({"low": 1, "high": 4, "step": 0.5}, "float"),
            ({"low": 1.0, "high": 4.0, "type": "int"}, "int"),
            ({"low": 1, "high": 4, "type": "float"}, "float"),
            ([1, 2], "choices"),
            ({"choices": [None, "a", True]}, "choices"),
        ],
    )
    def test_kind(self, given_as: Any, kind: str) -> None:
        spec = SpaceSpec(parameters={"width": given_as})
        assert spec.parameters["width"].kind == kind

    @pytest.mark.parametrize(
        ("given_as", "sentence"),
        [
            ({"low": 1}, "give 'low' and 'high', or 'choices'"),
            ({"low": 3, "high": 1}, "'low' is 3 and 'high' 1; swap them"),
            ({"low": 0, "high": 1.0, "log": True}, "'log' needs a 'low' above 0, got 0"),
            ({"low": 1, "high": 2, "step": 0, "type": "int"}, "'step' must be above 0, got 0"),
            ({"low": 1, "high": 9, "step": 2, "log": True}, "leave one out"),
            ({"low": 0.0, "high": 1.0, "step": 0.3}, "steps of 0.3 from 0.0 end at 0.9"),
            ({"low": 1, "high": 2.5, "type": "int"}, "an 'int' needs whole numbers"),
            ({"low": 0.0, "high": float("inf")}, "every number must be finite"),
            ({"low": "a", "high": 2}, "parameters.width.low"),
            ({"low": 1, "high": 2, "stepp": 1}, "did you mean 'step'"),
            ([], "at least 1 item"),
            ([1, 2, 1.0], "the choice 1.0 stands twice"),
            ([float("nan"), 1.0], "every choice must be finite"),
            ({"choices": [1], "low": 1}, "'low' belongs to a range"),
            ({"choices": [[1]]}, "parameters.width.choices"),
            (3, "parameters.width"),
        ],
    )
    def test_what_can_not_be(self, given_as: Any, sentence: str) -> None:
        with pytest.raises(SpecError) as error:
            space({"width": given_as})
        assert sentence in error.value.message
        assert error.value.message.startswith("s.yaml: ")
        assert len(error.value.message) < 400

    @given(
        low=st.floats(1e-9, 1e6),
        factor=st.floats(1.0, 1e6),
        log=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    def test_fractions_are_rounded_and_in_their_range(
        self, low: float, factor: float, log: bool, seed: int
    ) -> None:
        high = low * factor
        limits = {"low": low, "high": high, "log": log}
        searched = space({"learning_rate": limits})
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        trial = study.ask()
        value = searched.suggest(trial)["learning_rate"]
        assert low <= value <= high
        finest = min(high - low, value) if log else high - low
        assert abs(value - trial.params["learning_rate"]) <= finest * 1e-6
        fixed = optuna.trial.FixedTrial({"learning_rate": value})
        assert searched.suggest(fixed) == {"learning_rate": value}, "taken up as it was"

    def test_names_are_words(self) -> None:
        with pytest.raises(SpecError, match="parameters"):
            space({"a b": RANGE})

    @given(
        low=st.integers(-50, 50),
        steps=st.integers(0, 20),
        step=st.sampled_from([1, 3, 0.1, 0.25, 7]),
        seed=st.integers(0, 2**31),
    )
    def test_what_is_drawn_can_be(self, low: int, steps: int, step: float, seed: int) -> None:
        high = low + steps * step if isinstance(step, int) else round(low + steps * step, 6)
        parameter = ParameterSpec(low=low, high=high, step=step)
        searched = space({"hidden": [0], "x": parameter.model_dump(exclude_none=True)}, {
            "model_config": {"type": "cnn", "image_shape": [1, 8, 8], "classes": 2,
                             "hidden": "${hidden}"},
            "hyperparameters": {"optimizer_arguments": {"x": "${x}"}},
        })  # fmt: skip
        value = drawn(searched, seed)[0]["x"]
        assert isinstance(value, float if parameter.kind == "float" else int)
        assert parameter.can_be(value), "rounded to what is written"
        assert not parameter.can_be(high + step)
        assert not parameter.can_be(True)
        assert not parameter.can_be("1")


class TestConditions:
    """`when`: parameters of some trials only."""

    PARAMETERS: dict[str, Any] = {  # noqa: RUF012 - never changed
        "optimizer": ["adam", "sgd", "rmsprop"],
        "momentum": {"low": 0.5, "high": 0.9, "when": {"optimizer": ["sgd", "rmsprop"]}},
        "weight_decay": {"low": 0.1, "high": 0.2, "when": {"momentum": 0.5}},
        "blocks": {"low": 1, "high": 2, "when": {"optimizer": "adam"}},
    }

    def test_a_parameter_applies_where_it_should(self) -> None:
        seen = set()
        for params in drawn(space(self.PARAMETERS), 0, 40):
            assert ("momentum" in params) == (params["optimizer"] != "adam")
            assert ("blocks" in params) == (params["optimizer"] == "adam")
            assert "weight_decay" not in params, "0.5 exactly isn't drawn"
            assert list(params) == [name for name in self.PARAMETERS if name in params]
            seen.add(params["optimizer"])
        assert seen == {"adam", "sgd", "rmsprop"}

    def test_true_is_not_one(self) -> None:
        searched = space({"shuffle": [True], "blocks": RANGE | {"when": {"shuffle": True}}})
        assert "blocks" in drawn(searched, 0)[0]
        with pytest.raises(SpecError, match=r"when 'shuffle' is 1, which it never is"):
            space({"shuffle": [True], "blocks": RANGE | {"when": {"shuffle": 1}}})

    @pytest.mark.parametrize(
        ("when", "sentence"),
        [
            ({"width": 8}, "'width' doesn't stand before it"),
            ({"kernel": 7}, "when 'kernel' is 7, which it never is"),
            ({"kernel": []}, "when 'kernel' is one of none"),
            ({"hidden": 70}, "when 'hidden' is 70, which it never is"),
            ({"hidden": 64.5}, "never is"),
            ({"hidden": "64"}, "never is"),
        ],
    )
    def test_a_condition_that_is_never_met(self, when: dict[str, Any], sentence: str) -> None:
        parameters = {
            "kernel": [3, 5],
            "hidden": {"low": 0, "high": 128, "step": 64},
            "blocks": RANGE | {"when": when},
            "width": {"low": 8, "high": 16},
        }
        with pytest.raises(SpecError) as error:
            space(parameters)
        assert sentence in error.value.message
        assert "blocks" in error.value.message


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


class TestYaml:
    """A space from a file."""

    def test_the_example_of_the_docs(self, tmp_path: Path) -> None:
        blocks = DOCS.read_text("utf-8").split("```yaml\n")[1:]
        assert len(blocks) == 2
        for index, block in enumerate(blocks):
            path = tmp_path / f"{index}.yaml"
            path.write_text(block.partition("```")[0])
            searched = SearchSpace(load_space(path), DIGITS, 5, str(path))
            for params in drawn(searched, 0, 20):
                complete(searched.job(params))

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("parameters:\n  width: [1\n", "isn't valid YAML at line"),
            ("parameters:\n  width: [8]\n  width: [16]\n", "line 3: the key 'width' stands twice"),
            ("- width\n", "a space needs 'parameters', and may have a 'job'"),
            ("parameter:\n  width: [8]\n", "parameter"),
            ("parameters: {}\n", "'parameters'"),
            ("parameters:\n  width: {low: 8}\n", "'parameters.width': give 'low' and 'high'"),
            ("parameters:\n  wdth: [8]\n", "did you mean 'width'?"),
        ],
    )
    def test_errors_name_file_and_place(self, tmp_path: Path, text: str, sentence: str) -> None:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        with pytest.raises(SpecError) as error:
            load_space(path)
        assert error.value.message.startswith(str(path))
        assert sentence in error.value.message

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="can't be read as text"):
            load_space(tmp_path / "absent.yaml")


SHAPES = st.builds(
    ImageShape, st.sampled_from([1, 3]), st.integers(8, 64), st.integers(8, 64), st.integers(2, 12)
)
MODES = st.sampled_from(["simple", "thorough"])


class TestBuiltIn:
    """`simple` and `thorough`."""

    @pytest.mark.torch
    @settings(max_examples=50)
    @given(shape=SHAPES, mode=MODES, seed=st.integers(0, 2**31))
    def test_every_sample_is_a_classifier_that_learns(
        self, shape: ImageShape, mode: Any, seed: int
    ) -> None:
        import torch

        from visiondyno.training.modules import build_module
        from visiondyno.training.optimizers import build_optimizer, build_scheduler

        searched = SearchSpace(builtin_space(mode, shape), shape, 5)
        spec = complete(searched.job(drawn(searched, seed)[0]))
        module = build_module(spec.config)
        image = torch.zeros(1, shape.channels, shape.height, shape.width)
        outputs = module.train()(image)
        assert outputs.shape == (1, shape.classes)
        build_scheduler(
            spec.hyperparameters, build_optimizer(spec.hyperparameters, module), total_steps=5
        )

    @given(shape=SHAPES, mode=MODES, seed=st.integers(0, 2**31))
    def test_the_same_seed_draws_the_same(self, shape: ImageShape, mode: Any, seed: int) -> None:
        searched = SearchSpace(builtin_space(mode, shape), shape, 5)
        assert drawn(searched, seed, 2) == drawn(searched, seed, 2)
        for params in drawn(searched, seed, 2):
            again = searched.suggest(optuna.trial.FixedTrial(params))
            assert again == params, "a journal's parameters are taken up"

    def test_sizes_of_the_spaces(self) -> None:
        assert len(builtin_space("simple", DIGITS).parameters) == 7
        thorough = builtin_space("thorough", DIGITS).parameters
        assert len(thorough) == 16
        assert thorough["blocks"].high == 4
        assert builtin_space("thorough", ImageShape(1, 8, 60, 2)).parameters["blocks"].high == 3
        assert builtin_space("simple", ImageShape(1, 1, 60, 2)).parameters["blocks"].high == 1

    def test_a_study_has_its_own_space_or_that_of_its_mode(self) -> None:
        spec = StudySpec(data="digits", mode="thorough")
        data = study_data(spec)
        assert "label_smoothing" in study_space(spec, data).spec.parameters
        loss = spec.model_copy(update={"objectives": ("val_loss:minimize",)})
        assert "label_smoothing" not in study_space(loss, data).spec.parameters
        own = spec.model_copy(update={"space": SpaceSpec(parameters={"width": [8, 16]})})
        assert list(study_space(own, data).spec.parameters) == ["width"]


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
        spec = StudySpec(
            data=data, mode=mode, channels=3, classes=1000, image_size=(224, 224), device="cuda:0",
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
