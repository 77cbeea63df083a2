"""What states cost on the way: ten epochs on a worker, beside base64 of `torch.save` both ways.

Ten epochs of torchvision's ResNet-18 and EfficientNet-B0 (10 classes, 64×64 images, from a blob
that is uploaded once), in five ways (`state_arms`):

- `base64_torch_save`, the peer: plain torch; each epoch the whole state goes up and down in JSON
  as base64 of `torch.save`, as simple remote trainers do it.
- `train`: all epochs in one job.
- `train_epoch`: ten jobs; requests name the state the worker keeps, answers are lossless deltas.
- `train_epoch_bf16`, `train_epoch_int8_delta`: the same, answers rounded, with error feedback.

Bytes are those of all requests, answers, progress events and blobs, up and down; they are exact.
Seconds are of client and worker in this process, without a network, on one thread. That the weights
of `train` and of `train_epoch` are plain torch's, bit by bit, is asserted in each round.

- `bytes_saved_ratio`: the peer's bytes over those of `train`, of the model with the lower one.
- `MODEL_bytes_saved_ratio_WAY`, `MODEL_seconds_ratio_WAY`: by model and way; seconds over the
  peer's.
- `MODEL_held_out_*`: loss and accuracy on images that nobody trained on, lossy less lossless; each
  round has another seed.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from record import Figure, Ratio, record
from state_arms import (
    CLASSES,
    EPOCHS,
    HELD_OUT,
    LEARNING_RATE,
    SIDE,
    THREADS,
    Spent,
    Subject,
    Wire,
    base64_pickles,
    digest,
    epoch_jobs,
    measured,
    one_train_job,
    scored,
)
from visiondyno.probes.quiet import QuietMonitor
from visiondyno.state import State

PAIRS, LOSSY_ROUNDS = 5, 2
TARGET = 5.0
PEER = "base64_torch_save"
SUBJECTS = (
    Subject("resnet18", samples=32, batch_size=8, contrast=0.35),
    Subject("efficientnet_b0", samples=40, batch_size=4, contrast=1.0),
)
Way = Callable[[Subject, Wire, str], tuple[State, float]]
LOSSLESS: dict[str, Way] = {
    PEER: base64_pickles,
    "train": one_train_job,
    "train_epoch": epoch_jobs(),
}
LOSSY: dict[str, Way] = {
    "train_epoch_bf16": epoch_jobs("bf16"),
    "train_epoch_int8_delta": epoch_jobs("int8-delta"),
}

Round = dict[str, Spent]


def one_round(subject: Subject, number: int, ways: Mapping[str, Way]) -> Round:
    """Each way once, the first one changing from round to round; checks the lossless ones."""
    names = list(ways)
    turn = number % len(names)
    spent = {name: measured(ways[name], subject) for name in names[turn:] + names[:turn]}
    plain = digest(spent[PEER].weights)
    for name in LOSSLESS:
        assert digest(spent[name].weights) == plain, f"{name} isn't plain torch: {subject}"
    return spent


def ratios_of(model: str, rounds: Sequence[Round]) -> dict[str, Ratio]:
    """Bytes saved by each way, and seconds beside the peer's of those that took turns with it."""
    found = {}
    for name in [*list(LOSSLESS)[1:], *LOSSY]:
        both = [(spent[PEER], spent[name]) for spent in rounds if name in spent]
        found[f"{model}_bytes_saved_ratio_{name}"] = Ratio(
            [(peer.bytes_both_ways, ours.bytes_both_ways) for peer, ours in both],
            "bytes",
            f"bytes of {PEER} over those of {name}, {EPOCHS} epochs",
            f"at least {TARGET:g}" if name == "train" else "none",
        )
        found[f"{model}_seconds_ratio_{name}"] = Ratio(
            [(ours.seconds, peer.seconds) for peer, ours in both],
            "s",
            f"seconds of {name} over those of {PEER}, {EPOCHS} epochs, without a network",
            "none",
        )
    return found


