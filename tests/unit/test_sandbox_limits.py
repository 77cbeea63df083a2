"""What an untrusted child can't do, tried from inside it, and what is said about it."""

import os
import platform
import resource
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from visiondyno.errors import ChildDied, TimeLimitExceeded
from visiondyno.sandbox import Limits, run_in_child
from visiondyno.sandbox import confine as confine_module
from visiondyno.sandbox import landlock as landlock_module
from visiondyno.sandbox.landlock import landlock_version
from visiondyno.sandbox.limits import scrubbed
from visiondyno.sandbox.seccomp import refuse_system_calls

ENTRIES = "sandbox_entries"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEMORY_BYTES = 1_000_000_000

linux_with_landlock = pytest.mark.skipif(landlock_version() == 0, reason="no Landlock here")
with_filter = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this processor"
)


@pytest.fixture(autouse=True)
def entries_on_the_childs_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def place(tmp_path: Path) -> dict[str, Any]:
    """Files of which the child may read one and write another, and a port that listens."""
    for name in ("secret", "allowed", "out"):
        (tmp_path / name).write_text(name)
    return {
        "secret": str(tmp_path / "secret"),
        "allowed": str(tmp_path / "allowed"),
        "out": str(tmp_path / "out"),
        "parent": os.getpid(),
        "bytes": 3_000_000_000,
    }


def limits(place: dict[str, Any], **changed: Any) -> Limits:
    given = {
        "memory_bytes": MEMORY_BYTES,
        "cpu_s": 30,
        "file_bytes": 1_000_000,
        "readable": (place["allowed"],),
        "writable": (place["out"],),
    }
    return Limits(**(given | changed))


def tried(
    place: dict[str, Any], *names: str, **changed: Any
) -> tuple[dict[str, str], dict[str, Any]]:
    """What each try came to, and the protections that the child announced."""
    events: list[dict[str, Any]] = []
    found = run_in_child(
        f"{ENTRIES}:attempt",
        {**place, "tries": names},
        limits=limits(place, **changed),
        on_event=events.append,
        time_limit_s=120,
    )
    assert events[0]["stage"] == "confined"
    return found, events[0]["protections"]


def test_it_gets_no_more_memory_and_bigger_files_than_allowed(place: dict[str, Any]) -> None:
    place["bytes"] = 900_000_000
    found, held = tried(place, "memory", "write_too_much")
    assert found == {"memory": "done", "write_too_much": "EFBIG"}
    place["bytes"] = 1_100_000_000
    found, held = tried(place, "memory")
    assert found == {"memory": "MemoryError"}
    place["bytes"] = limits(place).address_space_bytes
    found, held = tried(place, "shared_memory")
    assert found == {"shared_memory": "ENOMEM"}
    names = ("memory", "address_space", "cpu_time", "file_size", "core_dumps", "environment")
    assert all(held[name]["held"] for name in (*names, "no_new_privileges", "capabilities"))
    assert held["memory"]["how"] == "RLIMIT_DATA 1.0 GB"


@linux_with_landlock
def test_it_reads_and_writes_nothing_but_what_it_was_given(place: dict[str, Any]) -> None:
    names = ("read", "list", "write", "create", "parents_environment")
    found, held = tried(place, *names, "read_allowed", "write_allowed", "import")
    assert {found[name] for name in names} == {"EACCES"}
    assert {found[name] for name in ("read_allowed", "write_allowed", "import")} == {"done"}
    assert held["files"] == {"held": True, "how": f"Landlock, version {landlock_version()}"}


@with_filter
def test_it_starts_no_process_signals_none_and_has_no_network(place: dict[str, Any]) -> None:
    names = ("fork", "spawn", "signal", "chmod", "datagram", "unix_socket", "connect")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place["port"] = server.getsockname()[1]
        found, held = tried(place, *names, "thread", "abort_guard")
    assert {found[name] for name in names} == {"EPERM"}
    assert (found["thread"], found["abort_guard"]) == ("done", "done")
    assert all(held[name]["held"] for name in ("processes", "network", "system_calls"))
    assert stat.S_IMODE(Path(place["secret"]).stat().st_mode) != 0o777


