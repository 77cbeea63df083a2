"""What a model file says about itself, whatever its format."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visiondyno.runtimes.base import Precision
from visiondyno.specs.model_card import Quantisation

Shape = tuple[int | None, ...]
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One input or output of a graph.

    Attributes:
        dtype: NumPy's name (`float32`), or `unknown`.
        shape: None for sizes known at run time only.
        quantisation: what its integers stand for, where the graph says it.
    """

    name: str
    dtype: str
    shape: Shape
    quantisation: Quantisation | None = None


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What a file of a graph says about itself.

    Attributes:
        path: of the file or folder that the user named: a card lies beside it.
        inputs: without weights.
        operators: the operator types its graph uses, by ONNX's names where cards are told by them
            (`Exp`, `Softmax`).
        output_operators: the operator that makes each output.
        metadata: texts that its exporter wrote, by key.
        precision: of the arithmetic.
        parameters: number of weights (floating point and 8-bit or smaller tensors), or None where
            it can't be known.
        file_bytes: with its external data.
        digest: `sha256:…` of the file, followed by its external data in order of name.
        external_files: where its external data lies.
    """

    path: Path
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: frozenset[str]
    output_operators: tuple[str | None, ...]
    metadata: dict[str, str]
    precision: Precision
    parameters: int | None
    file_bytes: int
    digest: str
    external_files: tuple[Path, ...] = ()


def files_digest(paths: Sequence[Path]) -> str:
    """`sha256:…` of the files' content, one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
    return f"sha256:{digest.hexdigest()}"
