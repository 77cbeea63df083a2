"""Huge pages are asked for where the kernel leaves them to programs, and only there."""

import subprocess
import sys
from pathlib import Path

import pytest

from visiondyno.serving.huge_pages import with_huge_pages

ASKED = {"A": "b", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
TWO_MIB = 2 << 20


def kernel(folder: Path, enabled: str, size: str = str(TWO_MIB)) -> Path:
    (folder / "enabled").write_text(f"{enabled}\n")
    (folder / "hpage_pmd_size").write_text(f"{size}\n")
    return folder


def test_they_are_asked_for_where_that_is_needed(tmp_path: Path) -> None:
    environ = {"A": "b"}
    assert with_huge_pages(environ, kernel(tmp_path, "always [madvise] never")) == ASKED
    assert environ == {"A": "b"}


@pytest.mark.parametrize("enabled", ["[always] madvise never", "always madvise [never]", ""])
def test_a_kernel_that_decides_itself_is_asked_nothing(tmp_path: Path, enabled: str) -> None:
    assert with_huge_pages({"A": "b"}, kernel(tmp_path, enabled)) == {"A": "b"}


@pytest.mark.parametrize("size", [str(512 << 20), "unknown"])
def test_pages_too_large_to_waste_are_not_asked_for(tmp_path: Path, size: str) -> None:
    assert with_huge_pages({}, kernel(tmp_path, "[madvise]", size)) == {}


def test_a_kernel_without_them_is_asked_nothing(tmp_path: Path) -> None:
    assert with_huge_pages({}, tmp_path / "none") == {}


def test_the_users_own_tunables_stay(tmp_path: Path) -> None:
    theirs = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    assert with_huge_pages(theirs, kernel(tmp_path, "[madvise]")) == theirs


def test_memory_of_such_a_process_is_in_huge_pages() -> None:
    if "[madvise]" not in _setting():
        pytest.skip("this kernel gives huge pages to all, or to none")
    program = (
        "import numpy; kept = numpy.ones(32 << 20, 'u1');"
        "print(*[line for line in open('/proc/self/smaps_rollup') if 'AnonHugePages' in line])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=with_huge_pages({"NUMPY_MADVISE_HUGEPAGE": "0"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[1]) >= 16 << 10, done.stdout


def _setting() -> str:
    try:
        return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return ""
