"""How a file that is made of a model comes to say what it was made of."""

import os
from pathlib import Path
from typing import Any, Literal

from visiondyno import __version__
from visiondyno.datasets.registry import builtin_dataset
from visiondyno.runtimes.base import LoadedModel
from visiondyno.runtimes.made_model import Learned, MadeOf, learned_by, read_made
from visiondyno.runtimes.onnx_file import read_onnx
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trained_models import read_trained


def made_of(
    reference: str,
    source: LoadedModel,
    operation: Literal["export", "quantize"],
    how: dict[str, Any],
) -> MadeOf:
    """The origin of what `operation` makes of a model.

    Args:
        reference: of the model.
        source: the same, loaded.
        operation: that makes it.
        how: what is asked for.
    """
    return MadeOf(
        by=f"visiondyno {__version__}",
        operation=operation,
        source=source_name(reference),
        source_digest=source.description.digest,
        how=how,
        learned=_learned(reference),
    )


def source_name(reference: str) -> str:
    """What a model is called to others: of a path the last name, as where it lay says nothing."""
    path = resolve_reference(reference).path
    return reference if path is None else own_name(path)


def own_name(path: Path) -> str:
    """The last name of a path, also of `.`; links keep their own."""
    return Path(os.path.abspath(path)).name  # noqa: PTH100


def data_name(reference: str) -> str:
    """The same of data; names stay, of built-in data and of pulled ones."""
    is_path = "/" in reference or Path(reference).exists()
    if builtin_dataset(reference) is not None or not is_path:
        return reference
    return f"./{own_name(Path(reference))}"


def _learned(reference: str) -> Learned | None:
    resolved = resolve_reference(reference)
    if resolved.path is None:
        return None
    if resolved.runtime == "trained":
        found = learned_by(read_trained(resolved.path))
        on = found.trained_on
        validation = on.validation_reference
        named = on.model_copy(
            update={
                "reference": data_name(on.reference),
                "validation_reference": None if validation is None else data_name(validation),
            }
        )
        return found.model_copy(update={"trained_on": named})
    if resolved.runtime != "onnx":
        return None
    made = read_made(read_onnx(resolved.path).metadata)
    return None if made is None else made.learned
