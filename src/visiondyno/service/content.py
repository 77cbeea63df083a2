"""What a comparison's result depends on, as one digest: equal digests, equal results."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

from visiondyno import __version__
from visiondyno.errors import Unavailable, VisionDynoError
from visiondyno.report.comparison import Comparison
from visiondyno.specs.operations import BenchmarkInput

_CANNOT_MATTER = {"operation", "use_cache", "models", "data", "reference"}
"""Where predictions come from changes no number; the others are in the digest as content."""


def machine_of(machines: Collection[str | None]) -> str:
    """The one kind of machine that all workers run on.

    Raises:
        Unavailable: none is known, or there are several: any of them may get the job.
    """
    kinds = set(machines)
    if not kinds or None in kinds:
        raise Unavailable("no worker says what machine it runs on")
    if len(kinds) > 1:
        raise Unavailable(f"the workers run on {len(kinds)} kinds of machines")
    return str(kinds.pop())


def content_key(spec: BenchmarkInput, machine: str) -> str:
    """SHA-256 over models, data, what of the spec matters, the machine and our version.

    Reads every file of models and data. A file's name counts for models, whose name the result
    shows; where the files lie doesn't.

    Raises:
        VisionDynoError: a model or the data can't be read here, or what a model is can only be
            known where it is loaded.
    """
    settings = spec.model_dump(mode="json", exclude=_CANNOT_MATTER)
    parts = {
        "models": [_model(reference) for reference in spec.models],
        "data": _builtin(spec.data) or _data(spec),
        "reference": None if spec.reference is None else spec.models.index(spec.reference),
        "settings": settings,
        "machine": machine,
        "visiondyno": __version__,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def contradiction(spec: BenchmarkInput, comparison: Comparison) -> str | None:
    """Why a finished comparison isn't what its content key says; None if it is.

    The key is made of the files that the server sees. A worker on another machine may have others
    under the same names, and a file may change while it is measured.
    """
    if comparison.left_out:
        return "not every model could be measured"
    try:
        for report in comparison.models:
            if report.description.get("digest") != _model(report.reference)["digest"]:
                return f"the worker measured another file as {report.reference}"
        if _builtin(spec.data) is None and _data(spec) != comparison.dataset.digest:
            return f"the worker read other data as {spec.data}"
    except VisionDynoError as error:
        return error.message
    return None


def _model(reference: str) -> dict[str, Any]:
    # These load libraries that a server which only takes jobs never needs.
    from visiondyno.runtimes.model_files import content_digest, digest_in_description, model_files
    from visiondyno.runtimes.references import resolve_reference

    resolved = resolve_reference(reference)
    files = model_files(resolved)
    return {
        "name": reference if resolved.path is None else resolved.path.name,
        "runtime": resolved.runtime,
        "digest": digest_in_description(resolved),
        "files": None if files is None else content_digest(files),
    }


def _data(spec: BenchmarkInput) -> str:
    from visiondyno.datasets.registry import open_dataset

    return open_dataset(spec.data, skip_bad=spec.skip_bad, max_images=spec.max_images).digest


def _builtin(reference: str) -> str | None:
    """The full name of built-in data, which our code makes of it; None for other data."""
    from visiondyno.datasets.registry import builtin_datasets

    name, *parts = reference.split(":")
    for known in builtin_datasets():
        if name == known.name:
            split = parts[0] if parts else known.default_split
            count = parts[1] if len(parts) > 1 else known.splits.get(split, 0)
            return f"{name}:{split}:{count}"
    return None
