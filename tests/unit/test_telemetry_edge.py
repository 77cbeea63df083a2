"""The edge of a server of ours, without the service and the store behind the API."""

import subprocess
import sys

_LOADED = """
import sys
import visiondyno.api.edge, visiondyno.api.problems
print(*sorted(sys.modules), sep="\\n")
"""


def test_edge_and_problems_bring_in_neither_service_nor_database() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "visiondyno.api.http_metrics" in loaded
    heavy = {"sqlalchemy", "visiondyno.service", "visiondyno.store", "visiondyno.executors"}
    assert heavy.isdisjoint(loaded)
