"""Train a module of your own somewhere else, and load the result into it here.

    python train_remote.py                                  # in this process
    python train_remote.py local                            # worker processes of this machine
    python train_remote.py http://gpu-box:8000 KEY          # a server started with `dyno up`
    python train_remote.py https://api.runpod.ai/v2/ID KEY  # a RunPod endpoint
                                                            # (and VISIONDYNO_BLOBS_URL)

The worker needs neither this file nor the class in it: what travels is the exported program, once,
and the data, once.
"""

import sys

import numpy as np
import torch
from torch import nn

from visiondyno import Client, Trainer, VisionDynoError

EPOCHS = 5


class Branches(nn.Module):
    """Two views of a point, added: something no list of layers says."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
        self.straight = nn.Linear(2, 2)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Scores of two classes for points of shape (batch, 2)."""
        return self.wide(points) + self.straight(points)


def rings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points within a circle, and around it: features (count, 2) float32, labels 0 and 1."""
    noise = np.random.default_rng(seed)
    labels = noise.integers(0, 2, count)
    angle, radius = noise.uniform(0, 2 * np.pi, count), noise.normal(1 + labels, 0.15)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return points.astype(np.float32), labels


def main(where: str = "inline", api_key: str | None = None) -> int:
    """Train, score, and use the module here."""
    torch.manual_seed(0)
    module = Branches()
    train, held_out = rings(2000, seed=1), rings(500, seed=2)
    try:
        with Client(where, api_key=api_key) as client:
            trainer = Trainer(client, progress=True)
            state, history = trainer.train_model(
                module, train, held_out, {"learning_rate": 0.01}, epochs=EPOCHS, seed=0
            )
    except VisionDynoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for record in history:
        loss, accuracy = (record["val_metrics"][name] for name in ("loss", "accuracy"))
        print(f"epoch {record['epoch']}: val_loss {loss:.4f}, val_accuracy {accuracy:.3f}")
    state.load_into(module)
    state.save("rings.safetensors")
    with torch.no_grad():
        answers = module.eval()(torch.from_numpy(held_out[0])).argmax(1).numpy()
    print(f"right here: {np.mean(answers == held_out[1]):.3f} of {len(answers)} points")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
