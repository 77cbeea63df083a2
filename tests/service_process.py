"""A process that accepts jobs until it is killed: `python service_process.py HOME COUNT`.

Each id is printed once its job is accepted.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from contracts.executor_contract import request, run_test_operation
from faulty_executors import running_service
from visiondyno.executors.inline import InlineExecutor
from visiondyno.operations.context import OperationContext


def run_slowly(job_input: dict[str, Any], context: OperationContext) -> dict[str, Any]:
    """Leaves some jobs waiting, one running and some ended at any moment."""
    time.sleep(0.002)
    return run_test_operation(job_input, context)


async def main(home: Path, count: int) -> None:
    async with running_service(home, InlineExecutor(run_slowly)) as service:

        async def accept(number: int) -> None:
            job = await service.jobs.submit(
                request("echo", say=str(number), steps=2), idempotency_key=f"number {number}"
            )
            print(job.id, number, flush=True)

        for start in range(0, count, 10):
            await asyncio.gather(*(accept(number) for number in range(start, start + 10)))
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
