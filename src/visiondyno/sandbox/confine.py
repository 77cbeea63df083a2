"""Confine this process before it touches what isn't trusted; for the child, never for a worker.

Nothing here raises because a kernel lacks something: what holds and what doesn't is the result.
"""

import ctypes
import os
import resource
import signal
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from visiondyno.sandbox.landlock import restrict_files
from visiondyno.sandbox.limits import Limits, Protection
from visiondyno.sandbox.seccomp import refuse_system_calls

_SET_PDEATHSIG, _SET_NO_NEW_PRIVS = 1, 38
_NEW_USER, _NEW_NET, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000
_CAPABILITY_VERSION_3 = 0x20080522

# Shared libraries, what they read about the machine, and what every program may have.
_SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/sys/devices/system",
    "/dev/urandom",
    "/dev/random",
    "/dev/zero",
)
_GPU = ("/proc/driver/nvidia", "/sys/module/nvidia", "/sys/bus/pci", "/sys/devices", "/opt/nvidia")


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def confine(limits: Limits) -> dict[str, Protection]:
    """Hold this process, which must have one thread only, to `limits`; can't be taken back.

    Returns:
        each protection by name: `memory`, `address_space`, `cpu_time`, `file_size`, `core_dumps`,
        `environment`, `no_new_privileges`, `network`, `threads`, `files`, `capabilities`,
        `system_calls`, `processes`.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_PDEATHSIG, signal.SIGKILL)
    held = _resources(limits)
    kept = "no key and no address is passed on"
    held["environment"] = Protection(held=True, how=kept)
    held["no_new_privileges"] = _outcome(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    own_network, own_users = (None, False) if limits.network else _leave_network(libc)
    writable = (*limits.writable, *_devices(limits))
    readable = (*interpreter_paths(), *_SYSTEM, *(_GPU if limits.gpu else ()), *limits.readable)
    held["files"] = restrict_files(readable, writable, network=limits.network)
    held["threads"] = _threads(limits, own_users=own_users)
    held["capabilities"] = _drop_capabilities(libc)
    held["system_calls"] = refuse_system_calls(network=limits.network)
    held["processes"] = _processes(held["system_calls"])
    held["network"] = _network(own_network, held["system_calls"])
    return held


def interpreter_paths() -> Iterator[str]:
    """Where Python, its packages and ours lie."""
    yield from {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    yield from site.getsitepackages()
    yield from sysconfig.get_paths().values()
    # Python 3.11's `-P` leaves the working folder out; an empty entry would be it.
    yield from (entry for entry in sys.path if entry)
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))
    yield str(Path(sys.executable).resolve())


def _resources(limits: Limits) -> dict[str, Protection]:
    memory, files = limits.memory_bytes, limits.file_bytes
    held = {
        "memory": _limit(resource.RLIMIT_DATA, memory, f"RLIMIT_DATA {memory / 1e9:.1f} GB"),
        # The soft limit's signal comes first and says why; the hard one can't be caught.
        "cpu_time": _limit(
            resource.RLIMIT_CPU, limits.cpu_s, f"RLIMIT_CPU {limits.cpu_s} s", above=1
        ),
        "file_size": _limit(resource.RLIMIT_FSIZE, files, f"RLIMIT_FSIZE {files / 1e6:.0f} MB"),
        "core_dumps": _limit(resource.RLIMIT_CORE, 0, "RLIMIT_CORE 0"),
    }
    space = limits.address_space_bytes
    held["address_space"] = (
        Protection(held=False, how="CUDA reserves more address space than there is memory")
        if limits.gpu
        else _limit(resource.RLIMIT_AS, space, f"RLIMIT_AS {space / 1e9:.1f} GB")
    )
    return held


def _limit(kind: int, value: int, how: str, above: int = 0) -> Protection:
    _, hard = resource.getrlimit(kind)
    highest = value + above
    if hard != resource.RLIM_INFINITY:
        highest = min(highest, hard)
    try:
        resource.setrlimit(kind, (min(value, highest), highest))
    except (OSError, ValueError) as error:
        return Protection(held=False, how=f"{how}: {error}")
    return Protection(held=True, how=how)


def _leave_network(libc: ctypes.CDLL) -> tuple[Protection, bool]:
    """Into a network namespace without any interface that is up.

    Returns:
        whether that holds, and whether the process is in a user namespace of its own now.
    """
    uid, gid = os.getuid(), os.getgid()
    how = "a network namespace of its own"
    if uid == 0 and libc.unshare(_NEW_NET | _NEW_IPC) == 0:
        return Protection(held=True, how=how), False
    if not os.access("/proc/self/uid_map", os.W_OK):
        return Protection(held=False, how="no user namespace: /proc can't be written"), False
    if libc.unshare(_NEW_USER | _NEW_NET | _NEW_IPC) != 0:
        reason = os.strerror(ctypes.get_errno())
        return Protection(held=False, how=f"no user namespace: {reason}"), False
    # Without a map the process couldn't read even its own files.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return Protection(held=True, how=f"{how}, in a user namespace of its own"), True


def _drop_capabilities(libc: ctypes.CDLL) -> Protection:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    return _outcome(libc.capset(ctypes.byref(header), ctypes.byref(none)), "all dropped")


def _threads(limits: Limits, *, own_users: bool) -> Protection:
    how = f"RLIMIT_NPROC {limits.threads}"
    if os.getuid() == 0:
        return Protection(held=False, how=f"root ignores {how}; the memory limit bounds them")
    if not own_users:
        # The kernel would count everything else that this user runs.
        return Protection(held=False, how="no user namespace; the memory limit bounds them")
    return _limit(resource.RLIMIT_NPROC, limits.threads, how)


def _processes(system_calls: Protection) -> Protection:
    if system_calls.held:
        return Protection(held=True, how="seccomp refuses to start any")
    return Protection(held=False, how=system_calls.how)


def _network(own: Protection | None, system_calls: Protection) -> Protection:
    if own is None:
        return Protection(held=False, how="the network was asked for")
    ways = [own.how] if own.held else []
    ways += ["seccomp refuses sockets"] if system_calls.held else []
    if not ways:
        return Protection(held=False, how=f"{own.how}; {system_calls.how}")
    return Protection(held=True, how="; ".join(ways))


def _devices(limits: Limits) -> Iterator[str]:
    yield "/dev/null"
    if limits.gpu:
        yield from (str(path) for path in Path("/dev").glob("nvidia*"))
        yield "/proc/self/task"  # CUDA names its threads


def _outcome(code: int, how: str) -> Protection:
    if code != 0:
        return Protection(held=False, how=f"{how}: {os.strerror(ctypes.get_errno())}")
    return Protection(held=True, how=how)