def effects_of(subject: Subject, rounds: Sequence[Round]) -> dict[str, Figure]:
    """What rounding does to held-out loss and accuracy, and the lossless ones themselves."""
    with_lossy = [
        (seed, spent) for seed, spent in enumerate(rounds) if LOSSY.keys() <= spent.keys()
    ]
    scores: dict[str, list[tuple[float, float]]] = {}
    for seed, spent in with_lossy:
        seeded = replace(subject, seed=seed)
        for name in ("train_epoch", *LOSSY):
            scores.setdefault(name, []).append(scored(seeded, spent[name].weights))
    exact = scores["train_epoch"]
    found = {}
    for index, metric in enumerate(("loss", "accuracy")):
        key = f"{subject.model}_held_out_{metric}"
        found[f"{key}_lossless"] = Figure(
            [score[index] for score in exact], "1", f"{metric} on {HELD_OUT} held-out images"
        )
        for name in LOSSY:
            found[f"{key}_change_{name}"] = Figure(
                [one[index] - other[index] for one, other in zip(scores[name], exact, strict=True)],
                "1",
                f"{metric} of {name} less the lossless one, same seed",
            )
    return found


def facts_of(rounds: Sequence[Round]) -> dict[str, dict[str, Any]]:
    """Bytes and seconds of each way, and how far its weights are from plain torch's."""
    facts = {}
    for name in [*LOSSLESS, *LOSSY]:
        spent = [(one[name], one[PEER]) for one in rounds if name in one]
        ours = [mine for mine, _ in spent]
        facts[name] = {
            "bytes_up": ours[0].bytes_up,
            "bytes_down": ours[0].bytes_down,
            "seconds_median": round(statistics.median(one.seconds for one in ours), 3),
            "rounds": len(ours),
            "weights_identical_to_plain_torch": all(
                digest(mine.weights) == digest(plain.weights) for mine, plain in spent
            ),
            "weights_max_abs_difference": max(
                _difference(mine.weights, plain.weights) for mine, plain in spent
            ),
            "answer_max_abs_error": max(one.largest_rounding for one in ours),
        }
    return facts


def _difference(one: State, other: State) -> float:
    return max(
        float(np.abs(one[name].astype(np.float64) - other[name].astype(np.float64)).max(initial=0))
        for name in one
    )


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description="What model states cost on the way.")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="rounds; the lossy ways have 2")
    pairs = parser.parse_args().pairs
    monitor = QuietMonitor()
    monitor.start()
    ratios: dict[str, Ratio] = {}
    figures: dict[str, Figure] = {}
    facts: dict[str, dict[str, Any]] = {}
    for subject in SUBJECTS:
        rounds = [
            one_round(
                replace(subject, seed=number),
                number,
                LOSSLESS | LOSSY if number < LOSSY_ROUNDS else LOSSLESS,
            )
            for number in range(pairs)
        ]
        ratios |= ratios_of(subject.model, rounds)
        figures |= effects_of(subject, rounds)
        facts |= {f"{subject.model} {name}": found for name, found in facts_of(rounds).items()}
    saved = [ratios[f"{subject.model}_bytes_saved_ratio_train"] for subject in SUBJECTS]
    lowest = {"bytes_saved_ratio": min(saved, key=lambda ratio: ratio.median)}
    settings = {
        "models": {
            subject.model: {"samples": subject.samples, "batch_size": subject.batch_size}
            for subject in SUBJECTS
        },
        "images": f"{SIDE}x{SIDE}, {CLASSES} classes, synthetic",
        "epochs": EPOCHS,
        "optimizer": "adam",
        "learning_rate": LEARNING_RATE,
        "threads": THREADS,
        "lossy_rounds": min(pairs, LOSSY_ROUNDS),
        "peer": "plain torch, base64 of torch.save in JSON both ways each epoch",
    }
    record("state", lowest | ratios, settings, monitor, figures, facts)


if __name__ == "__main__":
    main()
