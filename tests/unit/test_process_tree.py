"""Processor time and memory of processes that come and go, against a kernel of our own making."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visiondyno.loadtest.watching.process_tree import ProcessTree

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FIRST = 100


@dataclass
class Fake:
    parent: int
    started: int
    session: int = 0
    own: int = 0
    of_children: int = 0
    state: str = "S"
    pages: int = 10
    pss_kb: int | None = 20


class FakeKernel:
    """Processes with accounts as the kernel keeps them, written as /proc has them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.processes = {1: Fake(0, 1), FIRST: Fake(1, 50), 900: Fake(1, 60, own=5000)}
        self.clock = 100

    def write(self) -> None:
        proc = self.root / "proc"
        (proc / "sys").mkdir(parents=True, exist_ok=True)
        for pid in {int(folder.name) for folder in proc.glob("[0-9]*")} - set(self.processes):
            shutil.rmtree(proc / str(pid))
        for pid, one in self.processes.items():
            folder = proc / str(pid)
            folder.mkdir(exist_ok=True)
            (folder / "smaps_rollup").unlink(missing_ok=True)
            fields = ["0"] * 49
            fields[0], fields[1] = one.state, str(one.parent)
            fields[3] = str(one.session)
            fields[11], fields[13] = str(one.own), str(one.of_children)
            fields[19] = str(one.started)
            (folder / "stat").write_text(f"{pid} (a ) nasty (name) {' '.join(fields)}\n")
            ended = one.state == "Z"
            (folder / "statm").write_text(f"9999 {0 if ended else one.pages} 5 1 0 7 0\n")
            if one.pss_kb is not None and not ended:
                (folder / "smaps_rollup").write_text(f"0-1 ---p [rollup]\nPss: {one.pss_kb} kB\n")

    def fork(self, parent: int, pid: int) -> None:
        self.clock += 1
        self.processes[pid] = Fake(parent, self.clock)

    def end(self, pid: int, *, is_waited_for: bool) -> None:
        gone = self.processes.pop(pid)
        for one in self.processes.values():
            if one.parent == pid:
                one.parent = 1
        if is_waited_for:
            self.processes[gone.parent].of_children += gone.own + gone.of_children


@pytest.fixture
def kernel(tmp_path):
    return FakeKernel(tmp_path)


def read(kernel, tree):
    kernel.write()
    return tree.read()


def test_a_process_and_its_children_are_added_and_nobody_else(kernel):
    kernel.fork(FIRST, 101)
    kernel.fork(101, 102)
    kernel.fork(900, 901)
    tree = ProcessTree(FIRST, kernel.root)
    assert read(kernel, tree).cpu_s == 0
    for pid, ticks in ((FIRST, 3), (101, 4), (102, 5), (901, 1000), (900, 1000)):
        kernel.processes[pid].own += ticks
    found = read(kernel, tree)
    assert found.cpu_s == 12 / TICKS_PER_S
    assert found.processes == 3
    assert found.rss_bytes == 30 * PAGE_BYTES
    assert found.pss_bytes == 60 * 1024


def test_a_child_that_came_and_went_between_two_looks_is_counted(kernel):
    tree = ProcessTree(FIRST, kernel.root)
    read(kernel, tree)
    kernel.fork(FIRST, 101)
    kernel.processes[101].own = 70
    kernel.end(101, is_waited_for=True)
    assert read(kernel, tree).cpu_s == 70 / TICKS_PER_S


def test_a_child_nobody_waited_for_keeps_what_was_seen_of_it(kernel):
    kernel.fork(FIRST, 101)
    tree = ProcessTree(FIRST, kernel.root)
    read(kernel, tree)
    kernel.processes[101].own = 40
    read(kernel, tree)
    kernel.end(101, is_waited_for=False)
    assert read(kernel, tree).cpu_s == 40 / TICKS_PER_S


def test_what_a_grandchild_left_behind_is_found_with_the_nearest_who_lives(kernel):
    kernel.fork(FIRST, 101)
    kernel.fork(101, 102)
    tree = ProcessTree(FIRST, kernel.root)
    read(kernel, tree)
    kernel.processes[102].own = 30
    read(kernel, tree)
    kernel.end(102, is_waited_for=True)
    kernel.end(101, is_waited_for=True)
    assert read(kernel, tree).cpu_s == 30 / TICKS_PER_S


def test_children_of_one_that_ended_stay_in_the_tree(kernel):
    kernel.fork(FIRST, 101)
    tree = ProcessTree(FIRST, kernel.root)
    read(kernel, tree)
    kernel.processes[FIRST].own += 7
    read(kernel, tree)
    kernel.end(FIRST, is_waited_for=True)
    kernel.processes[101].own += 5
    found = read(kernel, tree)
    assert found.cpu_s == 12 / TICKS_PER_S
    assert found.processes == 1
    kernel.end(101, is_waited_for=True)
    assert read(kernel, tree) is None


