"""Jobs that a killed process left in a queue: nobody waits for them any more."""

from collections.abc import Sequence
from contextlib import suppress

from visiondyno.errors import VisionDynoError
from visiondyno.tuning.lanes import Lane
from visiondyno.tuning.trial import Json


async def stop_jobs_left(kept: Sequence[Json], lanes: Sequence[Lane]) -> None:
    """Cancel the jobs of trials that hadn't ended; they are begun anew, with jobs of their own.

    A queue gives them to the next worker else. Jobs at RunPod have other ids there, which went with
    the process; the time limit of each ends it.

    Args:
        kept: each trial as the journal tells of it, in the order of the lines.
        lanes: where the study goes on.
    """
    last = {one["number"]: one for one in kept}
    by_name = {lane.name: lane for lane in lanes}
    for one in last.values():
        lane = by_name.get(one["lane"] or "")
        if lane is None or one["job_id"] is None or one["ended_at"] is not None:
            continue
        with suppress(VisionDynoError):  # it has ended, is forgotten, or can't be reached
            async with lane.session.opened() as client:
                await client.cancel(one["job_id"])
