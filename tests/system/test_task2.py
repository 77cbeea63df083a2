"""The built-in task scores the shipped depth model alike in each of its batch sizes."""

import asyncio
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from visiondyno import worker
from visiondyno.blobs.folder import FolderBlobs
from visiondyno.operations.context import OperationContext
from visiondyno.service.tasks import load_tasks

SHIPPED = Path(str(resources.files("visiondyno"))) / "shipped"


def scored(name: str, home: Path) -> dict[str, Any]:
    async def chunks() -> AsyncIterator[bytes]:
        yield (SHIPPED / f"{name}.onnx").read_bytes()

    sha256 = asyncio.run(FolderBlobs(home / "blobs").put(chunks()))
    job_input = {
        "operation": "score_submission",
        "task": load_tasks()["task2"].model_dump(mode="json", by_alias=True),
        "model": f"sha256:{sha256}",
    }
    return worker.run(job_input, OperationContext())


@pytest.mark.slow
def test_each_batch_size_gives_the_documented_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONDYNO_HOME", str(tmp_path))
    found = {name: scored(name, tmp_path) for name in ("depth-n", "depth-n-b8", "depth-n-b32")}
    batches = [one["description"]["batch_size"] for one in found.values()]
    assert batches == [None, 8, 32]
    splits = [one["splits"]["all"] for one in found.values()]
    assert {split["images"] for split in splits} == {96}
    scores = [split["score"] for split in splits]
    assert scores == pytest.approx([scores[0]] * 3, abs=1e-5)
    said = re.search(
        r"scores ([\d.]+) \(([\d.]+) to ([\d.]+)\)", load_tasks()["task2"].metric.formula
    )
    assert said is not None
    documented = [float(number) for number in said.groups()]
    assert [scores[0], splits[0]["low"], splits[0]["high"]] == pytest.approx(documented, abs=0.002)