@with_filter
def test_the_network_can_be_allowed_and_then_it_says_so(place: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        place["port"] = server.getsockname()[1]
        found, held = tried(place, "connect", "fork", network=True)
    assert found == {"connect": "done", "fork": "EPERM"}
    assert held["network"] == {"held": False, "how": "the network was asked for"}


def test_with_a_gpu_the_address_space_has_no_limit_and_it_says_so(place: dict[str, Any]) -> None:
    place["bytes"] = limits(place).address_space_bytes
    found, held = tried(place, "shared_memory", gpu=True)
    assert found == {"shared_memory": "done"}
    assert not held["address_space"]["held"]
    assert "CUDA" in held["address_space"]["how"]


def test_it_sees_no_secret_of_the_environment(
    place: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VISIONDYNO_DATABASE_URL", "postgresql://me:secret@db/x")
    monkeypatch.setenv("RUNPOD_API_KEY", "secret")
    monkeypatch.chdir(tmp_path)
    found = run_in_child(f"{ENTRIES}:environment", {}, limits=limits(place))
    assert "secret" not in str(found["environment"])
    assert found["environment"]["PATH"] == os.environ["PATH"]
    assert found["cwd"] == "/"
    assert str(tmp_path) not in found["path"]
    assert scrubbed({"LC_CTYPE": "C", "AWS_SECRET_ACCESS_KEY": "x"}).keys() >= {"LC_CTYPE", "HOME"}


def test_processor_time_is_limited(place: dict[str, Any]) -> None:
    with pytest.raises(TimeLimitExceeded, match="processor time"):
        run_in_child(f"{ENTRIES}:spin", {}, limits=limits(place, cpu_s=2), time_limit_s=120)


def test_the_wall_clock_kills_it(place: dict[str, Any]) -> None:
    with pytest.raises(TimeLimitExceeded, match="time limit"):
        run_in_child(f"{ENTRIES}:spin", {}, limits=limits(place), time_limit_s=1.5)


def test_it_ends_when_its_parent_is_killed() -> None:
    code = f"""
    from visiondyno.sandbox import Limits, run_in_child
    def say(event):
        print(event.get("pid", ""), flush=True)
    limits = Limits(memory_bytes={MEMORY_BYTES}, cpu_s=60)
    run_in_child("{ENTRIES}:spin", {{}}, limits=limits, on_event=say)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "\n"  # confined
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_it_can_abort_itself(place: dict[str, Any]) -> None:
    """Native code that gives up does so; the filter must not turn that into a hang."""
    with pytest.raises(ChildDied, match="SIGABRT"):
        run_in_child(f"{ENTRIES}:abort", {}, limits=limits(place), time_limit_s=120)


@pytest.mark.parametrize(
    "text",
    ["{", "[1]\n", '{"result": 7}\n', '{"error": {"code": 1}}\n', "nothing\n", "[" * 9999 + "\n"],
    ids=["cut", "list", "number", "error", "words", "deep"],
)
def test_whatever_it_says_is_an_error_and_no_defect(place: dict[str, Any], text: str) -> None:
    with pytest.raises(ChildDied):
        run_in_child(f"{ENTRIES}:say_anything", {"text": text}, limits=limits(place))


def test_it_is_stopped_when_it_says_too_much(place: dict[str, Any]) -> None:
    with pytest.raises(ChildDied, match="more than it may"):
        run_in_child(
            f"{ENTRIES}:say_anything", {"text": "x" * 1000, "times": 5000}, limits=limits(place)
        )


def confined_here(place: dict[str, Any], entry: str, *names: str, **changed: Any) -> dict[str, Any]:
    """As `tried`, but confined by the entry itself, so that coverage of it is seen."""
    given = {"readable": ("/",), "writable": (place["out"], str(ROOT)), "file_bytes": 10**9}
    payload = {**place, "tries": names, "limits": limits(place, **(given | changed)).model_dump()}
    return run_in_child(f"{ENTRIES}:{entry}", payload, time_limit_s=120)


def test_confining_needs_nothing_from_whoever_starts_the_child(place: dict[str, Any]) -> None:
    found = confined_here(place, "confine_here", "memory", "create", "fork", "datagram", gpu=True)
    held = {name for name, one in found["protections"].items() if one["held"]}
    assert {"memory", "no_new_privileges"} <= held
    assert found["tried"]["memory"] == "MemoryError"
    if "files" in held:
        assert found["tried"]["create"] == "EACCES"
    if "system_calls" in held:
        assert (found["tried"]["fork"], found["tried"]["datagram"]) == ("EPERM", "EPERM")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_without_privileges_is_confined_too(place: dict[str, Any]) -> None:
    found = confined_here(place, "become_nobody_and_confine", "datagram", "fork", "read", "thread")
    held = found["protections"]
    unshare = ["unshare", "--user", "--net", "true"]
    if subprocess.run(unshare, check=False, capture_output=True).returncode == 0:
        assert "user namespace of its own" in held["network"]["how"]
        assert held["threads"] == {"held": True, "how": "RLIMIT_NPROC 512"}
    assert found["tried"]["datagram"] == "EPERM"
    assert found["tried"]["fork"] == "EPERM"
    assert found["tried"]["thread"] == "done"


def test_what_does_not_hold_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock_module, "_syscall", lambda *_: -1)
    missing = landlock_module.restrict_files((), (), network=False)
    assert (missing.held, "no Landlock" in missing.how) == (False, True)
    for places, results in (((), [-1]), (("/",), [0, -1]), ((), [0, -1])):
        # Version, ruleset, then each rule or the restriction itself; 0 stands for a file.
        answers = iter([7, *(os.open("/dev/null", os.O_RDONLY) if r == 0 else r for r in results)])
        monkeypatch.setattr(landlock_module, "_syscall", lambda *_, found=answers: next(found))
        refused = landlock_module.restrict_files(places, (), network=False)
        assert (refused.held, "Landlock" in refused.how) == (False, True)


class OldKernel:
    """A C library on a kernel that grants nothing."""

    def unshare(self, _: int) -> int:
        return -1

    def capset(self, *_: Any) -> int:
        return -1


def test_what_a_kernel_refuses_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    old: Any = OldKernel()
    own, own_users = confine_module._leave_network(old)
    assert (own.held, own_users) == (False, False)
    assert not confine_module._drop_capabilities(old).held
    monkeypatch.setattr(os, "access", lambda *_: False)
    own, _ = confine_module._leave_network(old)
    assert "/proc" in own.how
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    calls = refuse_system_calls(network=False)
    assert (calls.held, "riscv64" in calls.how) == (False, True)
    assert not confine_module._processes(calls).held
    network = confine_module._network(own, calls)
    assert (network.held, network.how) == (False, f"{own.how}; {calls.how}")
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    given = Limits(memory_bytes=MEMORY_BYTES, cpu_s=1)
    assert not confine_module._threads(given, own_users=False).held
    monkeypatch.setattr(resource, "setrlimit", lambda *_: (_ for _ in ()).throw(OSError("no")))
    assert "no" in confine_module._threads(given, own_users=True).how
