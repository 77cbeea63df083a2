"""Landlock: the kernel's own allow-list of files for one process and all it starts.

Needs no privilege. Numbers and structures: linux/landlock.h; what each version of the interface
adds: https://docs.kernel.org/userspace-api/landlock.html. Not covered by it: whether a file exists
(`stat`), and changes of owner, mode and times, which `seccomp` refuses.
"""

import ctypes
import os
import stat
from collections.abc import Iterable, Iterator

from visiondyno.sandbox.limits import Protection

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
# The number of the last right of a version, by version: 1, 2 (REFER), 3 (TRUNCATE), 5 (IOCTL_DEV).
_LAST_RIGHT = ((5, 15), (3, 14), (2, 13), (1, 12))
_TCP = 0b11  # bind and connect, from version 4
_SCOPES = 0b11  # abstract sockets and signals, from version 6


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def landlock_version() -> int:
    """The version of the kernel's interface; 0 where it has none."""
    found = _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    return max(found, 0)


def restrict_files(
    readable: Iterable[str], writable: Iterable[str], *, network: bool
) -> Protection:
    """Leave this process these files and folders and nothing else; can't be taken back.

    Folders include what is below. What isn't there is passed over.
    """
    version = landlock_version()
    if version == 0:
        return Protection(held=False, how="this kernel has no Landlock")
    last = next(bit for least, bit in _LAST_RIGHT if version >= least)
    rights = (1 << (last + 1)) - 1
    ruleset = _Ruleset(rights, 0 if network else _TCP, _SCOPES)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    fd = _syscall(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    if fd < 0:
        return Protection(held=False, how=f"Landlock: {os.strerror(ctypes.get_errno())}")
    try:
        for path, access in _rules(readable, writable, rights):
            if not _allow(fd, path, access):
                reason = os.strerror(ctypes.get_errno())
                return Protection(held=False, how=f"Landlock refused a rule: {reason}")
        if _syscall(_RESTRICT_SELF, fd, 0) < 0:
            reason = os.strerror(ctypes.get_errno())
            return Protection(held=False, how=f"Landlock: {reason}")
    finally:
        os.close(fd)
    return Protection(held=True, how=f"Landlock, version {version}")


def _rules(
    readable: Iterable[str], writable: Iterable[str], rights: int
) -> Iterator[tuple[str, int]]:
    for path in readable:
        yield path, _READ
    for path in writable:
        yield path, rights & ~_EXECUTE


def _allow(ruleset_fd: int, path: str, access: int) -> bool:
    try:
        path_fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        if not stat.S_ISDIR(os.fstat(path_fd).st_mode):
            access &= _FILE_RIGHTS
        rule = _PathBeneath(access, path_fd)
        return _syscall(_ADD_RULE, ruleset_fd, _PATH_BENEATH, ctypes.byref(rule), 0) == 0
    finally:
        os.close(path_fd)


def _syscall(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    found: int = libc.syscall(ctypes.c_long(number), *wide)
    return found
