"""A seccomp filter: system calls that running a model never needs are refused.

A list of what is refused rather than of what is allowed: native libraries differ in what they call,
and this is the second line, behind Landlock, namespaces and limits. Filter language and structures:
linux/filter.h, linux/seccomp.h, linux/audit.h; numbers: asm/unistd_64.h (x86-64) and
asm-generic/unistd.h (arm64).
"""

import ctypes
import errno
import os
import platform
from collections.abc import Sequence

from visiondyno.sandbox.limits import Protection

_SET_SECCOMP, _MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
_X32_BIT = 0x40000000
_CLONE_THREAD = 0x00010000

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_NETWORK = {"socket": (41, 198), "socketpair": (53, 199)}
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes: starting, reading, signalling them
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "setpriority": (141, 140),
    # memory that no limit of ours counts, or that others share
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # files: owner, mode, attributes and times, which Landlock leaves alone
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    # the system, and the parts of the kernel that exploits like best
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "iopl": (172, None),
    "ioperm": (173, None),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
}
_CLONE, _CLONE3, _TGKILL, _PRLIMIT = (56, 220), (435, 435), (234, 131), (302, 261)


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def refuse_system_calls(*, network: bool) -> Protection:
    """Put this process under the filter; needs `no_new_privs` and can't be taken back.

    A refused call fails with `EPERM`. Threads may be started, processes not.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        return Protection(held=False, how=f"no seccomp filter is written for {machine}")
    rules = _program(*_ARCHITECTURES[machine], network=network)
    code = (_Instruction * len(rules))(*(_Instruction(*rule) for rule in rules))
    program = _Program(len(rules), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        return Protection(held=False, how=f"seccomp: {os.strerror(ctypes.get_errno())}")
    return Protection(held=True, how=f"seccomp, {len(_REFUSED) + len(_NETWORK)} calls refused")


def _program(audit: int, column: int, *, network: bool) -> Sequence[tuple[int, int, int, int]]:
    """Instructions (code, jump if true, jump if false, value)."""
    names = _REFUSED if network else {**_REFUSED, **_NETWORK}
    denied = [found for number in names.values() if (found := number[column]) is not None]
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE | errno.EPERM)
    head = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_EQUAL, 1, 0, audit),
        refuse,
        (_LOAD, 0, 0, _NUMBER_AT),
        # x86-64's second set of numbers would pass by every rule below.
        (_JUMP_AT_LEAST, 0, 1, _X32_BIT),
        refuse,
        # glibc falls back to clone, whose flags can be seen here.
        (_JUMP_EQUAL, 0, 1, _CLONE3[column]),
        (_RETURN, 0, 0, _REFUSE | errno.ENOSYS),
        # A thread is allowed, a process isn't.
        (_JUMP_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD),
        allow,
        refuse,
        # abort() signals its own process.
        (_JUMP_EQUAL, 0, 4, _TGKILL[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_EQUAL, 0, 1, os.getpid()),
        allow,
        refuse,
        # Its own limits it may read and lower.
        (_JUMP_EQUAL, 0, 4, _PRLIMIT[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_JUMP_EQUAL, 0, 1, 0),
        allow,
        refuse,
    ]
    checks = [(_JUMP_EQUAL, len(denied) - place, 0, number) for place, number in enumerate(denied)]
    return [*head, *checks, allow, refuse]
