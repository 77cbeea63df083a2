"""One short name for everything about a machine that a measurement depends on."""

import hashlib
import json

from visiondyno.environment import Environment
from visiondyno.probes.machine import capture_environment


def machine_digest(environment: Environment | None = None) -> str:
    """Digest of processor, usable processors, memory, GPUs and drivers, Python, and packages.

    Equal on machines whose measurements may stand for each other. What may differ from one hour to
    the next isn't in it: the host's name, the kernel's version, the frequency governor, load.

    Args:
        environment: of this machine, if it was captured already.

    Returns:
        32 hexadecimal digits.
    """
    found = capture_environment() if environment is None else environment
    facts = {
        "machine": found.machine_id,
        "system": found.system,
        "python": found.python,
        "packages": found.packages,
        "drivers": [gpu.driver for gpu in found.gpus],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
