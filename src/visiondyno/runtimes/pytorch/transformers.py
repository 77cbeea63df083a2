"""The transformers runtime: detectors, classifiers and depth models of Hugging Face."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visiondyno.errors import MissingExtra, ModelError
from visiondyno.runtimes.base import LoadedModel, LoadOptions, Progress, Runtime
from visiondyno.runtimes.native_card import card_in_use
from visiondyno.runtimes.pytorch import hub
from visiondyno.runtimes.pytorch.device import TorchDevice
from visiondyno.runtimes.pytorch.module import described
from visiondyno.runtimes.pytorch.transformers_config import (
    CONFIG,
    PROCESSOR,
    build_config,
    processor_of,
    read_config,
    read_json,
    read_processor,
    reading,
    task_of,
)
from visiondyno.runtimes.pytorch.transformers_models import MODELS, described_card
from visiondyno.runtimes.references import resolve_reference
from visiondyno.runtimes.weights import missing
from visiondyno.specs.trained_model import TrainedModel
from visiondyno.whole_file import file_sha256

if TYPE_CHECKING:
    import torch

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PATTERNS = (CONFIG, PROCESSOR, _WEIGHTS, _INDEX, "model-*-of-*.safetensors")
_NEEDED = "model*.safetensors"
_THRESHOLDS = ("confidence", "max_detections", "clip_to_image")


class TransformersRuntime(Runtime):
    """Loads `transformers:ORGANISATION/NAME[@REVISION]` and folders that `save_pretrained` wrote.

    Only safetensors are read, and code of a repository is never run.
    """

    name = "transformers"

    def fetch(self, reference: str, on_progress: Progress | None = None) -> None:
        """See `Runtime.fetch`."""
        if resolve_reference(reference).path is None:
            wanted = _repository(reference)
            try:
                _weights_of(hub.find(wanted), reference)
            except ModelError:
                hub.fetch(wanted, _NEEDED, on_progress)

    def load(self, reference: str, options: LoadOptions) -> LoadedModel:
        """See `Runtime.load`."""
        on = TorchDevice(options, f"'{reference}'")
        _require_library(reference)
        path = resolve_reference(reference).path
        folder = path if path is not None else hub.find(_repository(reference))
        weights = _weights_of(folder, reference, is_local=path is not None)
        with _quiet(), hub.no_connections():
            config = read_config(folder, reference)
            processor = read_processor(folder, config, reference)
            module = _module(folder, config, reference)
        model = _loaded(reference, module, processor, on, options)
        model.files = (folder / CONFIG, folder / PROCESSOR, *weights)
        data = [one for one in weights if one.suffix == ".safetensors"]
        model.description = replace(
            model.description,
            file_bytes=sum(one.stat().st_size for one in data),
            digest=f"sha256:{_digest(data)}",
        )
        return model


def build_trained(
    record: TrainedModel,
    state: "Mapping[str, torch.Tensor]",
    options: LoadOptions,
    folder: Path,
) -> LoadedModel:
    """The model of a training's record and weights.

    `record.name` is the type of model (`rt_detr_v2`); `record.arguments` holds `config` and
    `preprocessor`: what `save_pretrained` writes to `config.json` and `preprocessor_config.json`.

    Raises:
        ModelError: this transformers can't build it, or the weights don't fit.
    """
    reference = str(folder)
    on = TorchDevice(options, f"'{reference}'")
    _require_library(reference)
    with _quiet(), hub.no_connections():
        settings = {**record.arguments["config"], "model_type": record.name}
        settings["id2label"] = dict(enumerate(record.classes))
        config = build_config(settings, reference)
        with reading(reference):
            module = _auto_class(task_of(config, reference)).from_config(
                config, trust_remote_code=False
            )
            module.load_state_dict(dict(state))
        processor = processor_of(record.arguments["preprocessor"], reference)
    return _loaded(reference, module, processor, on, options)


def _repository(reference: str) -> hub.Repository:
    name = resolve_reference(reference).name
    return hub.repository(name, reference, _PATTERNS, "transformers")


def _require_library(reference: str) -> None:
    try:
        import transformers  # noqa: F401 - asked for here, used in many places
    except ImportError as error:
        raise MissingExtra("transformers", f"'{reference}'") from error


def _weights_of(folder: Path, reference: str, *, is_local: bool = False) -> tuple[Path, ...]:
    """The index, if there is one, and the files of weights.

    Raises:
        ModelError: a file is absent.
    """
    index = folder / _INDEX
    if (folder / _WEIGHTS).is_file() or not index.is_file():
        names: Sequence[str] = [_WEIGHTS]
    else:
        names = [_INDEX, *_shards(index, reference)]
    absent = [name for name in (CONFIG, PROCESSOR, *names) if not (folder / name).is_file()]
    if absent and not is_local:
        raise missing(reference)
    if absent:
        raise ModelError(
            f"{folder} lacks {absent[0]}; a folder of transformers holds {CONFIG}, {PROCESSOR} and "
            f"{_WEIGHTS}, as save_pretrained of model and image processor write them."
        )
    return tuple(folder / name for name in names)


def _shards(index: Path, reference: str) -> list[str]:
    places = read_json(index, reference).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, dict) else []
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise ModelError(
            f"{index} names no files of weights beside it; copy or fetch the model again."
        )
    return names


def _digest(weights: Sequence[Path]) -> str:
    """Of one file its SHA-256; of several, that of theirs in the order of their names."""
    import hashlib

    digests = [file_sha256(one) for one in weights]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _auto_class(task: str) -> Any:
    import transformers

    return {
        "detection": transformers.AutoModelForObjectDetection,
        "classification": transformers.AutoModelForImageClassification,
        "depth": transformers.AutoModelForDepthEstimation,
    }[task]


def _module(folder: Path, config: Any, reference: str) -> Any:
    """The module in evaluation mode, in the precision of its file.

    Raises:
        ModelError: a file is damaged, or doesn't hold all weights of the architecture.
    """
    auto = _auto_class(task_of(config, reference))
    with reading(reference):
        module, found = auto.from_pretrained(
            folder,
            config=config,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            # So that they are told, instead of being printed.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    misfits = (one if isinstance(one, str) else one[0] for one in found["mismatched_keys"])
    absent = sorted({*found["missing_keys"], *misfits})
    if absent:
        # The library goes on with random weights, and only warns.
        raise ModelError(
            f"The weights of {reference} don't fit its {CONFIG}: {len(absent)} are missing or of "
            f"another shape, the first being {absent[0]}; take a model that was trained for its "
            "task, not a backbone."
        )
    return module.eval()


def _loaded(
    reference: str, module: Any, processor: Any, on: TorchDevice, options: LoadOptions
) -> LoadedModel:
    import transformers

    task = task_of(module.config, reference)
    own, notes = described_card(task, module.config, processor)
    if options.card is not None and options.card.depth is not None and own.depth is not None:
        # Whether a depth model answers metres is often written in its name alone.
        own = own.model_copy(update={"depth": options.card.depth})
    in_use = card_in_use(own, options.card, reference, thresholds=_THRESHOLDS)
    library = f"transformers {transformers.__version__}"
    description = described(module, on, reference, library, in_use, notes)
    return MODELS[task](description, module.eval(), processor, on)


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, the library shows no bars and warns of nothing: what matters is checked."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
