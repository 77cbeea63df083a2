"""Inference requests and responses of the Open Inference Protocol, apart from how they travel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from visiondyno.errors import SpecError
from visiondyno.serving.tensors import Tensor

VERSION = "1"
"""The only version of each model."""

# They would change what a request means, so that leaving them out gave a wrong answer.
_UNSUPPORTED = {
    "shared_memory_region": "shared memory",
    "shared_memory_byte_size": "shared memory",
    "classification": "classification extension",
    "sequence_id": "sequences",
    "sequence_start": "sequences",
    "sequence_end": "sequences",
}

Parameters = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a request asks for.

    Attributes:
        name: of the output.
        binary: whether as binary data; None where the request as a whole says.
    """

    name: str
    binary: bool | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What is asked of a model.

    Attributes:
        inputs: in the request's order.
        outputs: those asked for; empty: all.
        id: given back in the response; empty where there is none.
        parameters: of the request as a whole.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[WantedOutput, ...] = ()
    id: str = ""
    parameters: Parameters = field(default_factory=dict)

    def wanted(self, announced: Sequence[str]) -> list[str]:
        """The names of the outputs to give.

        Raises:
            SpecError: one isn't `announced`, or is asked for twice.
        """
        names = [one.name for one in self.outputs]
        for name in names:
            if name not in announced:
                raise SpecError(
                    f"The model has no output '{name}'; it has {', '.join(map(repr, announced))}."
                )
        if len(set(names)) < len(names):
            raise SpecError("An output is asked for twice.")
        return names or list(announced)

    def is_binary(self, output: str) -> bool:
        """Whether that output is to be given as binary data."""
        own = next((one.binary for one in self.outputs if one.name == output), None)
        return bool(self.parameters.get("binary_data_output", False)) if own is None else own


def check_parameters(parameters: Parameters) -> None:
    """Refuse parameters of extensions that aren't here.

    Raises:
        SpecError: there is such a parameter (a sequence's of 0 or false means no sequence).
    """
    for name, said in _UNSUPPORTED.items():
        if parameters.get(name):
            raise SpecError(f"The parameter '{name}' isn't supported: this server has no {said}.")
