"""Memory of a model in huge pages, where Linux leaves that to programs."""

from collections.abc import Mapping
from pathlib import Path

_SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
_TUNABLES = "GLIBC_TUNABLES"
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
# With larger ones (arm64 with pages of 64 KiB has 512 MiB) a little memory takes a lot.
_LARGEST_BYTES = 2 << 20


def with_huge_pages(environ: Mapping[str, str], settings: Path = _SETTINGS) -> dict[str, str]:
    """`environ` for a process that holds a model.

    An inference walks through all weights and activations, which in pages of 4 KiB are more than a
    processor keeps addresses of; on virtual machines each miss is two walks. Where the kernel gives
    huge pages to those who ask (`madvise`, the setting of many distributions), glibc's malloc asks
    for them when it is told to (2.35 or later; glibc's manual, "Memory Allocation Tunables"). Where
    the kernel gives them to all or none, and under another C library, nothing changes.

    Args:
        environ: variables of the process. Tunables of the user's are left alone.
        settings: folder of the kernel's settings of transparent huge pages.
    """
    if _TUNABLES in environ or not _are_for_the_asking(settings):
        return dict(environ)
    return {**environ, _TUNABLES: _HUGE_PAGES}


def _are_for_the_asking(settings: Path) -> bool:
    try:
        chosen = (settings / "enabled").read_text()
        size_bytes = int((settings / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return False
    return "[madvise]" in chosen and size_bytes <= _LARGEST_BYTES
