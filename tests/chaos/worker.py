"""A supervisor on Redis as `dyno worker` runs it: `python -m chaos.worker OPTIONS`."""

import json
import logging
import signal
import sys
from typing import Any

from chaos.processes import ENTRY
from visiondyno.executors.open_queue import open_queue
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.executors.supervisor import Supervisor
from visiondyno.executors.supervisor_options import SupervisorOptions


def main(options: dict[str, Any]) -> None:
    slots = int(options["slots"])
    supervisor = Supervisor(
        lambda: open_queue(options["redis"]),
        SupervisorOptions(scale=ScaleLimits(slots, slots, 60), entry=ENTRY),
    )
    signal.signal(signal.SIGTERM, lambda *_: supervisor.stop())
    supervisor.run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(json.loads(sys.argv[1]))
