"""`dyno serve`."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from visiondyno.api.listening import keep_freed_memory, run
from visiondyno.cli import options
from visiondyno.errors import SpecError
from visiondyno.loopback import is_loopback
from visiondyno.serving.config import ServingConfig, load_serving_config
from visiondyno.serving.run import Started, serve
from visiondyno.telemetry.logs import configure_logging

_EPILOG = (
    "Example: dyno serve visiondyno:street-n --replicas 0-3 --idle-timeout 30. Every option is "
    "also a variable: VISIONDYNO_SERVE_REPLICAS, VISIONDYNO_SERVE_MAX_BODY_MB and so on (the port "
    "also PORT, the model VISIONDYNO_SERVE_MODEL); .env is read."
)


@click.command(epilog=_EPILOG)
@click.argument("model", required=False)
@click.option("--host", metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="N", help="0: any free one. [default: 8080]")
@click.option(
    "--grpc-port",
    type=int,
    metavar="N",
    help="Speak the Open Inference Protocol over gRPC too. [default: off]",
)
@click.option("--name", metavar="NAME", help="The model's, at /v2. [default: of the reference]")
@click.option(
    "--replicas",
    callback=options.process_range,
    metavar="N[-M]",
    help="Processes that hold the model; 0-3 scales to zero. [default: 1]",
)
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=float,
    metavar="S",
    help="Replicas above the least end after S idle seconds. [default: 60]",
)
@options.threads
@options.device
@click.option(
    "--card",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The model's card, where the file doesn't say enough.",
)
@click.option(
    "--max-batch",
    type=int,
    metavar="N",
    help="Most images in one inference. [default: 1 on the CPU, 8 elsewhere]",
)
@click.option(
    "--batch-delay-ms",
    type=float,
    metavar="MS",
    help="How long an image waits for others to share its inference. [default: 0]",
)
@click.option(
    "--queue", type=int, metavar="N", help="Images that may wait; more: 429. [default: 100]"
)
@click.option(
    "--time-limit",
    "time_limit_s",
    type=float,
    metavar="S",
    help="An answer that takes longer is a 504. [default: 30]",
)
@click.option("--max-body-mb", type=float, metavar="MB", help="Of a request. [default: 20]")
@click.option("--max-images", type=int, metavar="N", help="In one request. [default: 32]")
@click.option("--max-megapixels", type=float, metavar="N", help="Of one image. [default: 50]")
@click.option("--max-video-mb", type=float, metavar="MB", help="Of a video. [default: 200]")
@click.option("--max-video-frames", type=int, metavar="N", help="Of a video. [default: 300]")
@click.option("--max-zip-mb", type=float, metavar="MB", help="Of a zip file. [default: 200]")
@click.option("--max-zip-images", type=int, metavar="N", help="Of a zip file. [default: 1000]")
@click.option(
    "--max-zip-unpacked-mb",
    type=float,
    metavar="MB",
    help="Of all images of a zip file. [default: 1000]",
)
@click.option(
    "--max-connections", type=int, metavar="N", help="Open at once; more: 503. [default: 20000]"
)
@click.option(
    "--allow-url-host",
    "allow_url_hosts",
    multiple=True,
    callback=options.split_list,
    metavar="HOST|public",
    help="Fetch images that requests name by URL from here; public: from any that isn't inside a "
    "network. [default: from nowhere]",
)
@click.option("--conf", type=float, metavar="C", help="Lowest score, where a request has none.")
@click.option("--iou", type=float, metavar="I", help="Overlap of NMS, where a request has none.")
@click.option(
    "--classes",
    multiple=True,
    callback=options.split_list,
    metavar="NAME[,NAME]",
    help="Classes that are answered, where a request names none. [default: all]",
)
@click.option(
    "--drain-s", type=float, metavar="S", help="Time to finish when stopped. [default: 30]"
)
@click.option(
    "--keys-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="API keys, one a line; requests must bring one. [default: none is asked for]",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    callback=options.split_list,
    metavar="URL",
    help="Browsers may call from.",
)
@options.offline
@options.log_format
@options.access_log
def command(replicas: tuple[int, int] | None, **given: Any) -> int:
    """Serve a model over HTTP: REST, Open Inference Protocol, metrics.

    POST /predict takes images as bytes, forms, base64, URLs or zip files, and videos; /docs has
    all of it. Ctrl-C finishes what was accepted and stops; a second Ctrl-C stops at once.
    """
    if replicas is not None:
        given["replicas"] = "-".join(map(str, replicas))
    config = _config(given)
    keep_freed_memory()
    configure_logging(config.log_format)
    _fetch_weights(config.model)
    with _loading(config) as loaded:

        def tell(started: Started) -> None:
            loaded.close()
            _tell(config, started)

        cut_off = run(serve(config, tell, _tell_stopping(config, loaded)))
    if cut_off:
        click.echo(f"Stopped; requests that were cut off: {cut_off}.", err=True)
        return 1
    click.echo("Stopped; every request that was accepted was answered.")
    return 0


def _config(given: dict[str, Any]) -> ServingConfig:
    lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    config = load_serving_config(**options.given({**given, **lists}))
    if config.grpc_port is not None and config.grpc_port == config.port != 0:
        raise SpecError("--port and --grpc-port are the same; give two ports.")
    return config


def _fetch_weights(reference: str) -> None:
    """Replicas download nothing: what starts one, seconds later or after days, is a load."""
    from visiondyno.runtimes.references import resolve_reference

    if resolve_reference(reference).runtime == "onnx":
        return
    # The server of a file starts without what downloads and reads other models.
    from visiondyno.cli.downloads import DownloadDisplay
    from visiondyno.runtimes.registry import fetch_weights

    with DownloadDisplay() as display:
        fetch_weights(reference, display.show)


@contextlib.contextmanager
def _loading(config: ServingConfig) -> Iterator[contextlib.ExitStack]:
    """Says that the model is loading, until the stack is closed."""
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        if console.is_terminal:
            stack.enter_context(console.status(f"Loading {config.model}…"))
        else:
            click.echo(f"Loading {config.model}…", err=True)
        yield stack


def _tell(config: ServingConfig, started: Started) -> None:
    model, ready = started.readiness.model, started.readiness
    least, most = config.replicas_least, config.replicas_most
    count = str(least) if least == most else f"{least} to {most}"
    click.echo(f"Serving {config.model_name} at {started.url} (its pages: {started.url}/docs)")
    click.echo(
        f"{model['card']['task'].capitalize()} by {model['runtime']} on {model['device']}, "
        f"{model['precision']}; replicas: {count}{_threads(config)}; images in one inference: at "
        f"most {started.max_batch}. The first was ready after {ready.total_ms / 1e3:.1f} s."
    )
    for note in model["notes"]:
        click.echo(f"Note: {note}")
    if started.grpc_address is not None:
        click.echo(f"Open Inference Protocol over gRPC at {started.grpc_address}")
    key = "" if config.keys_file is None else " -H 'Authorization: Bearer KEY'"
    click.echo(f"Try it: curl{key} --data-binary @IMAGE.jpg {started.url}/predict")
    if config.keys_file is None and not is_loopback(config.host):
        click.echo("Whoever reaches this address may use it: no --keys-file was given.")
    click.echo("Ctrl-C stops it.")


def _threads(config: ServingConfig) -> str:
    each = config.threads_each
    return "" if each is None else f", threads of each: {each}"


def _tell_stopping(config: ServingConfig, loaded: contextlib.ExitStack) -> Callable[[int], None]:
    def tell(requests: int) -> None:
        loaded.close()
        if requests:
            click.echo(
                f"Stopping: requests to finish: {requests}, in at most {config.drain_s:g} s. "
                "Ctrl-C again stops at once.",
                err=True,
            )

    return tell
