"""The steps of `dyno deploy runpod`, in order."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from visiondyno.cli import deploy_display as display
from visiondyno.cli.deploy_display import Steps
from visiondyno.cli.deploy_handler import try_handler
from visiondyno.deployments.docker_image import (
    Docker,
    find_context,
    source_digest,
    split_image,
    tagged,
)
from visiondyno.deployments.endpoint import (
    Deployed,
    Wanted,
    deploy_endpoint,
    find_endpoint,
    plain_name,
    variables,
)
from visiondyno.deployments.gpu_types import dearest, gpus_of
from visiondyno.deployments.planned import PlannedCalls, console_settings
from visiondyno.deployments.record import (
    Deployment,
    PushedImage,
    find_image,
    keep_deployment,
    keep_image,
    latest,
)
from visiondyno.deployments.rest_api import RunPodRest, checked_rest_url
from visiondyno.deployments.worker_variables import BLOBS_KEY, BLOBS_URL, check_blobs_address
from visiondyno.errors import SpecError, Unavailable, VisionDynoError
from visiondyno.settings import Settings

_PLACEHOLDER = "docker.io/USER/visiondyno-worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for.

    Attributes:
        wanted: the endpoint; its image is set when it is known.
        image: `REPOSITORY`, or `REPOSITORY:TAG` of one that has been pushed; None: as before.
        context: folder of the sources; None: the checkout that the command runs in.
        build_args: `NAME=VALUE` for docker.
        is_quick: build only what changed, and try no training.
        is_dry: change nothing, show what would be sent.
        skips_test: don't try the worker here.
    """

    wanted: Wanted
    image: str | None
    context: Path | None
    build_args: tuple[str, ...]
    is_quick: bool
    is_dry: bool
    skips_test: bool


@dataclass(frozen=True, slots=True)
class _Image:
    """The image to deploy; `context`, where it must be built first; `sources`, where they are."""

    name: str
    repository: str
    context: Path | None = None
    sources: Path | None = None
    digest: str = ""


def deploy(request: Request, settings: Settings, steps: Steps) -> None:
    """Check, try, build, push, and have the endpoint; or show what would be done.

    Raises:
        VisionDynoError: a step failed; those before it are done, and a repetition goes on.
    """
    home = settings.folder
    recorded = latest(home, request.wanted.name)
    image = _image(request, recorded, home, steps)
    if BLOBS_URL in request.wanted.env:
        check_blobs_address(request.wanted.env)
    wanted = _completed(request.wanted, image.name, recorded)
    if request.is_dry:
        _show_plan(wanted, settings, steps)
        return
    must_build = _docker(image, steps)
    notes = _first_notes(wanted, settings, steps)
    _try(request, image, steps)
    if must_build:
        _build_and_push(image, request.build_args, home, steps)
    if settings.runpod_api_key is None:
        _show_plan(wanted, settings, steps)
        return
    try:
        deployed = _have_endpoint(wanted, settings, steps)
        record = _record(wanted, deployed, recorded)
        keep_deployment(home, record)
    except VisionDynoError:
        if must_build:
            steps.say(f"{image.name} is pushed: with --quick it isn't built again.")
        raise
    _say_notes(deployed, notes, steps)
    display.show_deployment(record)


def _image(request: Request, recorded: Deployment | None, home: Path, steps: Steps) -> _Image:
    repository = _repository(request, recorded)
    if request.image is not None and split_image(request.image)[1]:
        return _Image(request.image, repository)
    try:
        context = find_context(request.context, Path.cwd())
    except SpecError as error:
        if not request.is_dry:
            raise
        steps.say(error.message)
        return _Image(tagged(repository, time.time()), repository)
    digest = source_digest(context, request.build_args)
    pushed = find_image(home, repository) if request.is_quick else None
    if pushed is not None and pushed.source_digest == digest:
        return _Image(pushed.image, repository, sources=context / "src", digest=digest)
    return _Image(tagged(repository, time.time()), repository, context, context / "src", digest)


def _repository(request: Request, recorded: Deployment | None) -> str:
    if request.image is not None:
        repository = split_image(request.image)[0]
    elif recorded is not None:
        repository = split_image(recorded.image)[0]
    elif request.is_dry:
        return _PLACEHOLDER
    else:
        raise SpecError(
            "Nothing says where the image goes; name a repository that you may push to, such as "
            "--image docker.io/USER/visiondyno-worker."
        )
    if "/" not in repository:
        raise SpecError(
            f"'{repository}' names no user or registry, and RunPod pulls from one; give --image "
            f"docker.io/USER/{repository}."
        )
    return repository


def _completed(wanted: Wanted, image: str, recorded: Deployment | None) -> Wanted:
    recorded_id = recorded.endpoint_id if recorded is not None else None
    return replace(wanted, image=image, recorded_id=recorded_id)


def _docker(image: _Image, steps: Steps) -> bool:
    """Whether the image is to be built; then docker is there."""
    if image.context is None:
        return False
    with steps.step("Find docker"):
        Docker(lambda _: None).check()
    return True


