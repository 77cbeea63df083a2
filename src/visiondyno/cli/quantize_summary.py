"""What `dyno quantize` says of each file that it made."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from visiondyno.report.format import bytes_text, listed, number, sentence, signed_text, title

_MAIN = ("map_50_95", "top1", "delta1", "image_ap")


def print_made(output: dict[str, Any], path: Path, console: Console) -> None:
    """Path, size, what was quantized and what wasn't, how far it is from its source, and notes."""
    for index, line in enumerate(_lines(output, path)):
        console.print(Text(line, style="bold" if index == 0 else ""))
    for note in output["notes"]:
        console.print(Text(f"Note: {sentence(note)}", style="dim"))
    console.print()


def _lines(output: dict[str, Any], path: Path) -> list[str]:
    sizes = bytes_text(output["size_bytes"])
    if output["source_size_bytes"]:
        sizes += f", {output['size_bytes'] / output['source_size_bytes']:.0%} of the source"
    lines = [f"{path}: {output['precision']}, {sizes}"]
    if "quantized" in output:
        counted = [f"{count} {kind}" for kind, count in output["quantized"].items()]
        lines.append(f"  int8: {listed(counted)}")
    by_reason: dict[str, list[str]] = {}
    for kept in output.get("kept_float", ()):
        by_reason.setdefault(kept["reason"], []).append(f"{kept['count']} {kept['type']}")
    lines += [f"  float ({reason}): {listed(kinds)}" for reason, kinds in by_reason.items()]
    return [*lines, *_check_lines(output["check"])]


def _check_lines(check: dict[str, Any]) -> list[str]:
    lines = []
    for one in check["outputs"]:
        if one["max_abs_difference"] is None:
            continue
        lines.append(
            f"  {one['name']}: off by {number(one['mean_abs_difference'])} in the mean, "
            f"{number(one['max_abs_difference'])} at most, of {number(one['max_abs_source'])}"
        )
    differences = check["metric_differences"] or {}
    for name in _MAIN:
        if name not in differences:
            continue
        found = differences[name]
        bounds = found["interval"]
        if bounds is None:
            said = "unknown interval"
        else:
            said = f"95 % {listed([signed_text(name, bound) for bound in bounds])}"
        lines.append(
            f"  {title(name)} on {check['images']} images of {check['data']}: "
            f"{signed_text(name, found['difference'])} ({said})"
        )
    return lines
