"""Delivers webhooks: signed after the Standard Webhooks specification, tried for a day.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: the
headers webhook-id, webhook-timestamp and webhook-signature, the last `v1,` and the base64 of
HMAC-SHA256 over `{id}.{timestamp}.{body}`. A receiver drops a delivery whose id it has seen.
"""

import asyncio
import base64
import binascii
import contextlib
import errno
import hashlib
import hmac
import logging
import os
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from visiondyno import __version__
from visiondyno.errors import SpecError, StorageFull, Unavailable
from visiondyno.service.recorder import Recorder
from visiondyno.settings import Settings
from visiondyno.store.base import WebhookStore
from visiondyno.store.records import WebhookRecord

SECRET_FILE = "webhook-secret"  # noqa: S105  # the name of the file, not the secret

_LOG = logging.getLogger(__name__)
_PREFIX = "whsec_"
_TIMEOUT_S = 10.0
_LOOK_S = 5.0
_AT_ONCE = 20
_DELAYS_S = (5.0, 60.0, 600.0, 3600.0, 3 * 3600.0, 8 * 3600.0, 12 * 3600.0)
"""Before the second attempt, the third …: eight attempts in a day and an hour."""


def retry_delay_s(failures: int, random_share: float) -> float | None:
    """Seconds until the next attempt after `failures` ≥ 1 of them; None: no more.

    `random_share`, 0 to 1, moves it by up to a fifth either way: deliveries that failed together
    don't come back together.
    """
    if failures > len(_DELAYS_S):
        return None
    return _DELAYS_S[failures - 1] * (0.8 + 0.4 * random_share)


def load_secret(settings: Settings) -> bytes:
    """The signing key: the setting's, or the one kept in `home`, made there at the first use.

    Raises:
        SpecError: the secret isn't `whsec_` and the base64 of 24 to 64 bytes, or its file can't be
            made or read.
    """
    if settings.webhook_secret is not None:
        return _decode(settings.webhook_secret.get_secret_value(), "The setting 'webhook_secret'")
    path = settings.folder / SECRET_FILE
    try:
        if not path.exists():
            _make_secret(path)
        text = path.read_bytes().decode("ascii", "replace")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StorageFull(
                f"There is no space for {path}; make some and start again."
            ) from error
        raise SpecError(
            f"The webhook secret in {path} can't be made or read ({error.strerror}); let this "
            "user do so, or set VISIONDYNO_WEBHOOK_SECRET."
        ) from error
    return _decode(text.strip(), f"The webhook secret in {path}")


def sign(secret: bytes, webhook_id: str, at: int, body: bytes) -> dict[str, str]:
    """The three headers of a delivery; `at` is seconds since the epoch."""
    text = f"{webhook_id}.{at}.".encode() + body
    signature = base64.b64encode(hmac.digest(secret, text, hashlib.sha256)).decode()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{signature}",
    }


class Webhooks:
    """The loop that delivers what the store says is due; it never holds up a job."""

    def __init__(
        self,
        store: WebhookStore,
        recorder: Recorder,
        secret: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._secret = secret
        self._clock = clock
        self._new = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to deliver."""
        self._loop = asyncio.create_task(self._deliver_always())

    def ring(self) -> None:
        """A job with a webhook has ended: look now."""
        self._new.set()

    async def close(self) -> None:
        """Stop; what was not delivered is due again when its claim lapses."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def deliver_due(self, client: httpx.AsyncClient) -> int:
        """Try every delivery that is due now, each once; how many there were."""
        due = await self._recorder.call(self._store.due, self._clock(), _AT_ONCE)
        await asyncio.gather(*(self._deliver(client, webhook) for webhook in due))
        return len(due)

    async def _deliver_always(self) -> None:
        # A redirect isn't followed: the specification counts it as a failure.
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client:
            while True:
                self._new.clear()
                try:
                    while await self.deliver_due(client):
                        pass
                except Unavailable as error:
                    _LOG.warning("Webhooks wait: %s", error.message)
                except Exception:
                    _LOG.exception("Webhooks wait")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._new.wait()

    async def _deliver(self, client: httpx.AsyncClient, webhook: WebhookRecord) -> None:
        body = webhook.body.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": f"visiondyno/{__version__}",
            **sign(self._secret, webhook.id, int(self._clock()), body),
        }
        try:
            # httpx limits each step; a receiver that drips would hold the whole for ever.
            async with (
                asyncio.timeout(_TIMEOUT_S),
                client.stream("POST", webhook.url, content=body, headers=headers) as answer,
            ):
                problem = None if answer.is_success else f"answered {answer.status_code}"
        except TimeoutError:
            problem = f"gave no answer within {_TIMEOUT_S:.0f} s"
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is None:
            await self._recorder.call(self._store.delivered, webhook.id)
            return
        delay_s = retry_delay_s(webhook.attempts + 1, random.random())  # noqa: S311 - no secret
        next_at = None if delay_s is None else self._clock() + delay_s
        await self._recorder.call(self._store.failed, webhook.id, next_at, problem[:500])


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    # Whole or not at all, and never readable by others: two servers may start at once.
    own = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        handle = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink(missing_ok=True)


def _decode(secret: str, what: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise SpecError(
            f"{what} must be '{_PREFIX}' and the base64 of 24 to 64 random bytes; leave it out, "
            "and one is made and kept."
        )
    return key
