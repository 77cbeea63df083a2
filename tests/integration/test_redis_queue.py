"""The queue on Redis: its contract, and a Redis that is down, full, flushed or another's."""

import signal
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import redis

from contracts.queue_bench import (
    LEASE_S,
    RETENTION_S,
    Clock,
    OpenQueue,
    completed,
    job,
    rings,
    whole_feed,
)
from contracts.queue_contract import QueueContract
from services import RedisInstance, redis_server
from visiondyno.errors import SpecError, StorageFull, TransportDown
from visiondyno.executors.base import JobLost
from visiondyno.executors.queue import JobQueue
from visiondyno.executors.redis_queue import RedisQueue
from visiondyno.job import JobState, Policy

_NAMES = count(1)


class TestRedisQueue(QueueContract):
    @pytest.fixture
    def new_transport(self, redis_url: str) -> Callable[[], OpenQueue]:
        def make() -> OpenQueue:
            name = f"contract-{next(_NAMES)}"

            def open_queue(clock: Clock) -> JobQueue:
                return RedisQueue(redis_url, name=name, result_expiry_s=RETENTION_S, clock=clock)

            return open_queue

        return make


@pytest.fixture
def queue(redis_url: str) -> Iterator[RedisQueue]:
    queue = RedisQueue(redis_url)
    yield queue
    queue.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisInstance]:
    """One that a test may stop."""
    with redis_server(tmp_path / "redis") as instance:
        yield instance


def test_time_is_redis_own_without_a_clock(queue: RedisQueue) -> None:
    queue.put([job("late", policy=Policy(ttl_ms=1)), job("a")])
    while len(queue.events("late")) == 1:
        queue.sweep()
    assert queue.events("late")[-1].state == JobState.TIMED_OUT
    (claim,) = queue.claim(["w"], LEASE_S)
    assert 0 <= claim.delay_ms < 60_000
    assert queue.finish([completed(claim)]) == [True]


