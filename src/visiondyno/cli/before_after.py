"""How commands that make a model of a model end: both measured side by side, in one report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visiondyno.cli.compare import run_and_report
from visiondyno.places import Place
from visiondyno.report.comparison import Comparison
from visiondyno.specs.operations import BenchmarkInput, parse


def compare_after(
    source: str,
    results: Sequence[str],
    data: str,
    out: Path,
    place: Place | str = "inline",
    **options: Any,
) -> Comparison:
    """Compare what was made with what it was made of; print the tables and write the report.

    The report holds, against the source: size, precision, the accuracy's difference and the ratios
    of time and energy, each with its interval.

    Args:
        source: model reference; the comparison's `reference`.
        results: model references, such as paths of files that were written; what equals the source
            or comes twice is measured once.
        data: labelled images, as of `dyno compare`.
        out: the report's folder.
        place: where it runs; local files are sent along.
        **options: further fields of `BenchmarkInput`; those that are None are left out.

    Raises:
        SpecError: an option is wrong, or the folder can't be made.
        DatasetError: the data can't be read.
        VisionDynoError: no model could be measured (one that fails beside others is left out).
    """
    given = {name: value for name, value in options.items() if value is not None}
    models = tuple(dict.fromkeys((source, *results)))
    spec: BenchmarkInput = parse(
        BenchmarkInput,
        {**given, "models": models, "data": data, "reference": source},
        "The comparison's options are wrong",
    )
    return run_and_report(spec, out, place)
