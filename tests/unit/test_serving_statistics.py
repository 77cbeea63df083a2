"""Statistics as Triton's extension has them; quotations are of its text."""

from visiondyno.serving.pool import Predicted
from visiondyno.serving.statistics import Statistics
from visiondyno.serving.wire import Answer, Item, Kind, Media, Stages

IMAGE, TENSORS = Item(Kind.IMAGE, b""), Item(Kind.TENSORS, b"")
STAGES = Stages(1.0, 2.0, 4.0, 8.0)


def answer(rows: int = 1, run: int = 0, stages: Stages = STAGES, status: int = 200) -> Answer:
    return Answer(status, Media.JSON, b"", stages, run, rows)


def predicted(one: Answer, total_ms: float = 20.0, queue_ms: float = 5.0) -> Predicted:
    return Predicted(one, queue_ms, total_ms, None)


def statistics() -> Statistics:
    return Statistics(lambda: 1_700_000_000.25)


def duration(count: int, ms: float) -> dict[str, int]:
    return {"count": count, "ns": round(ms * 1e6)}


def test_nothing_happened_yet() -> None:
    told = statistics().graph.as_json()
    assert told["last_inference"] == told["inference_count"] == told["execution_count"] == 0
    assert set(told["inference_stats"]) == {
        *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
        *("cache_hit", "cache_miss"),
    }
    assert all(one == duration(0, 0) for one in told["inference_stats"].values())
    assert told["batch_stats"] == []


def test_a_request_of_several_rows_counts_each() -> None:
    # "if a client sends a single inference request with batch size 64, "inference_count" will be
    # incremented by 64."
    found = statistics()
    one = answer(rows=64)
    found.batch_done([TENSORS], [one])
    found.request_done([TENSORS], [predicted(one)], 21.0)
    told = found.graph.as_json()
    assert told["inference_count"] == 64
    assert told["execution_count"] == 1
    assert told["last_inference"] == 1_700_000_000_250
    assert told["inference_stats"]["success"] == duration(1, 20)
    assert told["inference_stats"]["queue"] == duration(1, 5)
    assert told["inference_stats"]["compute_input"] == duration(1, 3)
    assert told["inference_stats"]["compute_infer"] == duration(1, 4)
    assert told["inference_stats"]["compute_output"] == duration(1, 8)
    assert told["batch_stats"] == [
        {
            "batch_size": 64,
            "compute_input": duration(1, 3),
            "compute_infer": duration(1, 4),
            "compute_output": duration(1, 8),
        }
    ]
    assert found.images.as_json()["inference_count"] == 0


def test_requests_that_share_a_run_are_one_execution() -> None:
    # "if a clients sends 64 individual requests each with batch size 1 and the dynamic batcher
    # batches them into a single large batch […] "execution_count" will be incremented by 1."
    found = statistics()
    answers = [answer() for _ in range(64)]
    found.batch_done([IMAGE] * 64, answers)
    for one in answers:
        found.request_done([IMAGE], [predicted(one)], 20.0)
    told = found.images.as_json()
    assert told["inference_count"] == 64
    assert told["execution_count"] == 1
    assert told["inference_stats"]["success"]["count"] == 64
    assert [one["batch_size"] for one in told["batch_stats"]] == [64]


def test_runs_of_one_batch_are_apart() -> None:
    found = statistics()
    slow = Stages(0.0, 0.0, 9.0, 0.0)
    found.batch_done([TENSORS] * 3, [answer(), answer(3, 1, slow), answer()])
    told = found.graph.as_json()
    assert told["execution_count"] == 2
    sizes = {one["batch_size"]: one["compute_infer"] for one in told["batch_stats"]}
    assert sizes == {2: duration(1, 4), 3: duration(1, 9)}


def test_a_request_over_several_batches_took_as_long_as_the_slowest() -> None:
    found = statistics()
    each = [predicted(answer(), 10.0, 1.0), predicted(answer(stages=Stages()), 30.0, 2.0)]
    found.request_done([IMAGE, IMAGE], each, 31.0)
    told = found.images.as_json()["inference_stats"]
    assert told["success"] == duration(1, 30)
    assert told["queue"] == duration(1, 2)
    assert told["compute_infer"] == duration(1, 4)


def test_failures_are_counted_with_their_time() -> None:
    # "The count and cumulative duration for all failed inference requests."
    found = statistics()
    refused = answer(rows=0, status=422)
    found.batch_done([IMAGE], [refused])
    found.request_done([IMAGE], [predicted(refused)], 7.0)
    found.request_done([IMAGE], None, 3.0)
    found.refused(1.0)
    told = found.images.as_json()
    assert told["inference_stats"]["fail"] == duration(3, 11)
    assert told["inference_stats"]["success"] == duration(0, 0)
    assert told["inference_count"] == told["execution_count"] == 0
    assert told["last_inference"] > 0
