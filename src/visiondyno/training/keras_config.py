"""Refuses configurations of Keras that name more than layers, and what training here leaves out.

Reading a configuration makes every object that it names. Keras has had to close several ways from
there to running code and to reading files (CVE-2024-3660, CVE-2025-1550, CVE-2025-8747,
CVE-2025-12058), so only what is listed here is handed on to it, rebuilt from the parts looked at.
"""

from typing import Any

from visiondyno.errors import SpecError

_PLACE = "'model_config.model'"
_MAX_DEPTH = 64
_MAX_OBJECTS = 100_000

_MODELS = {
    ("keras", "Sequential"): "keras",
    ("keras.models", "Sequential"): "keras",
    ("keras.src.models.sequential", "Sequential"): "keras",
    ("keras", "Functional"): "keras.src.models.functional",
    ("keras.models", "Functional"): "keras.src.models.functional",
    ("keras.src.models.functional", "Functional"): "keras.src.models.functional",
}
# Left out: code (Lambda, *Layer of other frameworks), vocabularies from files (*Lookup,
# TextVectorization), and what needs TensorFlow's strings.
LAYERS = frozenset(
    """
    Activation Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D
    AveragePooling2D AveragePooling3D AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D
    BatchNormalization Bidirectional CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D
    Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D
    Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout EinsumDense ELU Embedding Flatten
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GroupNormalization GroupQueryAttention GRU GRUCell Identity InputLayer LayerNormalization
    LeakyReLU LSTM LSTMCell Masking Maximum MaxPooling1D MaxPooling2D MaxPooling3D Minimum
    MultiHeadAttention Multiply Normalization Permute PReLU ReLU RepeatVector Rescaling Reshape
    Resizing RMSNormalization RNN SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax
    SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells Subtract TimeDistributed
    UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D
    ZeroPadding3D
    """.split()  # noqa: SIM905 (a word a line would be a page)
)
_INITIALIZERS = frozenset(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
    Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal VarianceScaling
    Zeros
    """.split()  # noqa: SIM905 (a word a line would be a page)
)
_ACTIVATIONS = frozenset(
    """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh
    leaky_relu linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax
    softplus softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink
    threshold
    """.split()  # noqa: SIM905 (a word a line would be a page)
)
_OPERATIONS = frozenset({"keras.src.ops.nn", "keras.src.ops.numpy"})
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__slice__", "__ellipsis__"})
_DTYPES = frozenset({"bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8"})
_NOT_HERE = {
    "regularizer": "the loss here is 'loss_function' alone; take 'weight_decay'",
    "constraint": "optimisers of torch don't apply them",
}


def checked_config(config: dict[str, Any]) -> dict[str, Any]:
    """A copy with nothing in it but known classes, for `keras.saving.deserialize_keras_object`.

    What the model was compiled with is left out: hyperparameters say how it learns.

    Raises:
        SpecError: it holds anything else; names the first of it.
    """
    kind = (config.get("module"), config.get("class_name"))
    if kind not in [*_MODELS]:  # what isn't hashable can be looked for too
        raise SpecError(
            f"{_PLACE} is a {_shown(config.get('class_name'))} of "
            f"{_shown(config.get('module'))}; give what to_json wrote of a Sequential or "
            "functional model of Keras 3, as an object."
        )
    walk = _Walk()
    copy: dict[str, Any] = walk.copied(config, 0)
    return copy


class _Walk:
    """Counts what it has seen, so that no configuration keeps it busy for long."""

    def __init__(self) -> None:
        self._objects = 0

    def copied(self, value: Any, depth: int) -> Any:
        if isinstance(value, list | tuple):
            self._count(depth)
            return [self.copied(entry, depth + 1) for entry in value]
        if not isinstance(value, dict):
            return value
        self._count(depth)
        rest = {key: entry for key, entry in value.items() if key != "compile_config"}
        if not {"class_name", "spec_name"} & rest.keys():
            _check_settings(rest)
            return {key: self.copied(entry, depth + 1) for key, entry in rest.items()}
        known = rest | {"module": _known_module(rest), "registered_name": None}
        return {key: self.copied(entry, depth + 1) for key, entry in known.items()}

    def _count(self, depth: int) -> None:
        self._objects += 1
        if depth > _MAX_DEPTH or self._objects > _MAX_OBJECTS:
            raise SpecError(
                f"{_PLACE} holds more than {_MAX_OBJECTS:,} parts, or they lie deeper than "
                f"{_MAX_DEPTH} in each other; give a smaller model."
            )


def _known_module(entry: dict[str, Any]) -> str | None:
    """Where Keras finds the class that `entry` names.

    Raises:
        SpecError: it isn't one of those that are taken.
    """
    module, name, inner = entry.get("module"), entry.get("class_name"), entry.get("config")
    if isinstance(name, str) and (module is None or isinstance(module, str)):
        if module is None and name in _VALUES:
            _check_value(name, inner)
            return None
        is_activation = isinstance(inner, str) and inner in _ACTIVATIONS
        if (module, name) == ("builtins", "function") and is_activation:
            return module
        if module is not None and isinstance(inner, dict):
            found = _module_of_class(module, name, inner)
            if found is not None:
                return found
    raise SpecError(
        f"{_PLACE} names {_shown(name)} of {_shown(module)}, which isn't taken: code, custom "
        "objects and what reads files are refused. Use layers, initialisers and activations of "
        "Keras itself."
    )


def _module_of_class(module: str, name: str, settings: dict[str, Any]) -> str | None:
    if module == "keras.layers" and name in LAYERS:
        _check_layer(name, settings)
        return module
    if (module, name) == ("keras", "DTypePolicy"):
        _check_dtype(settings.get("name"))
        return module
    if (module == "keras.initializers" and name in _INITIALIZERS) or (
        module in _OPERATIONS and _is_operation(module, name)
    ):
        return module
    return _MODELS.get((module, name))


def _is_operation(module: str, name: str) -> bool:
    import importlib

    from keras import Operation

    found = vars(importlib.import_module(module)).get(name)  # one of two modules of Keras
    return isinstance(found, type) and issubclass(found, Operation)


def _check_value(name: str, inner: Any) -> None:
    dtype = inner.get("dtype") if isinstance(inner, dict) else None
    if name in ("__tensor__", "__numpy__", "__keras_tensor__") and str(dtype) not in _DTYPES:
        raise SpecError(f"{_PLACE} holds a constant of dtype {_shown(dtype)}; give numbers.")


def _check_layer(name: str, settings: dict[str, Any]) -> None:
    if name != "InputLayer" and not isinstance(settings.get("dtype"), dict):
        _check_dtype(settings.get("dtype") or "float32")
    if settings.get("stateful"):
        raise SpecError(f"{_PLACE}: {name} is 'stateful', and batches here don't follow another.")
    _check_name(settings.get("name"))


def _check_name(name: Any) -> None:
    if isinstance(name, str) and "." in name:
        raise SpecError(f"{_PLACE}: a layer is called {_shown(name)}; leave the '.' out of it.")


def _check_dtype(name: Any) -> None:
    if name != "float32":
        raise SpecError(
            f"{_PLACE}: a layer has the dtype {_shown(name)}; make the model in float32, and give "
            "'hyperparameters.mixed_precision'."
        )


def _check_settings(settings: dict[str, Any]) -> None:
    for key, value in settings.items():
        kind = str(key).rpartition("_")[2]
        if value is not None and kind in _NOT_HERE:
            raise SpecError(f"{_PLACE}: '{key}' can't be kept: {_NOT_HERE[kind]}.")
        if key == "quantization_config" and value is not None:
            raise SpecError(f"{_PLACE}: a quantised layer can't learn; give the model as it was.")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
