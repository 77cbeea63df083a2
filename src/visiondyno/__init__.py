"""Put a vision model on the dyno: measurements of vision models that can be trusted.

>>> import visiondyno
>>> comparison = visiondyno.compare(
...     ["visiondyno:street-n", "visiondyno:street-s"], data="street:demo"
... )  # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Callback",
    "Client",
    "Comparison",
    "GPUTrainingOrchestrator",
    "ModelState",
    "RunPodGPUClient",
    "Trainer",
    "VisionDynoError",
    "__version__",
    "compare",
    "evaluate",
    "predict",
    "tune",
]

if TYPE_CHECKING:
    from visiondyno.client.async_client import AsyncClient
    from visiondyno.client.callbacks import Callback
    from visiondyno.client.client import Client
    from visiondyno.client.model_state import ModelState
    from visiondyno.client.runpod_names import GPUTrainingOrchestrator, RunPodGPUClient
    from visiondyno.client.trainer import Trainer
    from visiondyno.errors import VisionDynoError
    from visiondyno.python_face import compare, evaluate, predict
    from visiondyno.report.comparison import Comparison
    from visiondyno.tuning.face import tune

# Imported at first use: `dyno --help` and a bare `import visiondyno` stay cheap.
_HOMES = {
    "AsyncClient": "visiondyno.client.async_client",
    "Callback": "visiondyno.client.callbacks",
    "Client": "visiondyno.client.client",
    "GPUTrainingOrchestrator": "visiondyno.client.runpod_names",
    "ModelState": "visiondyno.client.model_state",
    "RunPodGPUClient": "visiondyno.client.runpod_names",
    "Trainer": "visiondyno.client.trainer",
    "Comparison": "visiondyno.report.comparison",
    "VisionDynoError": "visiondyno.errors",
    "compare": "visiondyno.python_face",
    "evaluate": "visiondyno.python_face",
    "predict": "visiondyno.python_face",
    "tune": "visiondyno.tuning.face",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'visiondyno' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext visiondyno`: the cell magic `%%dyno_train`."""
    importlib.import_module("visiondyno.client.notebook").load(shell)
