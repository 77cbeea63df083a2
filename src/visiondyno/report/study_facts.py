"""A study in figures and table rows, as its page tells it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from visiondyno.report.format import number, plural
from visiondyno.report.study_trials import finite, objective_title

Results = Mapping[str, Any]
_MOST_HEALTH = 50


def title_of(results: Results) -> str:
    """What was searched, in a few words."""
    spec = results["spec"]
    if "function" in spec:
        return f"Study of {spec['function']}"
    data = spec.get("data") or spec.get("training_data")
    if isinstance(data, Mapping):
        data = data.get("data")
    return f"Study on {data}" if isinstance(data, str) else "Study"


def cards(results: Results) -> list[tuple[str, str, str]]:
    """Heading, figure and a word more, of what matters most."""
    found = [*_best_cards(results), *_test_cards(results)]
    counts = results["counts"]
    ended = [
        plural(counts[state], state).removesuffix("s")
        for state in ("completed", "pruned", "failed", "queued", "running")
        if counts[state]
    ]
    retried = counts["failed_attempts"]
    more = ", ".join(ended) + (f"; {plural(retried, 'failed attempt')}" if retried else "")
    found.append(("Trials", f"{counts['trials']:,}", more))
    time = results["time"]
    heading = "Time of this run" if counts["of_earlier_runs"] else "Time"
    found.append((heading, duration(time["seconds"]), f"{duration(time['trials_s'])} of trials"))
    cost = results["cost"]
    if cost is not None:
        test = cost["test_usd"]
        more = "estimated" + (f"; {usd_text(test)} of it for the test" if test else "")
        found.append(("Cost", usd_text(cost["total_usd"]), more))
    return found


def _best_cards(results: Results) -> list[tuple[str, str, str]]:
    best = results["best"]
    if best is None:
        return [("Best", "none", "No trial was completed.")]
    if "trial" not in best:
        values = [
            (f"Best {_lower(objective_title(name))}", value_text(value), "of any trial")
            for name, value in best["values"].items()
        ]
        return [*values, ("Pareto front", plural(len(results["front"]), "trial"), "")]
    name = results["objectives"][0]["name"]
    return [(f"Best {_lower(objective_title(name))}", value_text(best["value"]),
             f"trial {best['trial']}")]  # fmt: skip


def _test_cards(results: Results) -> list[tuple[str, str, str]]:
    test = results["test"]
    if test is None or len(test["trials"]) != 1:
        return []
    (tested,) = test["trials"]
    metrics = tested["metrics"]
    name = "accuracy" if "accuracy" in metrics else next(iter(metrics))
    more = [f"{tested['samples']:,} samples"] if tested["samples"] else []
    if name == "accuracy" and tested["accuracy_interval"]:
        low, high = tested["accuracy_interval"]
        more.insert(0, f"95 %: {number(low, 4)} to {number(high, 4)}")
    return [(f"Test {name.replace('_', ' ')}", value_text(metrics[name]), ", ".join(more))]


def test_rows(results: Results) -> list[dict[str, Any]]:
    """The tested trials: each with metrics, interval, and how its training came out again."""
    test = results["test"] or {"trials": []}
    rows = []
    for tested in test["trials"]:
        apart = {
            name: one["difference"] for name, one in tested["again"].items() if one["difference"]
        }
        rows.append(
            {
                **tested,
                "shown": {name: value_text(value) for name, value in tested["metrics"].items()},
                "came_out": ", ".join(
                    f"{objective_title(name)} {signed(value)}" for name, value in apart.items()
                )
                or ("the same" if tested["again"] else "–"),
            }
        )
    return rows


def health_rows(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Trials in which something wasn't finite: the epoch of the first, and how many steps."""
    rows = []
    for trial in trials:
        epochs = trial["measured"].get("health", ())
        bad = [epoch for epoch in epochs if _is_bad(epoch)]
        if bad:
            norms = [finite(epoch.get("gradient_norm_max")) for epoch in epochs]
            rows.append(
                {
                    "trial": trial["number"],
                    "state": trial["state"],
                    "epoch": bad[0]["epoch"],
                    "steps": sum(int(epoch.get("nonfinite_steps", 0)) for epoch in epochs),
                    "norm": max((norm for norm in norms if norm is not None), default=None),
                }
            )
    return rows[:_MOST_HEALTH]


def _is_bad(epoch: Mapping[str, Any]) -> bool:
    if epoch.get("nonfinite_steps"):
        return True
    losses = [epoch[name] for name in ("train_loss", "val_loss") if name in epoch]
    return any(finite(loss) is None for loss in losses)


def value_text(value: Any) -> str:
    """An objective's or a metric's value; one that isn't finite by its name."""
    known = finite(value)
    return str(value) if known is None else number(known, 4)


def signed(value: float) -> str:
    """A difference with its sign."""
    return number(value, 3) if value < 0 else f"+{number(value, 3)}"


def usd_text(bounds: Sequence[float] | None) -> str:
    """USD between two bounds."""
    if bounds is None:
        return "–"
    least, most = (number(value, 3) for value in bounds)
    return f"{most} USD" if least == most else f"{least} to {most} USD"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours for people."""
    if seconds < 120:
        return f"{number(seconds)} s"
    minutes = math.floor(seconds / 60)
    if minutes < 120:
        return f"{minutes} min {math.floor(seconds % 60)} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
