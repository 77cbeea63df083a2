"""CO2 and cost: units, intervals, what counts as an estimate, and unknown names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visiondyno.errors import SpecError
from visiondyno.measurements.measure import measured, not_measured
from visiondyno.probes.carbon import carbon_intensity, co2_grams_per_1000_images, known_regions
from visiondyno.probes.cost import (
    cost_usd_per_1000_images,
    find_price,
    is_the_gpu,
    known_prices,
)

ENERGY = "energy_joules_per_image"
THROUGHPUT = "throughput_images_per_s"


@pytest.mark.parametrize(
    ("given_code", "grams"), [("FR", 56), ("fra", 56), ("UK", 238), ("IND", 713)]
)
def test_a_country_by_two_or_three_letters(given_code: str, grams: float) -> None:
    intensity = carbon_intensity(given_code)
    assert (intensity.value, intensity.year, intensity.assumed) == (grams, 2023, False)
    assert "CodeCarbon" in intensity.source


def test_no_region_is_the_world_assumed_and_world_is_the_world_chosen() -> None:
    assert (carbon_intensity(None).value, carbon_intensity(None).assumed) == (475, True)
    assert (carbon_intensity("world").value, carbon_intensity("world").assumed) == (475, False)


def test_an_unknown_region_lists_the_known_ones() -> None:
    with pytest.raises(SpecError) as caught:
        carbon_intensity("Atlantis")
    assert all(region in caught.value.message for region in known_regions())
    with pytest.raises(SpecError):
        co2_grams_per_1000_images(not_measured(ENERGY, "no counter"), "Atlantis")


@given(joules=st.floats(1e-6, 1e6), region=st.sampled_from(known_regions()))
def test_co2_is_kilowatt_hours_times_intensity(joules: float, region: str) -> None:
    energy = measured(ENERGY, joules, "RAPL", interval=(joules / 2, joules * 2), n=7)
    co2 = co2_grams_per_1000_images(energy, region)
    kwh = joules * 1000 / 3_600_000
    grams = carbon_intensity(region).value
    assert co2.value == pytest.approx(kwh * grams)
    assert co2.interval == pytest.approx((kwh * grams / 2, kwh * grams * 2))
    assert (co2.n, co2.estimated) == (7, False)


def test_co2_is_an_estimate_if_either_factor_is() -> None:
    counted = measured(ENERGY, 1, "RAPL", interval=(None, 2.0))
    assumed = co2_grams_per_1000_images(counted, None)
    assert assumed.estimated
    assert assumed.interval == (None, pytest.approx(2 * 475 / 3600))
    assert "assumed" in assumed.method
    guess = measured(ENERGY, 1, "ESTIMATE", estimated=True)
    assert co2_grams_per_1000_images(guess, "SE").estimated
    absent = co2_grams_per_1000_images(not_measured(ENERGY, "no counter"), "SE")
    assert (absent.value, absent.reason) == (None, "no counter")


@pytest.mark.parametrize(
    ("text", "gpu", "usd"),
    [
        ("A4000", "A4000", 0.576),
        ("rtx a4000", "A4000", 0.576),
        ("4090", "RTX 4090", 1.116),
        ("NVIDIA GeForce RTX 4090", "RTX 4090", 1.116),
        ("RTX4000", "RTX 4000 Ada", 0.576),
        ("RTX 6000 PRO", "RTX PRO 6000", 3.996),
        ("6000Ada", "RTX 6000 Ada", 1.908),
        ("h100", "H100", 4.176),
        ("0.40", None, 0.40),
        ("4090.0", None, 4090.0),
    ],
)
def test_a_price_by_name_or_number(text: str, gpu: str | None, usd: float) -> None:
    price = find_price(text)
    assert price.gpu == gpu
    assert price.usd_per_hour == pytest.approx(usd)


def test_every_name_of_the_table_finds_itself() -> None:
    for name, usd in known_prices().items():
        assert (find_price(name).gpu, find_price(name).usd_per_hour) == (name, usd)


@pytest.mark.parametrize("text", ["TPU v5", "", "0", "-1", "nan", "inf"])
def test_a_bad_price_is_one_clear_error(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        find_price(text)
    assert "USD an hour" in caught.value.message


@given(rate=st.floats(0.01, 1e5), usd=st.floats(0.01, 100))
def test_cost_is_busy_time_times_price(rate: float, usd: float) -> None:
    throughput = measured(THROUGHPUT, rate, "m", interval=(rate / 2, rate * 4), n=9)
    cost = cost_usd_per_1000_images(throughput, str(usd))
    expected = 1000 / rate / 3600 * usd
    assert cost.value == pytest.approx(expected)
    assert cost.interval == pytest.approx((expected / 4, expected * 2))
    assert not cost.estimated


def test_the_price_of_another_gpu_is_an_estimate_that_names_both() -> None:
    throughput = measured(THROUGHPUT, 100, "m", interval=(None, None))
    elsewhere = cost_usd_per_1000_images(throughput, "A4000")
    assert elsewhere.estimated
    assert "A4000" in elsewhere.method
    assert "a CPU" in elsewhere.method
    assert elsewhere.interval == (None, None)
    here = cost_usd_per_1000_images(throughput, "A4000", "NVIDIA RTX A4000")
    assert not here.estimated
    assert here.value == elsewhere.value


def test_no_price_or_no_throughput_is_a_reason_and_not_zero() -> None:
    throughput = measured(THROUGHPUT, 100, "m")
    assert "--price" in (cost_usd_per_1000_images(throughput, None).reason or "")
    absent = cost_usd_per_1000_images(not_measured(THROUGHPUT, "not asked for"), "L4")
    assert (absent.value, absent.reason) == (None, "not asked for")
    assert cost_usd_per_1000_images(measured(THROUGHPUT, 0, "m"), "L4").value is None


@pytest.mark.parametrize(
    ("priced", "device", "same"),
    [
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("A100", "NVIDIA A100-PCIE-40GB", False),
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("L40", "NVIDIA L40S", False),
        ("RTX 6000 Ada", "NVIDIA RTX 6000 Ada Generation", True),
        ("A6000", "NVIDIA RTX 6000 Ada Generation", False),
        ("RTX 4090", "NVIDIA GeForce RTX 4090 Laptop GPU", False),
        ("RTX 4090", "NVIDIA GeForce RTX 4090 D", False),
        ("RTX PRO 6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", True),
        ("L4", None, False),
    ],
)
def test_drivers_names_are_matched_by_whole_words(
    priced: str, device: str | None, same: bool
) -> None:
    assert is_the_gpu(priced, device) is same
