"""Try several architectures on one data set, and keep the best one's weights.

    python architectures.py                    # in this process
    python architectures.py local              # worker processes of this machine
    python architectures.py http://host:8000   # a server started with `dyno up`

The data set is named, not sent: each job carries less than a kilobyte of it.
"""

import sys

from visiondyno import Client, ModelState, Trainer, VisionDynoError

SAMPLES = {"image_size": 16, "mean": [0.5], "std": [0.25]}
TRAIN = {"data": "digits:train:1500", **SAMPLES}
HELD_OUT = {"data": "digits:val:300", **SAMPLES}
HYPERPARAMETERS = {"optimizer": "adamw", "learning_rate": 0.003, "batch_size": 32}
EPOCHS = 5


def mlp(width: int) -> dict:
    """One hidden layer."""
    return {
        "type": "sequential",
        "layers": [
            {"type": "flatten"},
            {"type": "linear", "in_features": 16 * 16, "out_features": width},
            {"type": "relu"},
            {"type": "linear", "in_features": width, "out_features": 10},
        ],
    }


def cnn(channels: int) -> dict:
    """Two convolutions, each halving the image."""
    layers: list[dict] = []
    for inputs, outputs in ((1, channels), (channels, 32)):
        layers += [
            {"type": "conv2d", "in_channels": inputs, "out_channels": outputs, "kernel_size": 3},
            {"type": "batch_norm2d", "num_features": outputs},
            {"type": "relu"},
            {"type": "max_pool2d", "kernel_size": 2},
        ]
    head = [{"type": "flatten"}, {"type": "linear", "in_features": 128, "out_features": 10}]
    return {"type": "sequential", "layers": [*layers, *head]}


ARCHITECTURES = {"mlp-32": mlp(32), "mlp-128": mlp(128), "cnn-8": cnn(8)}


def main(where: str = "inline", api_key: str | None = None) -> int:
    """Train each, print its score, and save the best."""
    scores: dict[str, tuple[float, ModelState]] = {}
    try:
        with Client(where, api_key=api_key) as client:
            trainer = Trainer(client)
            for name, config in ARCHITECTURES.items():
                state, history = trainer.train_model(
                    config, TRAIN, HELD_OUT, HYPERPARAMETERS, epochs=EPOCHS, seed=0
                )
                scores[name] = history[-1]["val_metrics"]["accuracy"], state
                print(f"{name}: accuracy {scores[name][0]:.3f}, {state.size_bytes:,} bytes")
    except VisionDynoError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    best = max(scores, key=lambda name: scores[name][0])
    scores[best][1].save(f"{best}.safetensors")
    print(f"Best: {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