def _first_notes(wanted: Wanted, settings: Settings, steps: Steps) -> list[str]:
    """Say what is known to be missing before minutes are spent on an image."""
    notes: list[str] = []
    if settings.runpod_api_key is None:
        notes = check_blobs_address(variables(wanted, {}))
        notes.append("No RUNPOD_API_KEY: the endpoint's settings come last, for the console.")
    elif not _is_there(wanted, settings, steps):
        notes = check_blobs_address(variables(wanted, {}))
    for sentence in notes:
        steps.say(sentence)
    return notes


def _is_there(wanted: Wanted, settings: Settings, steps: Steps) -> bool:
    """Whether the endpoint is there; a key that RunPod doesn't take is an error."""
    with steps.step("Ask RunPod") as step, _rest(settings) as rest:
        there = find_endpoint(rest, wanted)
        step.note = f"'{wanted.name}' is {'new' if there is None else there.get('id')}"
    return there is not None


def _say_notes(deployed: Deployed, said: list[str], steps: Steps) -> None:
    """What its variables lack, all of them now known."""
    try:
        notes = check_blobs_address(deployed.template.get("env") or {})
    except SpecError as error:
        notes = [error.message]
    for sentence in notes:
        if sentence not in said:
            steps.say(sentence)


def _try(request: Request, image: _Image, steps: Steps) -> None:
    title = "Try the worker here"
    if request.skips_test:
        steps.skip(title, "left out")
    elif image.sources is None:
        steps.skip(title, "the image was built elsewhere")
    else:
        with steps.step(title) as step:
            ran = try_handler(with_training=not request.is_quick, sources=image.sources)
            step.note = f"{' and '.join(ran)}, on the processor"


def _build_and_push(image: _Image, build_args: tuple[str, ...], home: Path, steps: Steps) -> None:
    assert image.context is not None
    with steps.step("Build") as step:
        Docker(step.tell).build(image.context, image.name, build_args)
        step.note = image.name
    with steps.step("Push") as step:
        Docker(step.tell).push(image.name)
    pushed = PushedImage(image=image.name, source_digest=image.digest, pushed_at=time.time())
    keep_image(home, image.repository, pushed)


def _have_endpoint(wanted: Wanted, settings: Settings, steps: Steps) -> Deployed:
    with steps.step("Endpoint") as step, _rest(settings) as rest:
        deployed = deploy_endpoint(rest, wanted)
        step.note = ", ".join(deployed.changes) or "all as it was"
    return deployed


def _show_plan(wanted: Wanted, settings: Settings, steps: Steps) -> None:
    url = checked_rest_url(settings.runpod_rest_url)
    if settings.runpod_api_key is None:
        calls = PlannedCalls(None)
        # Only what a new endpoint would be is known whole.
        deployed = deploy_endpoint(calls, replace(wanted, recorded_id=None))
        steps.say("Without RUNPOD_API_KEY nothing tells what is at RunPod already.")
    else:
        with _rest(settings) as rest:
            calls = PlannedCalls(rest)
            deployed = deploy_endpoint(calls, wanted)
    for sentence in check_blobs_address(deployed.template.get("env") or {}):
        steps.say(sentence)
    display.show_console_settings(console_settings(deployed.template, deployed.endpoint))
    if calls.requests:
        display.show_requests(url, calls.requests)
    else:
        steps.say("All is as wanted: nothing would be sent.")


def _rest(settings: Settings) -> RunPodRest:
    assert settings.runpod_api_key is not None
    return RunPodRest(settings.runpod_rest_url, settings.runpod_api_key.get_secret_value())


def _record(wanted: Wanted, deployed: Deployed, recorded: Deployment | None) -> Deployment:
    endpoint = deployed.endpoint
    gpus = wanted.gpus or gpus_of(endpoint.get("gpuTypeIds") or []) or _gpus_before(recorded)
    if not gpus:
        raise SpecError(
            f"The endpoint {endpoint.get('id')} has GPUs that no price is known of; say which it "
            "shall have with --gpu, such as A4000."
        )
    try:
        return Deployment(
            endpoint_id=str(endpoint["id"]),
            name=(wanted.endpoint_id and plain_name(endpoint)[0]) or wanted.name,
            image=wanted.image,
            gpu=dearest(gpus),
            gpus=gpus,
            workers_min=endpoint["workersMin"],
            workers_max=endpoint["workersMax"],
            idle_timeout_s=endpoint["idleTimeout"],
            execution_timeout_s=endpoint["executionTimeoutMs"] / 1000,
            deployed_at=time.time(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(
            f"RunPod's answer about the endpoint {endpoint.get('id')} lacks what is to be recorded "
            f"({type(error).__name__}); look at it in RunPod's console."
        ) from error


def _gpus_before(recorded: Deployment | None) -> tuple[str, ...]:
    return () if recorded is None else recorded.gpus or (recorded.gpu,)


def blob_variables(settings: Settings) -> dict[str, str]:
    """Blobs as this machine has them, for workers that are told of no others."""
    if settings.blobs_url is None:
        return {}
    found = {BLOBS_URL: settings.blobs_url}
    if settings.blobs_api_key is not None:
        found[BLOBS_KEY] = settings.blobs_api_key.get_secret_value()
    return found