def calls(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_what_is_asked_together_is_one_round_trip(redis_url: str, queue: RedisQueue) -> None:
    queue.put([job("a"), job("b"), job("c"), job("d")])
    done, died = queue.claim(["v", "w"], LEASE_S)
    before = calls(redis_url)
    with queue.together():
        queue.report([(done, '{"done": 1}')])
        written = queue.finish([completed(done), completed(done)])
        with queue.together():
            queue.give_back(died, "It stops.", blameless=True)
        claims = queue.claim(["v", "w", "x"], LEASE_S)
        assert written == [True, False]
    assert [claim.job_id for claim in claims] == ["b", "c", "d"]
    assert calls(redis_url) == before + 1
    with queue.together():
        written = queue.finish([completed(claim) for claim in claims])
    assert written == [True, True, True]
    assert calls(redis_url) == before + 2


def test_what_is_asked_before_an_error_is_not_done(queue: RedisQueue) -> None:
    queue.put([job("a")])
    (claim,) = queue.claim(["w"], LEASE_S)

    def fail_within() -> None:
        with queue.together():
            queue.finish([completed(claim)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_within()
    assert len(queue.events("a")) == 2
    assert queue.finish([completed(claim)]) == [True]


def test_queues_of_two_names_are_apart(redis_url: str, queue: RedisQueue) -> None:
    other = RedisQueue(redis_url, name="other")
    queue.put([job("a")])
    assert other.claim(["w"], LEASE_S) == []
    assert other.known(["a"]) == set()
    other.close()


def test_redis_itself_forgets_ended_jobs_without_a_sweep(redis_url: str) -> None:
    queue = RedisQueue(redis_url, result_expiry_s=0.05)
    queue.put([job("ended"), job("open")])
    queue.cancel("ended")
    while queue.known(["ended", "open"]) != {"open"}:
        pass
    with pytest.raises(JobLost, match="ended"):
        queue.events("ended")
    queue.close()


def test_a_cursor_that_fell_off_the_feed_gets_what_there_is(redis_url: str) -> None:
    queue = RedisQueue(redis_url, feed_length=100)
    _, cursor = queue.feed(None)
    queue.put([job(f"job-{number}") for number in range(1000)])
    fed, _ = whole_feed(queue, cursor)
    assert 100 <= len(fed) < 1000
    assert [event.job_id for event in fed] == [f"job-{n}" for n in range(1000 - len(fed), 1000)]
    assert len(queue.events("job-0")) == 1
    queue.close()


def test_a_feed_goes_on_after_a_flush_and_leaves_out_the_forgotten(
    redis_instance: RedisInstance, redis_url: str
) -> None:
    queue = RedisQueue(redis_url, result_expiry_s=0.01)
    queue.put([job("before")])
    _, cursor = queue.feed(None)
    redis_instance.flush()
    assert queue.feed(cursor) == ([], cursor)
    queue.put([job("gone")])
    queue.cancel("gone")
    while queue.known(["gone"]):
        pass
    events, later = queue.feed(cursor)
    assert (events, later != cursor) == ([], True)
    queue.put([job("after")])
    assert [event.job_id for event in queue.feed(later)[0]] == ["after"]
    queue.close()


def test_large_answers_are_fed_in_parts(queue: RedisQueue) -> None:
    _, cursor = queue.feed(None)
    output = '{"model_state": "' + "x" * 5_000_000 + '"}'
    queue.put([job("a"), job("b")])
    claims = queue.claim(["v", "w"], LEASE_S)
    queue.finish([completed(claim, output) for claim in claims])
    parts = []
    while True:
        events, cursor = queue.feed(cursor)
        if not events:
            break
        parts.append(len(events))
    assert parts == [5, 1]


def test_the_script_is_loaded_anew_when_redis_forgot_it(redis_url: str, queue: RedisQueue) -> None:
    queue.put([job("a")])
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
    assert queue.known(["a"]) == {"a"}


def test_jobs_and_claims_survive_a_restart_and_a_kill(own_redis: RedisInstance) -> None:
    queue = RedisQueue(own_redis.url)
    queue.put([job("a"), job("b")])
    (claim,) = queue.claim(["w"], 3600)
    own_redis.restart()
    assert queue.finish([completed(claim)]) == [True]
    with redis.Redis.from_url(own_redis.url) as client:
        client.bgrewriteaof()  # what is in it now is on the disk
        while client.info("persistence")["aof_rewrite_in_progress"]:
            pass
    own_redis.kill()
    with pytest.raises(TransportDown, match=rf"127\.0\.0\.1:{own_redis.port} can't be reached"):
        queue.counts()
    own_redis.start()
    jobs = queue.counts().jobs
    assert (jobs[JobState.IN_QUEUE], jobs[JobState.COMPLETED]) == (1, 1)
    queue.close()


def test_a_bell_rings_again_after_a_restart_on_the_same_descriptor(
    own_redis: RedisInstance,
) -> None:
    queue = RedisQueue(own_redis.url)
    bell = queue.bell("events")
    descriptor = bell.fileno()
    own_redis.stop()
    own_redis.start()
    assert rings(bell), "it may have missed something while Redis was away"
    bell.drain()
    _, cursor = queue.feed(None)
    queue.put([job("a")])
    assert rings(bell)
    assert bell.fileno() == descriptor
    assert [event.job_id for event in queue.feed(cursor)[0]] == ["a"]
    bell.close()
    queue.close()


def test_a_bell_can_be_closed_while_redis_is_away(own_redis: RedisInstance) -> None:
    queue = RedisQueue(own_redis.url)
    bell = queue.bell("work")
    own_redis.stop()
    bell.close()
    with pytest.raises(TransportDown, match="can't be reached"):
        queue.bell("work")
    queue.close()


def test_a_full_redis_takes_no_job_and_loses_none(redis_url: str, queue: RedisQueue) -> None:
    queue.put([job("a")])
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StorageFull, match="out of memory or disk"):
                queue.put([job("b")])
        finally:
            client.config_set("maxmemory", "0")
    assert queue.known(["a", "b"]) == {"a"}


def test_a_replica_takes_no_writes_and_nothing_is_lost(own_redis: RedisInstance) -> None:
    queue = RedisQueue(own_redis.url)
    queue.put([job("a")])
    with redis.Redis.from_url(own_redis.url) as client:
        client.replicaof("127.0.0.1", 1)
        with pytest.raises(TransportDown, match="takes no writes"):
            queue.put([job("b")])
        client.replicaof("no", "one")
    assert queue.known(["a", "b"]) == {"a"}
    queue.close()


def test_a_redis_that_may_evict_jobs_is_refused(redis_url: str) -> None:
    queue = RedisQueue(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(SpecError, match=r"'allkeys-lru'.*'noeviction'"):
                queue.put([job("a")])
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    queue.put([job("a")])
    queue.close()


@pytest.mark.parametrize("user", ["", "nobody"])
def test_a_wrong_password_is_told_without_it(own_redis: RedisInstance, user: str) -> None:
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "right")
    for credentials in ("", f"{user}:s3cret@"):
        queue = RedisQueue(own_redis.url.replace("//", f"//{credentials}"))
        with pytest.raises(SpecError, match=rf"127\.0\.0\.1:{own_redis.port}") as raised:
            queue.put([job("a")])
        assert "s3cret" not in str(raised.value)
        queue.close()
    queue = RedisQueue(own_redis.url.replace("//", "//:right@"))
    queue.put([job("a")])
    queue.close()


def test_a_database_that_redis_has_not_is_told(redis_url: str) -> None:
    queue = RedisQueue(redis_url.removesuffix("0") + "99")
    with pytest.raises(SpecError, match="no database of that number"):
        queue.put([job("a")])
    queue.close()


@pytest.mark.parametrize("url", ["http://u:s3cret@h", "redis://u:s3cret@h:port", "s3cret", ""])
def test_a_url_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(SpecError, match="redis://HOST:6379/0") as raised:
        RedisQueue(url)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_what_is_no_redis_error_of_ours_is_not_hidden(redis_url: str, queue: RedisQueue) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set("{visiondyno}:place", "no number")
    with pytest.raises(redis.ResponseError, match="arithmetic"):
        queue.put([job("a")])


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """URL of a server that gives this answer to whatever it is asked; None: it hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while self.request.recv(65536) and answer is not None:
                self.request.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0?protocol=2"
        finally:
            server.shutdown()
            thread.join()


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TransportDown, "can't be reached"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", TransportDown, "answers soon"),
        (b"-MISCONF Errors writing to the AOF file\r\n", StorageFull, "memory or disk"),
        (bulk("redis_version:6.0.16\r\nredis_mode:standalone\r\n"), SpecError, r"6\.0\.16"),
    ],
    ids=["hangs-up", "loading", "disk-full", "too-old"],
)
def test_servers_that_cannot_serve_say_so(
    answer: bytes | None, error: type[Exception], message: str
) -> None:
    with answering(answer) as url:
        queue = RedisQueue(url)
        with pytest.raises(error, match=message):
            queue.put([job("a")])
        queue.close()


def test_a_server_that_never_answers_is_given_up(
    own_redis: RedisInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = RedisQueue(own_redis.url)
    queue.put([job("a")])
    monkeypatch.setattr("visiondyno.executors.redis_connection._ANSWER_S", 0.2)
    impatient = RedisQueue(own_redis.url)
    own_redis.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TransportDown, match="doesn't answer"):
            impatient.put([job("b")])
    finally:
        own_redis.process.send_signal(signal.SIGCONT)
    impatient.close()
    queue.put([job("b")])
    assert queue.known(["a", "b"]) == {"a", "b"}
    queue.close()
