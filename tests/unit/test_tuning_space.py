"""What a study searches: trials draw valid parameters, of its own space or a built-in one."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from space_cases import DIGITS, MODES, RANGE, complete, drawn, space

from visiondyno.errors import SpecError
from visiondyno.specs.tuning import ParameterSpec, SpaceSpec, StudySpec
from visiondyno.tuning.builtin_spaces import builtin_space
from visiondyno.tuning.data_parts import ImageShape, study_data
from visiondyno.tuning.space import SearchSpace, load_space, study_space

DOCS = Path(__file__).parents[2] / "docs" / "tuning-spaces.md"


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
