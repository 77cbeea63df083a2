"""How long a job may run where one without a limit would be stopped after ten minutes."""

from typing import Any

from visiondyno.client.client import Client

LONGEST_REMOTE_S = 86_400
"""Servers and RunPod stop a job after ten minutes unless it says otherwise; a day is RunPod's
longest."""

_SHORTEST_ON_RUNPOD_S = 5.0
"""RunPod refuses a shorter time limit."""


def policy_within(client: Client, time_limit_s: float | None = None) -> dict[str, Any] | None:
    """The policy of a job that may take long; None where none is needed.

    Args:
        client: where the job will run.
        time_limit_s: it is stopped after so long; None: where a job without a limit would be
            stopped after ten minutes, a day, or as long as the client's limit of cost pays for.
    """
    if time_limit_s is None and client.place.has_time_limits:
        affordable_s = client.affordable_s()
        time_limit_s = LONGEST_REMOTE_S
        if affordable_s is not None:  # where not even the shortest is, it is refused, with the sum
            time_limit_s = min(time_limit_s, max(affordable_s, _SHORTEST_ON_RUNPOD_S))
    return None if time_limit_s is None else {"executionTimeout": int(time_limit_s * 1000)}
