"""Which settings of a configuration of transformers may be given: those that shape the model."""

from collections.abc import Iterator
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.training.names import suggestion

# Makes a model of timm by any name: a repository, a folder; 'timm' does the same, checked.
NOT_TAKEN = frozenset({"timm_wrapper"})

_MAX_LABELS = 1_000_000
_CODE = "it can name code or weights that would be loaded"
_REFUSED = {
    "architectures": "it doesn't shape the model",
    "attn_implementation": _CODE,
    "auto_map": _CODE,
    "backbone": _CODE,
    "backbone_config": _CODE,
    "backbone_kwargs": _CODE,
    "dtype": "give 'hyperparameters.mixed_precision'",
    "experts_implementation": _CODE,
    "model_type": "'model_config.name' says it",
    "name_or_path": _CODE,
    "quantization_config": "a quantised model can't learn",
    "torch_dtype": "give 'hyperparameters.mixed_precision'",
    "transformers_version": "it doesn't shape the model",
    "trust_remote_code": _CODE,
    "use_pretrained_backbone": _CODE,
    "use_timm_backbone": _CODE,
}


def check_settings(arguments: dict[str, Any], known: Any, place: str) -> None:
    """Refuses what isn't a setting of this model, or could load something.

    Args:
        arguments: the user's.
        known: the configuration without them.
        place: what messages begin with.

    Raises:
        SpecError: names the first that isn't taken.
    """
    names = {*known.to_dict(), *known.attribute_map, "num_labels"}
    for name in _names(arguments):
        if name in _REFUSED or name.startswith("_"):
            hint = _REFUSED.get(name, "it isn't a setting of the model")
            raise SpecError(f"{place}: '{name[:80]}' can't be given; {hint}.")
    for name in arguments:
        if name not in names:
            taken = [n for n in names if n not in _REFUSED and not n.startswith("_")]
            hint = suggestion(name, taken)
            raise SpecError(f"{place}: there is no argument '{name[:80]}'. {hint}")
    labels = arguments.get("num_labels")
    if isinstance(labels, int) and not 0 < labels <= _MAX_LABELS:
        raise SpecError(f"{place}: 'num_labels' must be from 1 to {_MAX_LABELS:,}, got {labels}.")


def _names(settings: Any) -> Iterator[str]:
    """Of the settings, and of the configurations in them."""
    pending = [settings]
    while pending:
        entry = pending.pop()
        if isinstance(entry, dict):
            yield from (str(name) for name in entry)
            pending.extend(entry.values())
        elif isinstance(entry, list):
            pending.extend(entry)
