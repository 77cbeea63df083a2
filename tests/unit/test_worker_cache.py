"""What a worker keeps: whole or not at all, least recently used first, shared by processes."""

import mmap
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import Cancelled, SpecError, StorageFull, TransportDown
from visiondyno.operations.worker_cache import WorkerCache

PLENTY = 10**9


def ticking() -> Callable[[], int]:
    ticks = iter(range(1_000_000_000, 10**12, 7))
    return lambda: next(ticks)


def cache_at(folder: Path, max_bytes: int = PLENTY) -> WorkerCache:
    return WorkerCache(folder, max_bytes, now_ns=ticking(), disk=lambda _: (PLENTY, 0, PLENTY))


def writing(**files: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, data in files.items():
            (folder / name).write_bytes(data)

    return write


def kept(cache: WorkerCache) -> set[str]:
    entries = cache.folder / "entries"
    return {path.relative_to(entries).as_posix() for path in entries.glob("*/*")}


def leftovers(cache: WorkerCache) -> list[str]:
    places = [cache.folder / "partial", cache.folder / "locks"]
    return [path.name for place in places for path in place.iterdir()]


def test_a_file_comes_back_as_it_was_put(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    assert cache.get("states", "a") is None
    assert cache.read("states", "a") is None
    path = cache.put("states", "a", b"first")
    assert path == cache.get("states", "a")
    assert path.read_bytes() == b"first"
    cache.put("states", "a", iter([b"sec", memoryview(b""), bytearray(b"ond")]))
    assert cache.read("states", "a") == b"second"
    assert cache.put("states", "empty", b"").read_bytes() == b""
    cache.drop("states", "a")
    cache.drop("states", "a")
    assert cache.get("states", "a") is None
    assert WorkerCache(tmp_path, PLENTY).read("states", "empty") == b""
    assert leftovers(cache) == []


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    made = cache.make("samples", "m", writing(a=b"1", b=b"22"))
    assert {path.name: path.read_bytes() for path in made.iterdir()} == {"a": b"1", "b": b"22"}
    assert cache.make("samples", "m", pytest.fail) == made == cache.get("samples", "m")
    assert cache.make_file("blobs", "f", lambda: [b"x", b"y"]).read_bytes() == b"xy"
    assert cache.make_file("blobs", "f", pytest.fail).read_bytes() == b"xy"
    cache.drop("samples", "m")
    assert not made.exists()
    assert leftovers(cache) == []


def test_a_folder_and_a_file_replace_each_other(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.make("samples", "m", writing(a=b"1"))
    assert cache.put("samples", "m", b"file").read_bytes() == b"file"
    cache.drop("samples", "m")
    assert (cache.make("samples", "m", writing(a=b"2")) / "a").read_bytes() == b"2"


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "make", "get", "drop"]),
        st.sampled_from(["states", "samples"]),
        st.sampled_from("abcd"),
        st.integers(0, 60),
    ),
    max_size=25,
)


