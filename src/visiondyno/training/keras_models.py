"""Models of Keras 3 as torch modules, run by Keras's torch backend."""

import contextlib
import copy
import os
import random
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from visiondyno.errors import MissingExtra, SpecError, Unavailable
from visiondyno.specs.training import KerasConfig
from visiondyno.training.arguments import one_line
from visiondyno.training.keras_config import checked_config
from visiondyno.training.offline import offline

if TYPE_CHECKING:
    from torch import nn

_PLACE = "'model_config.model'"
_BACKEND = "KERAS_BACKEND"
_HIGHEST_SEED = 2**31 - 1


def build_keras(config: KerasConfig, *, seed: int, max_bytes: int) -> "nn.Module":
    """The model as a module of torch, in training mode on the processor.

    Its state is named `00000/PATH`, `00001/PATH` …: sorted, it is in the order of
    `keras.Model.weights`, for `keras.Model.set_weights`. Everything random in an epoch (dropout)
    is drawn by torch's generator, as that of torch's own layers is; a `seed` that a layer names is
    for the initial weights only.

    Args:
        config: the model.
        seed: of initial weights whose initialiser has no seed of its own.
        max_bytes: of the weights; more is refused before any is allocated.

    Raises:
        SpecError: the configuration isn't taken, or Keras can't make a model of it.
        MissingExtra: Keras isn't installed.
        Unavailable: this process has loaded Keras with another backend.
    """
    keras = _import_keras()
    checked = checked_config(config.model)
    planned = _made(keras, checked, "meta", seed)
    _check_shape(planned)
    size = sum(int(np.prod(v.shape)) * v.value.element_size() for v in planned.variables)
    if size > max_bytes:
        raise SpecError(
            f"{_PLACE}: the weights take {size / 1e9:.1f} GB, and at most {max_bytes / 1e9:.1f} GB "
            "are taken; make the layers smaller."
        )
    return _module_of(keras, _made(keras, checked, "cpu", seed))


def _import_keras() -> Any:
    """Keras on torch; the environment is left as it was."""
    before = os.environ.get(_BACKEND)
    if "keras" not in sys.modules:
        os.environ[_BACKEND] = "torch"
    try:
        import keras
    except ImportError as error:
        raise MissingExtra("keras", "A model of Keras") from error
    finally:
        _restore(before)
    backend = keras.backend.backend()
    if backend != "torch":
        raise Unavailable(
            f"This process has loaded Keras with the backend '{backend}', which can't be changed "
            f"any more. Set {_BACKEND}=torch before it starts."
        )
    return keras


def _restore(backend: str | None) -> None:
    if backend is None:
        os.environ.pop(_BACKEND, None)
    else:
        os.environ[_BACKEND] = backend


def _made(keras: Any, checked: dict[str, Any], device: str, seed: int) -> Any:
    """A keras.Model of a checked configuration; None of Keras's complaints is a traceback."""
    try:
        with keras.device(device), _seeded(seed), offline():
            # Keras takes apart what it reads.
            own = copy.deepcopy(checked)
            return keras.saving.deserialize_keras_object(own, safe_mode=True)
    except Exception as error:  # Keras refuses values with whatever its own code stumbles over
        first = _first_cause(error)
        raise SpecError(
            f"{_PLACE}: Keras {keras.__version__} can't make a model of it: "
            f"{type(first).__name__}: {one_line(first)}."
        ) from error


def _first_cause(error: BaseException) -> BaseException:
    """Each level of Keras wraps what the one below said into a page of its own."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Keras draws its seeds from Python's generator, and a few layers from torch's and NumPy's."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is Keras's)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 (likewise)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 (likewise)


def _check_shape(model: Any) -> None:
    if not model.built:
        raise SpecError(f"{_PLACE} doesn't say what it takes; begin it with an Input.")
    inputs, outputs = len(model.inputs), len(model.outputs)
    if (inputs, outputs) != (1, 1):
        raise SpecError(
            f"{_PLACE} has {inputs} inputs and {outputs} outputs; training takes one tensor in and "
            "one out."
        )


def _module_of(keras: Any, model: Any) -> "nn.Module":
    import torch
    from torch import nn

    class KerasModule(nn.Module):  # type: ignore[misc]  # torch has no types here
        """Holds the weights itself, and lends them to the keras.Model for each pass."""

        def __init__(self) -> None:
            super().__init__()
            # Not as a submodule: its own names of the weights hold each several times.
            object.__setattr__(self, "keras_model", model)
            self._names: dict[int, str] = {}
            for index, variable in enumerate(model.weights):
                name = f"{index:05d}/{variable.path}"
                self._names[id(variable)] = name
                value = variable.value.detach().clone()
                if variable.trainable:
                    self.register_parameter(name, nn.Parameter(value))
                else:
                    self.register_buffer(name, value)

        def forward(self, features: torch.Tensor) -> Any:
            learnt = [getattr(self, self._names[id(v)]) for v in model.trainable_variables]
            kept = [self._kept(variable) for variable in model.non_trainable_variables]
            with keras.device(str(features.device)):
                outputs, after = model.stateless_call(
                    learnt, kept, features, training=self.training
                )
            with torch.no_grad():
                for variable, old, new in zip(
                    model.non_trainable_variables, kept, after, strict=True
                ):
                    if id(variable) in self._names and new is not old:
                        old.copy_(new)
            return outputs

        def _kept(self, variable: Any) -> torch.Tensor:
            """A buffer, or the fresh state of a generator of random numbers."""
            name = self._names.get(id(variable))
            if name is not None:
                buffer: torch.Tensor = getattr(self, name)
                return buffer
            state = torch.zeros_like(variable.value)
            if self.training:
                state[0] = torch.randint(_HIGHEST_SEED, ())
            return state

    return KerasModule().train()
