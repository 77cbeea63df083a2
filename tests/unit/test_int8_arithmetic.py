"""What integers a processor is given: by its architecture and what it says of itself."""

import pytest

from visiondyno.operations.int8_arithmetic import int8_arithmetic


def machine_with(folder, flags):
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(
        f"processor\t: 0\nflags\t\t: fpu {flags} sse2\nbogomips\t: 1\n"
    )
    return folder


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_vnni_takes_all_8_bits(tmp_path, flag):
    found = int8_arithmetic("x86_64", machine_with(tmp_path, flag))
    assert (found.activations, found.weight_bits) == ("uint8", 8)
    assert flag in found.why


def test_x86_without_vnni_keeps_a_bit_free(tmp_path):
    found = int8_arithmetic("AMD64", machine_with(tmp_path, "avx2"))
    assert (found.activations, found.weight_bits) == ("uint8", 7)


def test_an_unknown_x86_is_taken_for_one_without(tmp_path):
    assert int8_arithmetic("x86_64", tmp_path).weight_bits == 7


def test_arm_multiplies_signed(tmp_path):
    found = int8_arithmetic("aarch64", tmp_path)
    assert (found.activations, found.weight_bits) == ("int8", 8)


def test_this_machine_has_an_answer():
    assert int8_arithmetic().why
