"""Where operations get their models from: loaded and closed, or warm."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from visiondyno.probes.gpu import device_used_bytes
from visiondyno.probes.kernel_files import ROOT, read_fields
from visiondyno.runtimes.base import Device, LoadedModel, LoadOptions
from visiondyno.runtimes.registry import load_model
from visiondyno.runtimes.warm import WarmModels


class ModelSource(Protocol):
    """Opens models; `WarmModels` is one."""

    def open(
        self, reference: str, options: LoadOptions, announce: Callable[[bool], None]
    ) -> AbstractContextManager[LoadedModel]:
        """The model for as long as the context lasts; `announce` is told first if it is warm."""


class ColdModels:
    """Loads a model for each use, and closes it afterwards."""

    @contextmanager
    def open(
        self, reference: str, options: LoadOptions, announce: Callable[[bool], None]
    ) -> Iterator[LoadedModel]:
        """See `ModelSource.open`."""
        announce(False)
        with load_model(reference, options) as model:
            yield model


def warm_models(capacity_bytes: int) -> WarmModels:
    """Warm models of this process, counted by its own memory and the GPU's.

    Of a model on a GPU the device's memory counts, all processes' together: what others take or
    free while it is loaded goes into its size.
    """
    return WarmModels(capacity_bytes, _used_bytes)


def _used_bytes(device: Device) -> int | None:
    if device != "cpu":
        return device_used_bytes(device)
    kilobytes = read_fields(ROOT / "proc/self/status").get("VmRSS")
    return None if kilobytes is None else kilobytes * 1024
