"""Choose the fastest model whose accuracy is not clearly below the best.

    python choose_a_model.py DATA MODEL MODEL …
    python choose_a_model.py street:demo visiondyno:street-n visiondyno:street-s

"Not clearly below" is decided by the difference's 95 % interval over the same images, not by
comparing two numbers.
"""

import sys

import visiondyno


def is_as_accurate(comparison: visiondyno.Comparison, model: str, best: str) -> bool:
    """Whether the interval of the accuracies' difference holds zero."""
    return model == best or any(
        difference.tie
        for difference in comparison.differences
        if difference.measure == "accuracy" and {difference.a, difference.b} == {model, best}
    )


def main() -> int:
    """Compare, print one line for each model, and name the choice."""
    data, *models = sys.argv[1:]
    try:
        comparison = visiondyno.compare(models, data=data, duration_s=2.0)
    except visiondyno.VisionDynoError as error:
        print(error, file=sys.stderr)
        return error.exit_code

    def value(model: str, measure: str) -> float:
        return comparison.model(model).measures[measure].value or 0.0

    measured = [report.reference for report in comparison.models]
    best = max(measured, key=lambda model: value(model, "accuracy"))
    good = [model for model in measured if is_as_accurate(comparison, model, best)]
    for model in measured:
        print(
            f"{model}: accuracy {value(model, 'accuracy'):.3f}, "
            f"p90 {value(model, 'latency_p90_ms'):.2f} ms"
            f"{'' if model in good else ', clearly less accurate'}"
        )
    print(f"Choice: {min(good, key=lambda model: value(model, 'latency_p90_ms'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