@given(operations)
def test_the_least_recently_used_goes_first_over_all_kinds(
    steps: list[tuple[str, str, str, int]],
) -> None:
    expected: dict[str, int] = {}  # name → bytes, the least recently used first
    with tempfile.TemporaryDirectory() as folder:
        cache = cache_at(Path(folder), 100)
        for step, kind, key, size in steps:
            name = f"{kind}/{key}"
            present = name in expected
            if step == "drop":
                cache.drop(kind, key)
                expected.pop(name, None)
            elif step == "get" or (step == "make" and present):
                assert (cache.get(kind, key) is not None) == present
                if present:
                    expected[name] = expected.pop(name)
            else:
                if step == "put":
                    cache.put(kind, key, b"x" * size)
                else:
                    cache.make(
                        kind, key, writing(half=b"x" * (size // 2), rest=b"x" * -(-size // 2))
                    )
                expected.pop(name, None)
                expected[name] = size
                while sum(expected.values()) > 100:
                    expected.pop(next(iter(expected)))
            assert kept(cache) == set(expected)
        assert leftovers(cache) == []


def test_what_is_larger_than_the_limit_is_used_and_goes_next_time(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, 10)
    cache.put("states", "small", b"1234")
    path = cache.put("states", "large", b"x" * 50)
    assert path.read_bytes() == b"x" * 50
    assert kept(cache) == {"states/large"}
    cache.put("states", "next", b"12")
    assert kept(cache) == {"states/next"}


def test_a_folder_that_lost_its_length_still_counts(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, 100)
    made = cache.make("samples", "m", writing(a=b"x" * 60))
    (made.parent / "bytes").write_text("")
    cache.put("states", "s", b"x" * 50)
    assert kept(cache) == {"states/s"}


def test_eviction_does_not_break_who_reads(tmp_path: Path) -> None:
    cache = cache_at(tmp_path, 100)
    with (
        cache.put("states", "open", b"o" * 40).open("rb") as file,
        (cache.make("samples", "mapped", writing(a=b"m" * 40)) / "a").open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        cache.put("states", "large", b"l" * 100)
        assert kept(cache) == {"states/large"}
        assert file.read() == b"o" * 40
        assert mapped[:] == b"m" * 40


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a", "a/b", "/etc", "a\0", "-a", "é", "a" * 201]
)
def test_names_that_are_paths_are_refused(name: str, tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    uses: list[Callable[[str, str], Any]] = [
        cache.get,
        cache.drop,
        cache.read,
        lambda kind, key: cache.put(kind, key, b""),
        lambda kind, key: cache.make(kind, key, pytest.fail),
    ]
    for use in uses:
        for kind, key in ((name, "key"), ("kind", name)):
            with pytest.raises(SpecError, match="can't be the"):
                use(kind, key)
    assert kept(cache) == set()


def test_the_longest_names_fit(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.make("k" * 40, "sha256:" + "k" * 193, writing(a=b"1"))
    assert len(kept(cache)) == 1


def test_what_fails_keeps_nothing_and_what_was_there(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError("the store went away")

    def stopped(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise Cancelled("The job was cancelled.")

    cache = cache_at(tmp_path)
    cache.put("states", "a", b"whole")
    with pytest.raises(ConnectionResetError):
        cache.put("states", "a", broken())
    with pytest.raises(ConnectionResetError):
        cache.make_file("blobs", "b", broken)
    with pytest.raises(Cancelled):
        cache.make("samples", "m", stopped)
    assert cache.read("states", "a") == b"whole"
    assert kept(cache) == {"states/a"}
    assert leftovers(cache) == []
    assert (cache.make("samples", "m", writing(a=b"1")) / "a").read_bytes() == b"1"


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(TransportDown, match="can't be used"):
        cache_at(tmp_path / "file" / "cache")


@contextmanager
def files_up_to(limit_bytes: int) -> Iterator[None]:
    """The system refuses longer files, as a full disk refuses any."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    cache.put("states", "a", b"whole")
    with files_up_to(1000):
        for use in (
            lambda: cache.put("states", "a", b"x" * 5000),
            lambda: cache.make("samples", "m", writing(a=b"x" * 5000)),
            lambda: cache.make_file("blobs", "b", lambda: [b"x" * 5000]),
        ):
            with pytest.raises(StorageFull, match="no room left"):
                use()
    assert cache.read("states", "a") == b"whole"
    assert kept(cache) == {"states/a"}
    assert leftovers(cache) == []


def test_another_error_while_a_folder_is_made_is_its_own(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    with pytest.raises(FileNotFoundError):
        cache.make("samples", "m", lambda _: (tmp_path / "absent").read_bytes() and None)


def run_script(folder: Path, script: str) -> subprocess.Popen[str]:
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from visiondyno.operations.worker_cache import WorkerCache\n"
        f"cache = WorkerCache(Path({str(folder)!r}), 10**9)\n{script}"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    with process:
        return process.communicate(timeout=60)[0]


KILLED = {
    "put": "def pieces():\n yield b'half'; print('half', flush=True); sys.stdin.read()\n"
    "cache.put('states', 'k', pieces())",
    "make": "def write(folder):\n (folder / 'a').write_bytes(b'half'); print('half', flush=True)\n"
    " sys.stdin.read()\n"
    "cache.make('states', 'k', write)",
}


@pytest.mark.parametrize("step", sorted(KILLED))
def test_a_killed_writer_leaves_nothing_under_a_name(step: str, tmp_path: Path) -> None:
    writer = run_script(tmp_path, KILLED[step])
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    cache = cache_at(tmp_path)  # while it lives, its work is left alone
    assert any(cache.folder.glob("partial/*/entry"))
    os.kill(writer.pid, signal.SIGKILL)
    ended(writer)
    assert cache.get("states", "k") is None
    assert kept(cache) == set()
    assert leftovers(cache_at(tmp_path)) == []
    assert (cache.make("states", "k", writing(a=b"1")) / "a").read_bytes() == b"1"


def test_processes_make_the_same_once(tmp_path: Path) -> None:
    made = tmp_path / "made"
    script = (
        "def write(folder):\n"
        f" open({str(made)!r}, 'a').write('x'); time.sleep(0.2)\n"
        " (folder / 'a').write_text('done')\n"
        "sys.stdin.readline()\n"
        "print((cache.make('samples', 'm', write) / 'a').read_text())"
    )
    processes = [run_script(tmp_path / "cache", script) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [ended(process) for process in processes] == ["done\n"] * 3
    assert made.read_text() == "x"


def test_a_wait_can_be_ended(tmp_path: Path) -> None:
    cache = cache_at(tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def write(folder: Path) -> None:
        (folder / "a").write_bytes(b"1")
        begun.set()
        assert go_on.wait(60)

    def cancelled() -> None:
        raise Cancelled("The job was cancelled.")

    maker = threading.Thread(target=cache.make, args=("samples", "m", write))
    maker.start()
    try:
        assert begun.wait(60)
        with pytest.raises(Cancelled):
            cache.make("samples", "m", pytest.fail, cancelled)
        found = cache.make("samples", "m", pytest.fail, go_on.set)
        assert (found / "a").read_bytes() == b"1"
    finally:
        go_on.set()
        maker.join()
    assert leftovers(cache) == []


def test_readers_and_writers_at_once_see_whole_files_only(tmp_path: Path) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        cache = WorkerCache(tmp_path, 4000)
        for turn in range(60):
            key = f"k{(turn * (number + 1)) % 7}"
            try:
                if turn % 3 == 0:
                    cache.put("states", key, iter([key.encode() * 250] * 2))
                elif turn % 10 == 1:
                    cache.drop("states", key)
                elif cache.read("states", key) not in (None, key.encode() * 500):
                    wrong.append(key)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    cache = cache_at(tmp_path, 4000)
    assert len(kept(cache)) <= 4
    assert leftovers(cache) == []


def test_a_held_folder_stays_until_it_is_let_go(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path / "cache", 1000)
    cache.make("sets", "a", lambda folder: (folder / "x").write_bytes(bytes(900)) and None)
    with cache.hold("sets", "a") as held:
        assert held is not None
        with cache.hold("sets", "a") as again:
            assert again == held
        cache.put("others", "b", bytes(900))
        cache.drop("sets", "a")
        assert (held / "x").stat().st_size == 900
        assert cache.size_bytes("sets", "a") == 900
    cache.put("others", "c", bytes(900))
    assert cache.get("sets", "a") is None


def test_what_isnt_a_folder_here_isnt_held(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path / "cache", 1000)
    cache.put("others", "b", b"file")
    for key in ("b", "none"):
        with cache.hold("others", key) as held:
            assert held is None


def test_a_holder_that_dies_lets_go(tmp_path: Path) -> None:
    cache = WorkerCache(tmp_path / "cache", 1000)
    cache.make("sets", "a", lambda folder: (folder / "x").write_bytes(b"x") and None)
    program = (
        "import os, signal, sys; from pathlib import Path;"
        " from visiondyno.operations.worker_cache import WorkerCache;"
        " held = WorkerCache(Path(sys.argv[1]), 1000).hold('sets', 'a').__enter__();"
        " os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "cache")], check=False)
    assert done.returncode == -signal.SIGKILL
    cache.drop("sets", "a")
    assert cache.get("sets", "a") is None
