"""Reading what a model of transformers says of itself, without asking the hub for anything."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from visiondyno.errors import MissingExtra, ModelError, VisionDynoError
from visiondyno.runtimes.pytorch.module import reason

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"

Task = Literal["detection", "classification", "depth"]

_LARGEST_BYTES = 16 << 20
_NAMES_CODE = frozenset({"auto_map", "experts_implementation", "_experts_implementation"})
_TIMM_WRAPPER = "timm_wrapper"


@contextmanager
def reading(reference: str) -> Iterator[None]:
    """Whatever the library stumbles over inside becomes an error of ours.

    Raises:
        MissingExtra: it needs timm (some backbones are timm's).
        ModelError: anything else.
    """
    try:
        yield
    except VisionDynoError:
        raise
    except ImportError as error:
        if "timm" in str(error):
            raise MissingExtra("timm", f"The backbone of '{reference}'") from error
        raise ModelError(f"{reference} needs a package: {reason(error)}") from error
    except Exception as error:
        # Configurations, safetensors and architectures each raise errors of their own.
        raise ModelError(f"{reference} can't be read: {reason(error)}") from error


def read_json(path: Path, reference: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it can't be read, is far too large, or holds something else.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelError(f"{path} of {reference} is larger than any such file; fetch it again.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} of {reference} can't be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} of {reference} isn't JSON; fetch or save it again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of {reference} holds no object; fetch or save it again.")
    return content


def read_config(folder: Path, reference: str) -> Any:
    """The configuration of the model in `folder`; see `build_config`."""
    return build_config(read_json(folder / CONFIG, reference), reference)


def build_config(settings: dict[str, Any], reference: str) -> Any:
    """The library's configuration of these settings.

    Raises:
        ModelError: the library knows no such model, or its backbone is another model of the hub.
        MissingExtra: its backbone is timm's, which isn't installed.
    """
    import transformers

    kind = settings.get("model_type")
    if kind == _TIMM_WRAPPER or (kind is None and "architecture" in settings):
        name = settings.get("architecture", "NAME")
        raise ModelError(f"{reference} is a model of timm; use timm:{name} instead.")
    if kind not in transformers.CONFIG_MAPPING:
        remote = "; code of its repository isn't run" if "auto_map" in settings else ""
        raise ModelError(
            f"transformers {transformers.__version__} knows no model of type '{kind}' "
            f"({reference}){remote}. A newer transformers may."
        )
    settings = _without_code(settings)
    with reading(reference):
        config = transformers.CONFIG_MAPPING[kind].from_dict(_with_backbone(settings))
        _check_backbones(config, reference)
    return config


def _without_code(value: Any) -> Any:
    """Settings without those that name code of the hub: modules, and kernels of attention."""
    if isinstance(value, dict):
        return {
            name: _without_code(one)
            for name, one in value.items()
            if name not in _NAMES_CODE and not str(name).endswith("attn_implementation")
        }
    return [_without_code(one) for one in value] if isinstance(value, list) else value


def task_of(config: Any, reference: str) -> Task:
    """What the model was saved for, by the class that its configuration names.

    Raises:
        ModelError: it is for something else, which the message names, or says nothing.
    """
    from transformers.models.auto import modeling_auto as auto

    name = next(iter(getattr(config, "architectures", None) or ()), "")
    tasks: dict[Task, Any] = {
        "detection": auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        "classification": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        "depth": auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES,
    }
    for task, names in tasks.items():
        if name in _flat(names.values()):
            return task
    what = f"a {name}" if name else "of no task that its config.json names"
    raise ModelError(
        f"{reference} is {what}; object detectors (…ForObjectDetection), image classifiers "
        "(…ForImageClassification) and depth models (…ForDepthEstimation) are run."
    )


def read_processor(folder: Path, config: Any, reference: str) -> Any:
    """The image processor of the model in `folder`.

    Raises:
        ModelError: the library has none of that name, or doesn't take its settings.
    """
    import transformers

    read_json(folder / PROCESSOR, reference)
    with reading(reference):
        return transformers.AutoImageProcessor.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )


def processor_of(settings: dict[str, Any], reference: str) -> Any:
    """The image processor of settings that name its class, as the library writes them.

    Raises:
        ModelError: the library has none of that name, or doesn't take the settings.
    """
    import transformers

    name = str(settings.get("image_processor_type"))
    made = getattr(transformers, name, None) if name.endswith("ImageProcessor") else None
    if made is None:
        raise ModelError(
            f"transformers {transformers.__version__} has no image processor '{name}' "
            f"({reference}); a newer one may."
        )
    with reading(reference):
        return made.from_dict(settings)


def _flat(names: Any) -> set[str]:
    return {one for entry in names for one in (entry if isinstance(entry, tuple) else (entry,))}


def _with_backbone(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with a timm backbone spelled out, which the library would ask the hub about."""
    name, arguments = settings.get("backbone"), settings.get("backbone_kwargs")
    if not isinstance(name, str) or settings.get("backbone_config") or not arguments:
        return settings
    written = {"model_type": "timm_backbone", "backbone": name, **arguments}
    rest = {"backbone": None, "backbone_kwargs": None, "use_timm_backbone": None}
    return {**settings, **rest, "backbone_config": written}


def _check_backbones(config: Any, reference: str) -> None:
    """A backbone of timm must be one of timm's names: its names can be addresses, too."""
    backbone: Any = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", None) != "timm_backbone":
        return
    import timm

    backbone.use_pretrained_backbone = False
    if not timm.is_model(str(backbone.backbone).partition(".")[0]):
        raise ModelError(
            f"{reference} names '{backbone.backbone}' as its backbone, which timm "
            f"{timm.__version__} doesn't know; take another model."
        )
