"""How many workers are suggested, and what share of the GPU."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvml_stand_in import Driver, gpu
from visiondyno.environment import Environment
from visiondyno.probes.machine import capture_environment
from visiondyno.probes.machine_digest import machine_digest
from visiondyno.probes.slots import HostMemory, host_memory, suggest_cpu_slots, suggest_slots

MB, GB = 10**6, 10**9
CARD_BYTES = st.integers(1 * GB, 200 * GB)
MODEL_BYTES = st.integers(0, 20 * GB)


@pytest.mark.parametrize("card_bytes", [46 * GB, 46068 << 20], ids=["46 GB", "46068 MiB"])
@pytest.mark.parametrize(
    ("megabytes", "fraction", "slots"),
    [
        (6, 0.10, {9, 10}),
        (49, 0.10, {9, 10}),
        (90, 0.143, {7}),
        (95, 0.143, {7}),
        (101, 0.20, {4, 5}),
        (250, 0.20, {4, 5}),
    ],
)
def test_a_card_of_46_gb(card_bytes: int, megabytes: int, fraction: float, slots: set[int]) -> None:
    found = suggest_slots(megabytes * MB, card_bytes, card_bytes)
    assert found.slots in slots
    assert found.fraction == pytest.approx(fraction, abs=0.0015)


def test_what_others_use_is_not_given_away() -> None:
    found = suggest_slots(95 * MB, 46 * GB, 20 * GB)
    assert found.slots == 3
    assert found.fraction == pytest.approx(20 / 46 / 3, abs=1e-4)
    assert "20.0 of 46.0 GB are free" in found.reason


def test_a_small_card_has_room_for_one() -> None:
    found = suggest_slots(12 * MB, 4 * GB, 3 * GB)
    assert (found.slots, found.fraction) == (1, 0.75)
    full = suggest_slots(12 * MB, 4 * GB, 1 * GB)
    assert (full.slots, full.fraction) == (0, None)
    assert "needs about 1.0 GB" in full.reason


def test_main_memory_may_be_what_is_short() -> None:
    found = suggest_slots(95 * MB, 46 * GB, 46 * GB, ram_available_bytes=2 * GB)
    assert found.slots == 2
    assert "Main memory" in found.reason
    assert suggest_slots(95 * MB, 46 * GB, 46 * GB, ram_available_bytes=MB).slots == 0


@given(MODEL_BYTES, CARD_BYTES, st.floats(0, 1), st.none() | st.integers(0, 600 * GB))
def test_the_shares_together_never_exceed_what_is_free(
    model_bytes: int, card_bytes: int, free: float, ram_bytes: int | None
) -> None:
    free_bytes = int(card_bytes * free)
    found = suggest_slots(model_bytes, card_bytes, free_bytes, ram_available_bytes=ram_bytes)
    assert (found.fraction is None) == (found.slots == 0)
    assert found.reason.endswith(".")
    if found.fraction is not None:
        assert 0 < found.fraction <= 1
        assert found.fraction * found.slots * card_bytes <= free_bytes * (1 + 1e-9)
        assert found.fraction * card_bytes >= (GB + 4 * model_bytes) * 0.999 - card_bytes * 1e-4


@given(MODEL_BYTES, MODEL_BYTES, CARD_BYTES, CARD_BYTES)
def test_a_larger_model_never_gets_more_slots_and_a_larger_card_never_fewer(
    one: int, other: int, small: int, large: int
) -> None:
    light, heavy = sorted((one, other))
    less, more = sorted((small, large))
    assert suggest_slots(heavy, more, more).slots <= suggest_slots(light, more, more).slots
    assert suggest_slots(light, less, less).slots <= suggest_slots(light, more, more).slots


@given(MODEL_BYTES, st.integers(1, 512), st.none() | st.integers(0, 600 * GB))
def test_without_a_gpu_processors_and_memory_decide(
    model_bytes: int, cpu_count: int, ram_bytes: int | None
) -> None:
    found = suggest_cpu_slots(model_bytes, cpu_count, ram_bytes)
    assert found.fraction is None
    assert found.slots <= max(1, cpu_count // 2)
    assert found.reason.startswith("No GPU")
    if ram_bytes is not None:
        assert found.slots * (0.5 * GB + 4 * model_bytes) <= ram_bytes
    else:
        assert found.slots >= 1


# ---- main memory


def lay_memory(root: Path, group: dict[str, str]) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 6000000 kB\n")
    folder = root / "sys/fs/cgroup"
    folder.mkdir(parents=True)
    for name, text in group.items():
        (folder / name).write_text(text)
    return root


def test_memory_of_a_bare_machine(tmp_path: Path) -> None:
    assert host_memory(lay_memory(tmp_path, {})) == HostMemory(8_000_000 * 1024, 6_000_000 * 1024)


def test_memory_that_a_container_leaves(tmp_path: Path) -> None:
    group = {
        "cgroup.controllers": "cpu memory\n",
        "memory.max": f"{2 * GB}\n",
        "memory.current": f"{GB}\n",
        "memory.stat": f"anon 5\ninactive_file {GB // 2}\n",
    }
    assert host_memory(lay_memory(tmp_path, group)) == HostMemory(2 * GB, 3 * GB // 2)


def test_memory_where_the_kernel_says_nothing(tmp_path: Path) -> None:
    assert host_memory(tmp_path) == HostMemory(None, None)


# ---- the machine's digest


def changed(environment: Environment, **changes: object) -> str:
    return machine_digest(environment.model_copy(update=changes))


def test_the_digest_follows_what_numbers_depend_on() -> None:
    here = capture_environment(library=Driver(gpu()))
    digest = machine_digest(here)
    assert len(digest) == 32
    assert digest == machine_digest(here.model_copy())
    newer = here.gpus[0].model_copy(update={"driver": "999.1"})
    others = [
        changed(here, machine_id="another"),
        changed(here, packages={**here.packages, "numpy": "0.1"}),
        changed(here, python="CPython 9"),
        changed(here, gpus=(newer,)),
    ]
    assert len({digest, *others}) == 5


def test_the_digest_ignores_what_changes_by_the_hour() -> None:
    here = capture_environment()
    digest = machine_digest()
    assert digest == machine_digest(here)
    assert digest == changed(
        here, hostname_hash="x", kernel="9.9", cpu_governor="powersave", cannot_measure={}
    )
