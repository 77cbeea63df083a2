"""Settings of the server and its workers: flag > environment > `.env` > default; frozen."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from visiondyno.errors import SpecError
from visiondyno.telemetry.logs import LogFormat


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


class Settings(BaseSettings):
    """What `dyno up` and `dyno worker` run with; each field's environment variable is its alias.

    Attributes:
        home: the folder of everything kept: store, queue, blobs, logs.
        database_url: the store's; SQLite in `home` if None.
        blobs_url: `file:///…`, `s3://bucket/prefix`, `gs://…` or `http(s)://server/blobs`; a
            folder in `home` if None.
        blobs_api_key: for an `http(s)` address of blobs.
        blobs_quota_bytes: the folder's limit; None without one.
        cache_bytes: of what a worker keeps in `home` to save time: data, states, checkpoints.
        blobs_max_age_s: blobs that nothing refers to and nobody used for so long are collected.
        redis_url: the queue's; None for the local queue.
        host, port: where the server listens.
        endpoint: the name of the job API's endpoint.
        workers_min, workers_max: worker processes kept, and at most.
        idle_timeout_s: a worker above the minimum ends after so long without a job.
        gpu_memory_fraction: share of the GPU's memory for each worker.
        lease_s: how long a claim holds without renewal.
        max_attempts: of a job whose worker dies.
        execution_timeout_ms, ttl_ms: where a job's policy gives none (RunPod's defaults).
        result_expiry_s: how long the queue keeps an ended job; the store keeps it longer.
        require_keys: whether API keys are needed; None: only beyond loopback.
        cors_origins: origins that browsers may call from.
        rate_limit_per_minute: requests of one key (or address) a minute; 0 turns it off.
        max_upload_bytes, max_run_bytes, max_runsync_bytes: limits of request bodies.
        webhook_secret: signs webhooks; made and kept in `home` if None.
        runpod_endpoint_id, runpod_api_key: of the endpoint that a RunPod client names when told
            of no other.
        runpod_rest_url: where `dyno deploy runpod` makes and changes endpoints.
        tasks_dir: a folder of evaluation tasks (YAML) beside the built-in ones.
        log_format: of server and workers: `text` for people, `json` for programs.
        access_log: a line for each request goes to this file, or to standard output (`-`).
    """

    model_config = SettingsConfigDict(
        env_prefix="VISIONDYNO_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    home: Path = Path("~/.local/share/visiondyno")
    database_url: str | None = None
    blobs_url: str | None = None
    blobs_api_key: SecretStr | None = None
    blobs_quota_bytes: Annotated[int, Field(gt=0)] | None = None
    blobs_max_age_s: Annotated[float, Field(gt=0)] = 30 * 86400.0
    cache_bytes: Annotated[int, Field(gt=0)] = 10_000_000_000
    redis_url: str | None = None
    redis_host: Annotated[str | None, Field(validation_alias=_names("REDIS_HOST"))] = None
    redis_port: Annotated[int, Field(gt=0, lt=65536, validation_alias=_names("REDIS_PORT"))] = 6379
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, lt=65536)] = 8000
    endpoint: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "default"
    workers_min: Annotated[int, Field(ge=0, le=256)] = 1
    workers_max: Annotated[
        int,
        Field(ge=1, le=256, validation_alias=_names("VISIONDYNO_WORKERS_MAX", "WORKER_COUNT")),
    ] = 1
    idle_timeout_s: Annotated[float, Field(ge=0)] = 60.0
    worker_id: Annotated[str | None, Field(validation_alias=_names("WORKER_ID"))] = None
    gpu_memory_fraction: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            validation_alias=_names("VISIONDYNO_GPU_MEMORY_FRACTION", "GPU_MEMORY_FRACTION"),
        ),
    ] = None
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 10.0
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    execution_timeout_ms: Annotated[int, Field(gt=0)] = 600_000
    ttl_ms: Annotated[int, Field(gt=0)] = 86_400_000
    result_expiry_s: Annotated[
        float, Field(gt=0, validation_alias=_names("VISIONDYNO_RESULT_EXPIRY", "RESULT_EXPIRY"))
    ] = 3600.0
    require_keys: bool | None = None
    cors_origins: tuple[str, ...] = ()
    rate_limit_per_minute: Annotated[int, Field(ge=0)] = 600
    max_upload_bytes: Annotated[int, Field(gt=0)] = 500_000_000
    max_run_bytes: Annotated[int, Field(gt=0)] = 10_000_000
    max_runsync_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    webhook_secret: SecretStr | None = None
    runpod_endpoint_id: Annotated[
        str | None, Field(validation_alias=_names("RUNPOD_ENDPOINT_ID"))
    ] = None
    runpod_api_key: Annotated[
        SecretStr | None, Field(validation_alias=_names("RUNPOD_API_KEY"))
    ] = None
    runpod_rest_url: str = "https://rest.runpod.io/v1"
    tasks_dir: Path | None = None
    log_format: LogFormat = "text"
    access_log: str | None = None

    @property
    def folder(self) -> Path:
        """`home`, absolute."""
        return self.home.expanduser().resolve()

    @property
    def queue_url(self) -> str | None:
        """Redis' URL, or None for the local queue."""
        if self.redis_url is None and self.redis_host is not None:
            return f"redis://{self.redis_host}:{self.redis_port}/0"
        return self.redis_url

    @property
    def keys_required(self) -> bool:
        """Whether a request needs an API key."""
        loopback = self.host in {"127.0.0.1", "::1", "localhost"}
        return self.require_keys if self.require_keys is not None else not loopback


def load_settings(**flags: Any) -> Settings:
    """Settings with `flags` (None: not given) over the environment.

    Raises:
        SpecError: a value is wrong; the message names the variable or flag.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise SpecError(
            f"The setting '{place}' is wrong: {first['msg']}. Correct the flag or the variable."
        ) from error
