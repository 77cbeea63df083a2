"""A stand-in for the NVIDIA driver, so that its use is tested where there is no GPU."""

# ruff: noqa: N802 - the functions' names are NVML's

from types import SimpleNamespace
from typing import Any


class Driver:
    """The functions of NVML that are called, over GPUs given as dictionaries."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: dict[str, Any]) -> None:
        self.gpus = list(gpus)
        self.sessions = 0

    def nvmlInit(self) -> None:
        self.sessions += 1

    def nvmlShutdown(self) -> None:
        self.sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        if index >= len(self.gpus):
            raise self.NVMLError("Invalid Argument")
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> dict[str, Any]:
        for gpu in self.gpus:
            if gpu["uuid"] == uuid:
                return gpu
        raise self.NVMLError("Not Found")

    def nvmlDeviceGetName(self, gpu: dict[str, Any]) -> str:
        return str(gpu["name"])

    def nvmlDeviceGetMemoryInfo(self, gpu: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(total=gpu["total"], used=gpu["used"])

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: dict[str, Any]) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in gpu["processes"].items()]

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: dict[str, Any]) -> list[SimpleNamespace]:
        return []

    def nvmlDeviceGetUtilizationRates(self, gpu: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(gpu=gpu["busy"])

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: dict[str, Any]) -> int:
        if gpu["energy_mj"] is None:
            raise self.NVMLError("Not Supported")
        return int(gpu["energy_mj"])


def gpu(**changes: Any) -> dict[str, Any]:
    made = {
        "name": "NVIDIA L4",
        "uuid": "GPU-1",
        "total": 24 << 30,
        "used": 1000,
        "processes": {},
        "busy": 40,
        "energy_mj": 5000,
    }
    return made | changes
