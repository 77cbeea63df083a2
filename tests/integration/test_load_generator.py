"""Loads on real servers that answer: every request has its row, whatever form the answer has."""

import asyncio
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from answering_servers import OK, Handler, always, read_request, serving
from recording_factory import notes_of
from visiondyno.loadtest import timer
from visiondyno.loadtest.generator import run_round
from visiondyno.loadtest.progress import Progress
from visiondyno.loadtest.recording import Outcome, Recording
from visiondyno.loadtest.targets import USER_AGENT, prepare_target
from visiondyno.specs.load_test import ClosedLoad, ConstantLoad, Load, PoissonLoad, TargetSpec

ONE = ClosedLoad(concurrency=1, requests=1)
TEN = ClosedLoad(concurrency=1, requests=10)


def under_load(port: int, load: Load, *, host: str = "127.0.0.1", **options: Any) -> Recording:
    """One round; options of `run_round`, and of the target those that it has."""
    fields = {name: options.pop(name) for name in tuple(options) if name in TargetSpec.model_fields}
    target = prepare_target(TargetSpec(url=f"http://{host}:{port}/", **fields))
    return uvloop.run(run_round(target, load, **options))


def all_good(recording: Recording) -> bool:
    return bool(recording.having(Outcome.GOOD).all())


def test_an_open_loop_sends_each_request_after_its_moment_and_times_it_from_there() -> None:
    with serving(always(OK)) as port:
        recording = under_load(port, ConstantLoad(rate_per_s=200, duration_s=0.5))
    assert len(recording) == 100
    assert all_good(recording)
    assert np.diff(recording.scheduled_ns) == pytest.approx(5e6)
    assert recording.begun_ns is not None
    moments = np.stack(
        [
            *(recording.scheduled_ns, recording.begun_ns, recording.sent_ns),
            *(recording.first_byte_ns, recording.done_ns),
        ]
    )
    assert (np.diff(moments, axis=0) >= 0).all()
    assert (recording.status == 200).all()
    assert (recording.answer_bytes == 2).all()
    assert recording.connected[0]
    assert recording.elapsed_s >= 0.495
    assert recording.cpu_s > 0


def test_a_closed_loop_uses_one_connection_a_user() -> None:
    with serving(always(OK)) as port:
        recording = under_load(port, ClosedLoad(concurrency=3, requests=50))
    assert len(recording) == 50
    assert all_good(recording)
    assert recording.connected.sum() == 3
    assert (recording.lag_ms >= 0).all()


def test_users_of_a_closed_loop_think_and_end_with_the_duration() -> None:
    with serving(always(OK)) as port:
        load = ClosedLoad(concurrency=2, think_time_s=0.5, duration_s=3)
        recording = under_load(port, load)
    assert all_good(recording)
    assert 2 <= len(recording) <= 12
    spread_ns = recording.scheduled_ns.max() - recording.scheduled_ns.min()
    assert spread_ns < 3e9
    begins = np.sort(recording.scheduled_ns)
    assert (begins[2:] - begins[:-2] >= 0.5e9).all()  # each user pauses


def test_more_rows_than_were_foreseen_keep_what_was_recorded() -> None:
    with serving(
        always(OK.replace(b"\r\n\r\n", b"\r\nServer-Timing: total;dur=3\r\n\r\n"))
    ) as port:
        recording = under_load(port, ClosedLoad(concurrency=2, requests=5000))
    assert len(recording) == 5000
    assert all_good(recording)
    assert (recording.stages_ms["total"] == 3).all()
    assert (recording.done_ns > recording.scheduled_ns).all()


@pytest.mark.parametrize(
    ("answer", "closes", "body_bytes"),
    [
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False, 2),
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), True, 2),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", True, 13),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", True, 13),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, 0),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", False, 3),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, False, 2),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\nServer-Timing: x;dur=1\r\n\r\n" + OK, False, 2),
        (OK + OK, False, 2),
        (OK + b"garbage", False, 2),
    ],
    ids=[
        *("told-close", "close", "http10", "no-length", "no-content", "chunked"),
        *("continue", "early-hints", "two-answers", "garbage-after"),
    ],
)
def test_answers_of_every_form_are_whole(answer: bytes, closes: bool, body_bytes: int) -> None:
    with serving(always(answer, closes=closes)) as port:
        recording = under_load(port, TEN)
    assert all_good(recording)
    assert (recording.answer_bytes == body_bytes).all()
    assert (recording.first_byte_ns > 0).all()
    assert not recording.errors
    assert not recording.stages_ms


