"""The real server, its workers running the chaos operation: `python -m chaos.server OPTIONS`."""

import json
import logging
import sys

from chaos.processes import ENTRY
from visiondyno.api.listening import run
from visiondyno.server import serve
from visiondyno.settings import load_settings
from visiondyno.wiring import make_queue_executor


async def main(options: dict[str, object]) -> None:
    settings = load_settings(**options)
    await serve(settings, make_queue_executor(settings, entry=ENTRY))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    run(main(json.loads(sys.argv[1])))
