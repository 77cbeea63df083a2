"""Data that lie on the worker: MNIST by reference, and workers that open the same data at once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from visiondyno.datasets import registry
from visiondyno.datasets.idx import split_of
from visiondyno.datasets.idx_file import read_idx
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.worker_files import WorkerFiles

torch = pytest.importorskip("torch")

OPEN = """
import json, os, sys
from visiondyno.operations import prepared_images, sample_images
from visiondyno.operations.context import OperationContext
from visiondyno.operations.training_samples import open_samples
from visiondyno.operations.worker_files import WorkerFiles
import torch

decoded = []
real = prepared_images.decode_image

def counted(data, name):
    decoded.append(name)
    return real(data, name)

def told(event):
    if decoded and event.get("done") == int(os.environ.get("STOP_AT", -1)):
        print("half", flush=True)
        sys.stdin.read()

prepared_images.decode_image = counted
print("ready", flush=True)
sys.stdin.readline()
data = sys.argv[1]
files = WorkerFiles.of_this_worker()
opened = open_samples(data, None, "training_data", files, OperationContext(on_progress=told))
total = float(opened.samples.features(torch.arange(len(opened.samples))).sum())
print(json.dumps({"digest": opened.digest, "total": total, "decoded": len(decoded)}), flush=True)
"""


@pytest.fixture
def environment(tmp_path: Path, shared_testdata: Path) -> dict[str, str]:
    return {
        "VISIONDYNO_HOME": str(tmp_path / "home"),
        "VISIONDYNO_DATA": str(shared_testdata / "training"),
    }


def opening(environment: dict[str, str], reference: str, **more: str) -> subprocess.Popen[str]:
    """A process that waits for a line before it opens `reference`."""
    started = subprocess.Popen(
        [sys.executable, "-c", OPEN, reference],
        env=os.environ | environment | more,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    return started


def answers(*processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    texts = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(text) for text in texts]


def test_mnist_by_reference_is_the_split_that_is_promised(
    environment: dict[str, str], shared_testdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = shared_testdata / "training" / "mnist"
    images = read_idx(folder / "t10k-images-idx3-ubyte.gz", 3)
    labels = read_idx(folder / "t10k-labels-idx1-ubyte.gz", 1)
    files = WorkerFiles.of_this_worker()
    for split, count in (("train", 8000), ("test", 2000)):
        found = open_samples(f"mnist:{split}", None, "training_data", files, OperationContext())
        chosen = split_of(10_000, split)
        assert len(found.samples) == count
        pixels = found.samples.features(torch.arange(count)).numpy()
        assert np.array_equal(pixels, images[chosen][:, np.newaxis] / np.float32(255))
        assert np.array_equal(found.samples.labels.numpy(), labels[chosen])
        assert found.classes == tuple("0123456789")
        assert f"'{split}' is {count:,} of its 10,000 images, split by seed 0" in found.notes[0]
    # Neither this process nor another one opens the data set again.
    with monkeypatch.context() as patch:
        patch.setattr(registry, "open_folder", lambda *_: pytest.fail("opened again"))
        again = open_samples("mnist:test", None, "training_data", files, OperationContext())
    assert again.digest == found.digest
    [other] = answers(opening(environment, "mnist:test"))
    assert (other["digest"], other["decoded"]) == (found.digest, 0)


def test_workers_that_open_the_same_data_at_once_decode_them_once(
    environment: dict[str, str],
) -> None:
    processes = [opening(environment, "digits:train:300") for _ in range(2)]
    found = answers(*processes)
    assert len({(answer["digest"], answer["total"]) for answer in found}) == 1
    assert sorted(answer["decoded"] for answer in found) == [0, 300]


def test_what_a_killed_worker_left_half_done_is_made_anew(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opening(environment, "digits:train:200", STOP_AT="100")
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdin.write("go\n")
    first.stdin.flush()
    assert first.stdout.readline() == "half\n"
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    home = Path(environment["VISIONDYNO_HOME"])
    assert list(home.rglob("partial/**/pixels.bin")), "it was in the middle of it"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    files = WorkerFiles.of_this_worker()
    found = open_samples("digits:train:200", None, "training_data", files, OperationContext())
    assert sorted(set(found.samples.labels.tolist())) == list(range(10))
    assert len(found.samples) == 200
    assert len(list(home.rglob("pixels.bin"))) == 1, "and nothing is left of it"
