"""The form that starts a comparison: fields ↔ `BenchmarkInput`, with errors at their fields."""

from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import ValidationError
from starlette.datastructures import FormData

from visiondyno.dashboard.forms import text_of, texts_of
from visiondyno.datasets.registry import builtin_datasets
from visiondyno.runtimes.references import SHIPPED_PREFIX, shipped_models
from visiondyno.specs.operations import BenchmarkInput, Scenario

SCENARIOS: dict[str, str] = {
    "single-stream": "one image after another: latency",
    "multi-stream": "eight images at once",
    "server": "images at random moments: latency at a rate",
    "offline": "all images together: throughput",
}
assert set(SCENARIOS) == set(get_args(Scenario))

_FIELDS = ("models", "data", "classes", "scenarios", "duration_s", "max_images", "device")


@dataclass(frozen=True, slots=True)
class ComparisonForm:
    """What the user typed, as text, and what is wrong with it.

    Attributes:
        shipped: ticked models of the package, as references.
        others: the text field of further models, one a line.
        errors: by field name; of none of the fields: "form".
    """

    shipped: tuple[str, ...] = ()
    others: str = ""
    data: str = ""
    classes: str = ""
    scenarios: tuple[str, ...] = ("single-stream", "offline")
    duration_s: str = "10"
    max_images: str = ""
    device: str = "cpu"
    fresh: bool = False
    errors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_form(cls, form: FormData) -> "ComparisonForm":
        """The form as it was sent."""
        return cls(
            shipped=texts_of(form, "shipped"),
            others=text_of(form, "others"),
            data=text_of(form, "data"),
            classes=text_of(form, "classes"),
            scenarios=texts_of(form, "scenarios"),
            duration_s=text_of(form, "duration_s"),
            max_images=text_of(form, "max_images"),
            device=text_of(form, "device"),
            fresh=bool(text_of(form, "fresh")),
        )

    def spec(self) -> tuple[BenchmarkInput | None, dict[str, str]]:
        """The comparison it asks for, or None and what is wrong, by field."""
        given: dict[str, Any] = {
            "models": (*self.shipped, *self._lines()),
            "data": self.data,
            "classes": tuple(c.strip() for c in self.classes.split(",") if c.strip()) or None,
            "scenarios": self.scenarios,
            "duration_s": self.duration_s,
            "max_images": self.max_images or None,
            "device": self.device or "cpu",
        }
        missing = self._missing(given)
        if missing:
            return None, missing
        try:
            return BenchmarkInput.model_validate(given), {}
        except ValidationError as error:
            return None, _by_field(error)

    def _lines(self) -> tuple[str, ...]:
        return tuple(line.strip() for line in self.others.splitlines() if line.strip())

    @staticmethod
    def _missing(given: dict[str, Any]) -> dict[str, str]:
        found = {}
        if not given["models"]:
            found["models"] = "Tick a model, or give the path of an .onnx file."
        elif len(set(given["models"])) < len(given["models"]):
            found["models"] = "A model stands here twice; leave one of them out."
        if not given["data"]:
            found["data"] = "Name the data, for example street:demo."
        if not given["scenarios"]:
            found["scenarios"] = "Tick at least one scenario."
        return found


def model_suggestions() -> list[str]:
    """References of the models inside the package."""
    return [f"{SHIPPED_PREFIX}:{name}" for name in shipped_models()]


def data_suggestions() -> dict[str, str]:
    """Built-in data by reference, each with what it is."""
    return {
        f"{found.name}:{split}": f"{found.description}, {count:,} images"
        for found in builtin_datasets()
        for split, count in found.splits.items()
    }


def _by_field(error: ValidationError) -> dict[str, str]:
    found: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else "form"
        found.setdefault(name if name in _FIELDS else "form", f"{problem['msg']}.")
    return found
