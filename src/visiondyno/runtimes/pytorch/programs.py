"""The torch runtime: exported programs, TorchScript, and modules that the user's own code makes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import ModelError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, ModelDescription, Precision, Runtime
from visiondyno.runtimes.card_file import card_path, parse_card, read_card
from visiondyno.runtimes.graph_facts import GraphFacts
from visiondyno.runtimes.graph_input import GraphInput, image_input, output_shapes
from visiondyno.runtimes.model_cards import ResolvedCard, resolve_card
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.exported_file import read_exported
from visiondyno.runtimes.pytorch.module import (
    TorchModel,
    flat_tensors,
    parameter_count,
    precision_of,
    reason,
)
from visiondyno.runtimes.pytorch.stated_card import complete_card
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.trusted_code import check_trust, import_named
from visiondyno.specs.model_card import ModelCard
from visiondyno.state import from_module, identity
from visiondyno.vision.heads import HEADS
from visiondyno.whole_file import file_sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

_EXPORTED = ".pt2"
CARD_ATTRIBUTE = "model_card"
"""Of a module that the user's own code makes: a `ModelCard`, or what one is made of."""

_OUTPUTS = ("output",)
"""What the first output is called; the graph's own names say nothing to those who exported it."""


@dataclass(frozen=True, slots=True)
class _Program:
    """A module on its device, and what is told of it; see `ModelDescription`."""

    module: "Callable[[torch.Tensor], Any]"
    resolved: ResolvedCard
    precision: Precision
    parameters: int | None
    digest: str
    file_bytes: int
    files: tuple[Path, ...] = ()
    batch_size: int | None = None
    notes: tuple[str, ...] = ()


