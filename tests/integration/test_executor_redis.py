"""The executor on Redis keeps the executor contract, with real supervised processes."""

import pytest
import redis

from contracts.executor_contract import ExecutorContract
from visiondyno.executors.supervised import SupervisedExecutor
from worker_entries import one_worker_on


class TestRedisExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def an_empty_redis(self, redis_url: str) -> None:
        def make() -> SupervisedExecutor:
            return one_worker_on(redis_url)

        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
        type(self).make_executor = staticmethod(make)
