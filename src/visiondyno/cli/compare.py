"""`dyno compare`."""

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from visiondyno.cli import options
from visiondyno.cli.place import place_options
from visiondyno.cli.progress import ProgressDisplay
from visiondyno.errors import SpecError
from visiondyno.operations.family_models import pair_models
from visiondyno.places import Place
from visiondyno.python_face import run_comparison
from visiondyno.report.baseline import check_baseline, parse_conditions
from visiondyno.report.comparison import Comparison
from visiondyno.report.terminal import print_comparison
from visiondyno.report.write import read_report, write_report
from visiondyno.report.yaml_spec import load_spec
from visiondyno.specs.operations import BenchmarkInput, parse

_EPILOG = (
    "Example: dyno compare yolox.onnx fastestdet.onnx --data coco128 --classes car --out report. "
    "Exit code 3 means that a --fail-if condition held."
)


@click.command(epilog=_EPILOG)
@click.argument("models", nargs=-1, metavar="[MODEL… | comparison.yaml]")
@click.option(
    "--pair",
    metavar="A-B",
    help="Two families: the newest model of each that was trained on the data, else its published "
    "weights. yolov5-efficientnet_b0, yolov5-detectron2, yolov8-detectron2, yolov8-yolov5, or any "
    "other two, also of yolo11 and yolo26.",
)
@options.data
@options.classes
@options.level
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    callback=options.split_list,
    metavar="NAME[,NAME]",
    help="single-stream, multi-stream, server, offline. [default: single-stream,offline]",
)
@click.option(
    "--rate",
    "rate_per_s",
    type=float,
    metavar="R",
    help="Images a second that arrive in the server scenario.",
)
@click.option(
    "--latency-limit",
    "latency_limit_ms",
    type=float,
    metavar="MS",
    help="Search for the highest server rate whose p99 is within MS.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="loadgen: MLPerf's LoadGen drives each scenario too, beside ours. [default: dyno]",
)
@click.option(
    "--repeat",
    type=int,
    metavar="N",
    help="Fresh processes a model, taking turns; their spread enters the intervals. [default: 1]",
)
@click.option(
    "--duration",
    "duration_s",
    type=float,
    metavar="S",
    help="Least seconds of each scenario's measured part. [default: 10]",
)
@click.option("--reference", metavar="MODEL", help="Scores 50 on the green score. [default: first]")
@options.device
@options.threads
@click.option("--region", metavar="CODE", help="Country of the electricity, for CO2: FR or FRA.")
@click.option("--price", metavar="NAME|USD", help="A GPU's name or USD an hour, for cost.")
@options.max_images
@options.skip_bad
@options.seed
@click.option(
    "--resamples",
    type=int,
    metavar="N",
    help="Resamples of the images, for the intervals of accuracies. [default: 1000]",
)
@click.option(
    "--time-limit", "time_limit_s", type=float, metavar="S", help="Kill a model after S seconds."
)
@click.option(
    "--cache/--no-cache",
    "use_cache",
    default=None,
    help="Take the accuracy pass of the same model, data, settings and machine from the cache.",
)
@options.offline
@place_options
@options.out_dir
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="An earlier report.json to compare against.",
)
@click.option(
    "--fail-if",
    multiple=True,
    metavar="CONDITION",
    help='Exit with 3 where a change holds, e.g. "map_50_95<-0.01" or "latency_p90_ms>10%".',
)
def command(
    models: tuple[str, ...],
    out: Path | None,
    baseline: Path | None,
    fail_if: tuple[str, ...],
    place: Place,
    pair: str | None,
    **given: Any,
) -> None:
    """Compare models on one data set and one machine; write a report.

    Each model runs in a fresh process: an accuracy pass over all images, then single-stream
    latency, then offline throughput. The report says which differences are real and which are
    ties. A comparison.yaml in place of the models runs a comparison again; options override it.
    With --on it runs elsewhere, and local files are sent along. Ctrl-C stops it there too.
    """
    spec = _spec(models, pair, options.given(given))
    conditions = parse_conditions(fail_if) if fail_if else ()
    if bool(conditions) != (baseline is not None):
        raise SpecError("--baseline and --fail-if belong together; give both or neither.")
    old = read_report(baseline) if baseline else None
    comparison = run_and_report(spec, out or Path("dyno-report"), place)
    if old is not None:
        check = check_baseline(comparison, old, conditions)
        for line in (*check.warnings, *(change.sentence() for change in check.changes)):
            click.echo(line)
        check.raise_if_regressed()


def run_and_report(spec: BenchmarkInput, out: Path, place: Place | str = "inline") -> Comparison:
    """Run, print the table, write every form, and say where they are."""
    make_folder(out)
    with ProgressDisplay() as display:
        comparison = run_comparison(spec, display.show, place)
    print_comparison(comparison, Console())
    files = write_report(comparison, out)
    click.echo(f"\nReport: {files['html'].resolve()}")
    return comparison


def make_folder(out: Path) -> None:
    """Find out before the work whether its result can be written.

    Raises:
        SpecError: the folder can't be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(
            f"The report folder {out} can't be made ({error.strerror}); choose another with --out."
        ) from error


def _spec(models: tuple[str, ...], pair: str | None, given: dict[str, Any]) -> BenchmarkInput:
    what = "The command's options are wrong"
    if models and _is_comparison(models[0]):
        first = Path(models[0])
        if len(models) > 1 or pair is not None:
            raise SpecError(f"{first} names its models itself; give nothing beside it.")
        stored = load_spec(first).model_dump(mode="json")
        spec: BenchmarkInput = parse(BenchmarkInput, {**stored, **given}, what)
        return spec
    if "data" not in given:
        raise SpecError("Which data? Give --data FOLDER, or --data street:demo for the built-in.")
    chosen = (*(pair_models(pair) if pair else ()), *models)
    if not chosen:
        raise SpecError(
            "Which models? Give files or names, a comparison.yaml, or two families with --pair."
        )
    fresh: BenchmarkInput = parse(BenchmarkInput, {"models": chosen, **given}, what)
    return fresh


def _is_comparison(text: str) -> bool:
    """Whether it names a comparison's file, and not a model such as `ultralytics:yolov8n.yaml`."""
    path = Path(text)
    return path.suffix in {".yaml", ".yml"} and (path.is_file() or ":" not in text)
