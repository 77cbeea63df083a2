"""The jobs of the chaos run: each writes down when it starts and ends, and sums its own input."""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from visiondyno.operations.context import OperationContext


def checksum(number: int) -> str:
    """What job `number` must answer."""
    return hashlib.sha256(f"job {number}".encode()).hexdigest()


def run(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Work for `seconds`, telling progress, then answer with the checksum of the own input."""
    ledger, number = Path(job_input["ledger"]), int(job_input["number"])
    note(ledger, "start", number)
    end_s = time.monotonic() + job_input["seconds"]
    step = 0
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, 0.5))
        step += 1
        context.progress("working", step=step)
    note(ledger, "end", number)
    return {"checksum": checksum(number)}


def note(ledger: Path, what: str, number: int) -> None:
    """One line in the ledger. A line this short is written whole, whoever else writes."""
    line = json.dumps({"what": what, "number": number, "pid": os.getpid(), "at": time.time()})
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)
