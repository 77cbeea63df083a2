"""What a model is, beside what was measured of it: precision, file size, number of weights."""

from dataclasses import dataclass

from visiondyno.report.comparison import ModelReport
from visiondyno.report.format import bytes_text

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Each None where a report doesn't say it.

    Attributes:
        precision: what most of its arithmetic is computed in, e.g. `int8`.
        file_bytes: of its files together.
        parameters: number of weights.
        stands_in_for: the family that it takes the place of.
    """

    precision: str | None
    file_bytes: int | None
    parameters: int | None
    stands_in_for: str | None = None

    def lines(self) -> list[str]:
        """For people, in at most three short lines."""
        size = None if self.file_bytes is None else bytes_text(self.file_bytes)
        first = " · ".join(part for part in (self.precision, size) if part)
        second = "" if self.parameters is None else f"{count_text(self.parameters)} parameters"
        third = self.stands_in_for and f"in place of {self.stands_in_for}"
        return [line for line in (first, second, third) if line]


def model_facts(model: ModelReport) -> ModelFacts:
    """The facts that the model's description holds: reports may come from any version."""
    precision = model.description.get("precision")
    return ModelFacts(
        precision if isinstance(precision, str) and precision else None,
        _count(model, "file_bytes"),
        _count(model, "parameters"),
        model.stands_in_for,
    )


def count_text(count: int) -> str:
    """A number of weights with three digits: 912, 164k, 1.63M."""
    for size, letter in _UNITS:
        # What would be rounded up to a thousand is one of the next unit.
        if count >= size * 0.9995:
            value = count / size
            places = 2 if value < 9.995 else 1 if value < 99.95 else 0
            return f"{value:.{places}f}{letter}"
    return str(count)


def _count(model: ModelReport, name: str) -> int | None:
    found = model.description.get(name)
    # A name that stands for no file has no size, which some runtimes write as 0.
    return found if isinstance(found, int) and found > 0 else None