class TorchRuntime(Runtime):
    """Runs `.pt2` and `.torchscript` files, and `torch:package.module:factory`.

    A `.pt2` is a program of `torch.export.save`; nothing in it is unpickled. TorchScript is a
    program too, in a language of its own: it runs nothing of Python, but may read and write files.
    A factory is a callable without arguments that returns an `nn.Module`; its code is imported
    only where code is trusted (`visiondyno.runtimes.trusted_code`).

    The model card is that of `LoadOptions`, the one beside the file, or the module's attribute
    `model_card`. A `.pt2` of well-known shapes does without.
    """

    name = "torch"

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`.

        Raises:
            ModelError: it can't be read, has no card, its card doesn't fit, or it names code where
                code isn't trusted.
            SpecError: the device's name is wrong.
            Unavailable: the device isn't here, or torch isn't installed.
        """
        resolved = resolve_reference(reference)
        if resolved.path is None:
            check_trust(reference)  # before anything else is told of this machine
        on = TorchDevice(options, f"The model {reference}")
        if resolved.path is None:
            program = _made(resolved.name, reference, on, options.card)
        elif resolved.path.suffix.lower() == _EXPORTED:
            program = _exported(resolved.path, on, options.card)
        else:
            program = _scripted(resolved.path, reference, on, options.card)
        description = ModelDescription(
            reference=reference,
            runtime=f"torch {on.version}",
            device=on.name,
            precision=program.precision,
            provider=on.provider,
            card=program.resolved.card,
            card_source=program.resolved.sources,
            batch_size=program.batch_size,
            parameters=program.parameters,
            file_bytes=program.file_bytes,
            digest=program.digest,
            notes=(*program.resolved.notes, *program.notes, *on.notes),
        )
        model = TorchModel(description, program.module, on, _OUTPUTS)
        model.files = program.files
        return model


def _exported(path: Path, on: TorchDevice, given: ModelCard | None) -> _Program:
    file = read_exported(path, on)
    facts = file.facts
    resolved = resolve_card(facts, given)
    graph_input = image_input(facts)
    shapes = output_shapes(facts, graph_input)
    alone = HEADS[resolved.card.head].lacks_batch_axis(shapes, resolved.card)
    return _Program(
        module=_called(file.module, facts, graph_input, resolved.card),
        resolved=resolved,
        precision=facts.precision,
        parameters=facts.parameters,
        digest=facts.digest,
        file_bytes=facts.file_bytes,
        files=(path,),
        batch_size=1 if alone else graph_input.batch,
    )


def _called(
    module: "nn.Module", facts: GraphFacts, graph_input: GraphInput, card: ModelCard
) -> "Callable[[torch.Tensor], Any]":
    """The program fed by what it takes: a batch or one image, and the input's size if asked."""
    import torch

    def call(images: "torch.Tensor") -> "list[torch.Tensor]":
        fed = {graph_input.name: images if graph_input.has_batch_axis else images[0]}
        if graph_input.size_input:
            size = torch.tensor([[card.input.width, card.input.height]], device=images.device)
            fed[graph_input.size_input] = size.repeat(len(images), 1)
        outputs = flat_tensors(module(*(fed[one.name] for one in facts.inputs)))
        return outputs if graph_input.has_batch_axis else [output[None] for output in outputs]

    return call


def _answering(module: "Callable[[torch.Tensor], Any]", reference: str) -> "Callable[..., Any]":
    """The module, which must return tensors."""

    def call(images: "torch.Tensor") -> "list[torch.Tensor]":
        outputs = flat_tensors(module(images))
        if not outputs:
            raise ModelError(
                f"{reference} returned no tensor; it must return one, or several in a tuple, list "
                "or dict."
            )
        return outputs

    return call


def _scripted(path: Path, reference: str, on: TorchDevice, given: ModelCard | None) -> _Program:
    import torch

    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the .pt2 or .torchscript file inside it.")
    card, origin = _card_of_file(path, reference, given)
    try:
        with warnings.catch_warnings():
            # torch would have its own users write no more TorchScript; files of it remain.
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location=on.device)
        module.eval()
    except Exception as error:  # whatever a damaged file makes torch stumble over
        raise ModelError(
            f"{path} can't be loaded as TorchScript by torch {on.version}: {reason(error)} Give a "
            "file of torch.jit.save, or name a .pt2 file of torch.export.save."
        ) from error
    parameters = parameter_count(module)
    notes: tuple[str, ...] = ()
    if parameters == 0:
        notes = ("Its weights are constants of its graph: they aren't counted.",)
    return _Program(
        module=_answering(module, reference),
        resolved=complete_card(card, origin, reference),
        precision=precision_of(module) if parameters else _of_input(card),
        parameters=parameters or None,
        digest=f"sha256:{file_sha256(path)}",
        file_bytes=path.stat().st_size,
        files=(path,),
        notes=notes,
    )


def _made(place: str, reference: str, on: TorchDevice, given: ModelCard | None) -> _Program:
    module = _module_of_factory(place, reference)
    card, origin = _card_of_module(module, reference, given)
    resolved = complete_card(card, origin, reference)
    state = from_module(module, copy=False)
    digest = identity(state)
    return _Program(
        module=_answering(module.to(on.device).eval(), reference),
        resolved=resolved,
        precision=precision_of(module),
        parameters=parameter_count(module),
        digest=f"sha256:{digest}",
        file_bytes=sum(array.nbytes for array in state.values()),
        notes=("Made by Python code, not read from a file: its size is that of its weights.",),
    )


def _module_of_factory(place: str, reference: str) -> "nn.Module":
    from torch import nn

    factory = import_named(place, reference)
    if not callable(factory):
        raise ModelError(
            f"{reference} is a {type(factory).__name__}; name a callable without arguments that "
            "returns a torch.nn.Module."
        )
    try:
        module = factory()
    except Exception as error:  # the user's own code
        raise ModelError(
            f"{reference} failed: {type(error).__name__}: {reason(error)}. It is called without "
            "arguments and must return a torch.nn.Module."
        ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{reference} returned a {type(module).__name__}; it must return a torch.nn.Module."
        )
    return module


def _card_of_file(path: Path, reference: str, given: ModelCard | None) -> tuple[ModelCard, str]:
    if given is not None:
        return given, "given"
    beside = card_path(path)
    if not beside.is_file():
        raise ModelError(
            f"{reference} needs a model card: TorchScript doesn't say how its input is made and "
            f"its output read. Write {beside.name} beside it, as docs/model-cards.md shows."
        )
    return read_card(beside), f"card {beside.name}"


def _card_of_module(
    module: "nn.Module", reference: str, given: ModelCard | None
) -> tuple[ModelCard, str]:
    if given is not None:
        return given, "given"
    said = getattr(module, CARD_ATTRIBUTE, None)
    if said is None:
        raise ModelError(
            f"{reference} needs a model card: set the module's attribute '{CARD_ATTRIBUTE}' to a "
            "dict of the fields in docs/model-cards.md, which say how its input is made and its "
            "output read."
        )
    card = (
        said
        if isinstance(said, ModelCard)
        else parse_card(said, f"{CARD_ATTRIBUTE} of {reference}")
    )
    return card, f"attribute {CARD_ATTRIBUTE}"


def _of_input(card: ModelCard) -> Precision:
    return "fp16" if card.input.dtype == "float16" else "fp32"
