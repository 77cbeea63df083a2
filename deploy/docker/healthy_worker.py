"""Health check of `dyno worker` in its container: exit code 0 if its workers are known to Redis.

    healthy_worker.py

A supervisor tells the queue of its workers while it lives, and the queue forgets those that it
isn't told of. So this fails where the supervisor hangs, and where it can't reach Redis. The latter
is nothing that a restart mends: use it to see whether a worker is ready, not to have it killed.
"""

import socket
import sys

from visiondyno.errors import VisionDynoError
from visiondyno.executors.open_queue import open_queue
from visiondyno.settings import Settings, load_settings


def problem(settings: Settings) -> str | None:
    """Why this container's workers aren't well, or None if they are."""
    if settings.queue_url is None:
        return "VISIONDYNO_REDIS_URL isn't set, so there is no queue to ask for the workers."
    prefix = f"{settings.worker_id or socket.gethostname()}-"
    try:
        queue = open_queue(settings.queue_url)
        try:
            names = [worker.name for worker in queue.workers()]
        finally:
            queue.close()
    except VisionDynoError as error:
        return error.message
    if any(name.startswith(prefix) for name in names):
        return None
    return f"The queue knows no worker whose name begins with '{prefix}'."


def main() -> str | None:
    """What is wrong, which the container's runtime keeps as the check's output."""
    try:
        return problem(load_settings())
    except VisionDynoError as error:
        return error.message


if __name__ == "__main__":
    sys.exit(main())