def test_another_process_with_the_same_number_is_another_process(kernel):
    tree = ProcessTree(FIRST, kernel.root)
    read(kernel, tree)
    kernel.end(FIRST, is_waited_for=True)
    kernel.fork(1, FIRST)
    assert read(kernel, tree) is None
    kernel.write()
    assert tree.alive() == []


def test_a_session_belongs_to_the_tree_of_its_leader(kernel):
    """Whose child was never seen before it lost its parent."""
    kernel.fork(FIRST, 101)
    kernel.processes[101].session = FIRST
    kernel.end(FIRST, is_waited_for=True)
    kernel.write()
    assert ProcessTree(FIRST, kernel.root).alive() == []
    assert ProcessTree(FIRST, kernel.root, leads_session=True).alive() == [101]


def test_one_that_waits_to_be_buried_has_time_but_no_memory_and_isnt_alive(kernel):
    kernel.fork(FIRST, 101)
    tree = ProcessTree(FIRST, kernel.root)
    read(kernel, tree)
    kernel.processes[101].own = 9
    kernel.processes[101].state = "Z"
    found = read(kernel, tree)
    assert found.cpu_s == 9 / TICKS_PER_S
    assert found.rss_bytes == 10 * PAGE_BYTES
    assert found.pss_bytes == 20 * 1024
    assert tree.alive() == [FIRST]


def test_one_process_whose_pss_is_secret_leaves_rss_alone(kernel):
    kernel.fork(FIRST, 101)
    kernel.processes[101].pss_kb = None
    found = read(kernel, ProcessTree(FIRST, kernel.root))
    assert found.pss_bytes is None
    assert found.rss_bytes == 20 * PAGE_BYTES


def test_a_process_that_was_never_there_is_told(kernel):
    assert read(kernel, ProcessTree(4242, kernel.root)) is None
    assert ProcessTree(FIRST, kernel.root / "nowhere").read() is None


def test_a_line_that_is_cut_off_is_no_process(kernel):
    kernel.write()
    (kernel.root / "proc" / str(FIRST) / "stat").write_text("100 (x) S 1")
    assert ProcessTree(FIRST, kernel.root).read() is None


STEPS = st.lists(
    st.tuples(st.sampled_from(["fork", "burn", "end", "look"]), st.integers(0, 50)), max_size=25
)


@settings(max_examples=30)
@given(STEPS)
def test_nothing_is_lost_and_nothing_counted_twice_where_children_are_waited_for(steps):
    with TemporaryDirectory() as folder:
        kernel = FakeKernel(Path(folder))
        tree = ProcessTree(FIRST, kernel.root)
        read(kernel, tree)
        members, burned = [FIRST], 0
        for step, number in steps:
            one = members[number % len(members)]
            if step == "fork":
                kernel.fork(one, 200 + len(kernel.processes) + kernel.clock)
                members.append(list(kernel.processes)[-1])
            elif step == "burn":
                kernel.processes[one].own += number
                burned += number
            elif step == "end" and one != FIRST and not _has_children(kernel, one):
                kernel.end(one, is_waited_for=True)
                members.remove(one)
            else:
                assert read(kernel, tree).cpu_s == pytest.approx(burned / TICKS_PER_S)
        assert read(kernel, tree).cpu_s == pytest.approx(burned / TICKS_PER_S)


def _has_children(kernel, pid):
    return any(one.parent == pid for one in kernel.processes.values())


class Reaping(ProcessTree):
    """Looks at a kernel that buries a child in the middle of the look."""

    def __init__(self, kernel, when):
        super().__init__(FIRST, kernel.root)
        self.kernel, self.when, self.asked = kernel, when, 0

    def _times(self, pid):
        found = super()._times(pid)
        if pid == 101:
            self.asked += 1
            if self.asked == self.when and 101 in self.kernel.processes:
                self.kernel.end(101, is_waited_for=True)
                self.kernel.write()
        return found


@pytest.mark.parametrize("when", [1, 2, 3, 4])
def test_a_child_that_is_buried_during_the_look_is_counted_once(kernel, when):
    kernel.fork(FIRST, 101)
    kernel.write()
    tree = Reaping(kernel, 0)
    tree.read()
    kernel.processes[101].own = 50
    kernel.write()
    tree.asked, tree.when = 0, when
    tree.read()
    kernel.processes[FIRST].own += 1
    assert read(kernel, tree).cpu_s == pytest.approx(51 / TICKS_PER_S)
