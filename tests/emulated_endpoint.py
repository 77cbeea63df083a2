"""An emulated endpoint on a free port, and an HTTP client of its job API, for tests."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from visiondyno.emulator.config import EndpointConfig
from visiondyno.emulator.emulator import Emulator
from visiondyno.emulator.serve import RunningEmulator
from visiondyno.job import JobState

HANDLER = Path(__file__).with_name("emulated_handler.py")
KEY = "a-key"
QUIET_WORKER = [sys.executable, "-c", "import time; time.sleep(600)"]


def an_emulator(folder: Path, command: list[str], **options: Any) -> RunningEmulator:
    """An endpoint whose workers run `command`; options are its config's and the emulator's."""
    known = ("speed", "environ", "api_key")
    of_emulator = {name: options.pop(name) for name in known if name in options}
    of_emulator.setdefault("api_key", KEY)
    config = EndpointConfig(**options)
    return RunningEmulator(lambda: Emulator(config, command, log_folder=folder, **of_emulator))


def client(running: RunningEmulator, key: str | None = KEY) -> httpx.Client:
    """Asks the endpoint's job API with this key."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(base_url=running.url, headers=headers, timeout=60)


def result(http: httpx.Client, job_id: str) -> dict[str, Any]:
    """A job's status once it ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found: dict[str, Any] = http.get(f"/status/{job_id}").json()
        if JobState(found["status"]).is_terminal:
            return found
        time.sleep(0.05)
    raise AssertionError(f"the job goes on: {found}")


def run_job(http: httpx.Client, **given: Any) -> str:
    """Submit a job with this input, under `policy`; its id."""
    policy = given.pop("policy", {})
    job_id: str = http.post("/run", json={"input": given, "policy": policy}).json()["id"]
    return job_id


def until(holds: Callable[[], Any]) -> Any:
    """What `holds` gives as soon as it gives something."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came to be")
