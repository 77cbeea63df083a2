"""How an inference server runs: flag > environment > default, frozen."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from visiondyno.errors import SpecError
from visiondyno.executors.scaling import ScaleLimits
from visiondyno.probes.kernel_files import usable_cpus_here
from visiondyno.telemetry.logs import LogFormat

_Megabytes = Annotated[float, Field(gt=0, le=10_000)]
_Share = Annotated[float, Field(ge=0, le=1)]


class ServingConfig(BaseSettings):
    """What `dyno serve` runs with. Environment variables are VISIONDYNO_SERVE_ and a field's name.

    Attributes:
        model: a model reference.
        name: what the model is called at `/v2/models/NAME`; made of the reference where empty.
        host, port: where it listens; the port also by `PORT`, as platforms of containers give it.
        grpc_port: of the Open Inference Protocol over gRPC; None: not served.
        replicas_least, replicas_most: processes that hold the model; 0 and more: to zero.
        idle_timeout_s: a replica above the least ends after so long without a request.
        device, threads, card: how the model is loaded; `threads` of each replica; None
            shares the processor out among the most replicas.
        max_batch: most images in one inference; None: 1 on the CPU, 8 elsewhere, or the model's
            own batch size where that is fixed.
        batch_delay_ms: how long an image may wait for others to share its inference with.
        queue: most images that wait; one more is a 429.
        time_limit_s: an answer that takes longer is a 504.
        max_body_mb: of a request, but a video.
        max_images: in one request.
        max_megapixels: of one image as it announces itself, before it is decoded.
        max_video_mb, max_video_frames: of a video.
        max_zip_mb, max_zip_images, max_zip_unpacked_mb: of a zip file of images.
        max_connections: open at once; one more is a 503.
        allow_url_hosts: hosts whose images may be named by URL; `public`: all that aren't inside.
        conf, iou, classes: what a request doesn't say; None: as the model's card has it.
        access_log: file of a line for each request; `-`: standard output; None: none.
        drain_s: how long requests may still take when the server is told to stop.
        keys_file: file of API keys, one a line; a request must bring one. None: none is asked for.
        cors_origins: pages of these sites may call from a browser; `*`: of all.
        log_format: `text` for people, `json` for programs.
        replicas: `N` or `LEAST-MOST` in place of the two.
    """

    model_config = SettingsConfigDict(
        env_prefix="VISIONDYNO_SERVE_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    model: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = ""
    host: str = "127.0.0.1"
    port: Annotated[
        int, Field(ge=0, lt=65536, validation_alias=AliasChoices("VISIONDYNO_SERVE_PORT", "PORT"))
    ] = 8080
    grpc_port: Annotated[int, Field(ge=0, lt=65536)] | None = None
    replicas_least: Annotated[int, Field(ge=0, le=256)] = 1
    replicas_most: Annotated[int, Field(ge=1, le=256)] = 1
    idle_timeout_s: Annotated[float, Field(ge=0)] = 60.0
    device: str = "cpu"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    card: Path | None = None
    max_batch: Annotated[int, Field(ge=1, le=1024)] | None = None
    batch_delay_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    time_limit_s: Annotated[float, Field(gt=0, le=86_400)] = 30.0
    max_body_mb: _Megabytes = 20.0
    max_images: Annotated[int, Field(ge=1, le=10_000)] = 32
    max_megapixels: Annotated[float, Field(gt=0, le=200)] = 50.0
    max_video_mb: _Megabytes = 200.0
    max_video_frames: Annotated[int, Field(ge=1, le=100_000)] = 300
    max_zip_mb: _Megabytes = 200.0
    max_zip_images: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_zip_unpacked_mb: _Megabytes = 1000.0
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 20_000
    allow_url_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    conf: _Share | None = None
    iou: _Share | None = None
    classes: Annotated[tuple[str, ...], NoDecode] = ()
    access_log: str | None = None
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    keys_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    log_format: LogFormat = "text"
    replicas: Annotated[str, Field(pattern=r"^(\d{1,3}-)?\d{1,3}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _split(cls, given: Any) -> Any:
        """Lists come from the environment as `a,b`, and the two numbers of replicas as one text."""
        least, dash, most = str(given.get("replicas") or "").partition("-")
        if least.isdigit() and (most.isdigit() or not dash):
            given.setdefault("replicas_least", int(least))
            given.setdefault("replicas_most", int(most or least))
        for name in ("allow_url_hosts", "classes", "cors_origins"):
            if isinstance(given.get(name), str):
                given[name] = tuple(part.strip() for part in given[name].split(",") if part.strip())
        return given

    @field_validator("allow_url_hosts")
    @classmethod
    def _names_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if "/" in host or "@" in host:
                raise ValueError(f"'{host}' is no host; name hosts, not URLs")
        return hosts

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.replicas_least > self.replicas_most:
            raise ValueError("the least number of replicas is more than the most")
        return self

    @property
    def scale(self) -> ScaleLimits:
        """The least and most replicas, and when an idle one ends."""
        return ScaleLimits(self.replicas_least, self.replicas_most, self.idle_timeout_s)

    @property
    def threads_each(self) -> int | None:
        """Threads of each replica; None on another device leaves the runtime its own default.

        Left to itself, every replica takes all cores, and they spin in each other's way.
        """
        if self.threads is not None or self.device != "cpu":
            return self.threads
        return max(1, usable_cpus_here() // self.replicas_most)

    @property
    def model_name(self) -> str:
        """`name`, or what the reference ends in, of the letters that a URL takes."""
        if self.name:
            return self.name
        last = self.model.rsplit(":", 1)[-1].rsplit("/", 1)[-1].removesuffix(".onnx")
        return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in last)

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 1e6)


def load_serving_config(**flags: Any) -> ServingConfig:
    """The configuration, with `flags` (None: not given) over the environment.

    Raises:
        SpecError: a value is wrong; the message names the variable or flag.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return ServingConfig(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        why = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise SpecError(
                "No model is given: name one (dyno serve visiondyno:street-n), or set "
                "VISIONDYNO_SERVE_MODEL."
            ) from error
        if not place:
            raise SpecError(
                f"The setting 'replicas' is wrong: {why}. Correct the flag, or the variable "
                "VISIONDYNO_SERVE_REPLICAS."
            ) from error
        # The port's is told by the variable's name, for it has two.
        place = place.partition(".")[0].removeprefix("VISIONDYNO_SERVE_").lower()
        raise SpecError(
            f"The setting '{place}' is wrong: {why}. "
            f"Correct the flag, or the variable VISIONDYNO_SERVE_{place.upper()}."
        ) from error