def test_an_answer_in_single_bytes_is_put_together() -> None:
    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            for byte in b"HTTP/1.1 103 Early\r\n\r\n" + OK:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.001)

    with serving(slowly) as port:
        recording = under_load(port, ClosedLoad(requests=3))
    assert all_good(recording)
    assert (recording.done_ns >= recording.first_byte_ns).all()
    assert recording.connected.sum() == 1


def test_a_head_request_has_no_body_whatever_its_answer_says() -> None:
    with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")) as port:
        recording = under_load(port, TEN, method="HEAD")
    assert all_good(recording)
    assert (recording.answer_bytes == 0).all()
    assert recording.connected.sum() == 1


def test_a_connection_that_is_asked_to_close_carries_one_request() -> None:
    with serving(always(OK)) as port:
        recording = under_load(port, TEN, headers={"Connection": "close"})
    assert all_good(recording)
    assert recording.connected.all()


def test_bodies_are_sent_in_turn_with_our_name(tmp_path: Path) -> None:
    images = [b"\xff\xd8\xff jpeg", b"\x89PNG\r\n\x1a\n png"]
    for number, image in enumerate(images):
        (tmp_path / f"{number}.bin").write_bytes(image)
    asked: list[tuple[bytes, bytes]] = []

    async def noting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            asked.append(request)
            writer.write(OK)

    with serving(noting) as port:
        assert all_good(under_load(port, TEN, images=(str(tmp_path),)))
    assert [body for _, body in asked] == images * 5
    assert all(f"User-Agent: {USER_AGENT}\r\n".encode() in head for head, _ in asked)
    assert b"Content-Type: image/png\r\n" in asked[1][0]


def test_what_the_target_tells_of_its_time_is_kept_by_stage() -> None:
    told = iter([b"queue;dur=1.5, total;dur=7", b"total;dur=8;desc=x", b"cache", b"total;dur=?"])

    async def telling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            line = b"\r\nServer-Timing: " + next(told) + b"\r\n\r\n"
            writer.write(OK.replace(b"\r\n\r\n", line))

    with serving(telling) as port:
        recording = under_load(port, ClosedLoad(requests=4))
    nan = float("nan")
    assert recording.stages_ms["queue"] == pytest.approx([1.5, nan, nan, nan], nan_ok=True)
    assert recording.stages_ms["total"] == pytest.approx([7, 8, nan, nan], nan_ok=True)
    assert set(recording.stages_ms) == {"queue", "total"}


@pytest.mark.parametrize("status", [302, 404, 500])
def test_another_status_is_counted_and_a_redirect_not_followed(status: int) -> None:
    answer = f"HTTP/1.1 {status} No\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".encode()
    with serving(always(answer)) as port:
        recording = under_load(port, TEN)
        expected = under_load(port, TEN, expect_status=(status,))
    assert recording.having(Outcome.BAD_STATUS).all()
    assert (recording.status == status).all()
    assert recording.errors == {f"HTTP {status}": 10}
    assert recording.connected.sum() == 1
    assert all_good(expected)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b'{"boxes": []}', None),
        (b'{"other": 1}', "the body is no JSON object with the key 'boxes'"),
        (b'["boxes"]', "the body is no JSON object with the key 'boxes'"),
        (b"boxes", "the body is no JSON"),
        (b"[" * 100_000, "the body is no JSON"),
        (b'{"boxes": "' + b"x" * 9_000_000 + b'"}', "the body is over 8 MiB"),
    ],
)
def test_a_body_without_the_expected_key_is_no_good_answer(body: bytes, why: str | None) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(always(head + body)) as port:
        recording = under_load(port, ONE, expect_json_key="boxes")
    assert recording.outcome[0] == (Outcome.GOOD if why is None else Outcome.BAD_BODY)
    assert [message.startswith(why or "") for message in recording.errors] == [True] * bool(why)
    assert recording.answer_bytes[0] == len(body)


