"""Options of the training scripts, and what they show while they run."""

import argparse
import sys
from pathlib import Path

import torch

from model_training.optimisation import OnStep
from visiondyno.datasets.cache_folder import Progress

SHIPPED = Path(__file__).parents[2] / "src" / "visiondyno" / "shipped"
CACHE = Path.home() / ".cache" / "visiondyno"


def parse(parser: argparse.ArgumentParser, made: str, quick: str) -> argparse.Namespace:
    """Add the options that all have, parse, and get threads and output folder ready.

    Args:
        parser: with the script's own options, `--scenes` among them.
        made: what the script makes, in words.
        quick: what `--quick` does.
    """
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the scenes are kept")
    parser.add_argument("--quick", action="store_true", help=f"{quick}: a check only")
    options = parser.parse_args()
    if options.quick and options.out == SHIPPED:
        parser.error(f"--quick needs --out DIR: it must not replace the shipped {made}.")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    return options


def show_rendering(split: str) -> Progress:
    """Shows how many scenes of a split are rendered."""

    def show(done: int, total: int) -> None:
        print(f"\rrendering {split} scenes: {done} of {total}", end="", flush=True)
        if done == total:
            print()

    return show


def show_step(before: str, every: int) -> OnStep:
    """Shows each step on a terminal, and one of `every` elsewhere, with `before` in front."""

    def show(step: int, total: int, loss: float) -> None:
        if sys.stdout.isatty() or step % every == 0:
            end = "" if sys.stdout.isatty() else "\n"
            print(f"\r{before}step {step} of {total}, loss {loss:.3f}  ", end=end, flush=True)

    return show
