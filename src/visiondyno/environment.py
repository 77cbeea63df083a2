"""The machine, packages and settings a number was measured on: a value; `probes` fills it in."""

from pydantic import BaseModel, ConfigDict


class GpuInfo(BaseModel):
    """One GPU as the driver describes it."""

    model_config = ConfigDict(frozen=True)

    index: int
    name: str
    memory_bytes: int
    driver: str


class Environment(BaseModel):
    """What a measurement was made on.

    Attributes:
        machine_id: hash of the hardware and system below; equal ids are comparable numbers.
        cpu_count: logical processors this process may use (affinity and cgroup quota counted).
        cpu_governor: the frequency governor, or None where the kernel doesn't say.
        container: what limits this process, e.g. `cgroup v2: 2.0 CPUs`, or None.
        packages: name → version of everything that can change a number.
        cannot_measure: what this machine can't measure, each with the reason.
    """

    model_config = ConfigDict(frozen=True)

    machine_id: str
    hostname_hash: str
    system: str
    kernel: str
    cpu_model: str
    cpu_count: int
    cpu_governor: str | None
    memory_bytes: int
    container: str | None
    virtual_machine: str | None
    gpus: tuple[GpuInfo, ...]
    python: str
    packages: dict[str, str]
    cannot_measure: dict[str, str]