def test_an_answer_before_the_whole_request_is_an_answer_and_ends_the_connection(
    tmp_path: Path,
) -> None:
    large = tmp_path / "body"
    large.write_bytes(bytes(20_000_000))

    async def refusing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.2)

    with serving(refusing) as port:
        recording = under_load(port, ClosedLoad(requests=2), body_file=str(large))
    assert recording.status.tolist() == [413, 413]
    assert recording.sent_ns.tolist() == [-1, -1]
    assert recording.connected.all()


def test_a_large_request_is_sent_when_its_last_byte_is(tmp_path: Path) -> None:
    large = tmp_path / "body"
    large.write_bytes(bytes(20_000_000))
    with serving(always(OK)) as port:
        recording = under_load(port, ClosedLoad(requests=2), body_file=str(large))
    assert all_good(recording)
    assert recording.begun_ns is not None
    assert (recording.begun_ns < recording.sent_ns).all()
    assert (recording.sent_ns <= recording.done_ns).all()


def test_progress_adds_up_and_what_it_raises_ends_the_round() -> None:
    told: list[Progress] = []
    with serving(always(OK)) as port:
        load = ConstantLoad(rate_per_s=100, duration_s=0.6)
        recording = under_load(port, load, on_progress=told.append)
        assert told[-1].total == told[-1].begun == told[-1].good == len(recording) == 60
        assert sum(len(progress.latencies_ms) for progress in told) == 60
        assert len(told) >= 2

        def interrupted(_: Progress) -> None:
            raise RuntimeError("the display is gone")

        with pytest.raises(RuntimeError, match="display"):
            under_load(port, load, on_progress=interrupted)


def test_a_loop_without_timerfd_sends_all_the_same_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timer, "_timerfd", lambda: None)
    monkeypatch.setattr(timer, "_prctl", lambda *_: None)
    with serving(always(OK)) as port:
        recording = under_load(port, ConstantLoad(rate_per_s=100, duration_s=0.2))
    assert all_good(recording)
    assert (recording.lag_ms >= 0).all()
    assert notes_of(recording) == {timer.IMPRECISE: 1}


def test_asyncios_own_loop_will_do() -> None:
    with serving(always(OK)) as port:
        target = prepare_target(TargetSpec(url=f"http://localhost:{port}/"))
        recording = asyncio.run(run_round(target, ConstantLoad(rate_per_s=100, duration_s=0.2)))
    assert all_good(recording)


def test_an_ipv6_address_is_reached() -> None:
    try:
        with serving(always(OK), host="::1") as port:
            assert all_good(under_load(port, TEN, host="[::1]"))
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_a_load_by_chance_empty_is_an_empty_recording() -> None:
    with serving(always(OK)) as port:
        recording = under_load(port, PoissonLoad(rate_per_s=0.001, duration_s=0.1))
    assert len(recording) == 0
    assert recording.elapsed_s == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def over_tls(certificate: tuple[Path, Path], handler: Handler, load: Load) -> Recording:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with serving(handler, tls=context) as port:
        target = prepare_target(TargetSpec(url=f"https://127.0.0.1:{port}/"))
        return uvloop.run(run_round(target, load))


def test_https_with_a_trusted_certificate(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    recording = over_tls(certificate, always(OK), ClosedLoad(requests=20))
    assert all_good(recording)
    assert (recording.sent_ns > 0).all()
    assert recording.connected.sum() == 1


def test_https_with_a_certificate_nobody_trusts_gets_no_request(
    certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    before_ns = time.monotonic_ns()
    recording = over_tls(certificate, always(OK), ClosedLoad(requests=2))
    assert recording.having(Outcome.CONNECT_FAILED).all()
    assert (recording.done_ns > before_ns).all()
    (why,) = recording.errors
    assert "the certificate isn't trusted" in why
