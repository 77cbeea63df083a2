"""Scenes rendered into a cache folder, by as many processes as wanted."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from visiondyno.errors import SpecError

MOST_SCENES = 100_000
"""The names of images have five digits."""

Split = Literal["train", "val", "demo"]
SPLITS: tuple[Split, ...] = ("train", "val", "demo")
"""Their order is part of the street scenes' seeds."""

Chunk = tuple[Path, Split, int, int]
"""Scenes to render: their folder, their split, the first, and the one after the last."""
Rendered = TypeVar("Rendered")


def check_scenes(what: str, split: str, count: int) -> None:
    """Refuse what no set of scenes has.

    Args:
        what: the scenes in words, for messages.
        split: any of `SPLITS`.
        count: how many scenes.

    Raises:
        SpecError: an unknown split, or a count outside 1–100,000.
    """
    if split not in SPLITS:
        raise SpecError(
            f"{what.capitalize()} have no split '{split}': choose one of {', '.join(SPLITS)}."
        )
    if not 1 <= count <= MOST_SCENES:
        raise SpecError(f"{count} {what} can't be rendered: ask for 1 to {MOST_SCENES}.")


def render_in_chunks(
    render: Callable[[Chunk], Rendered], scenes: Chunk, size: int, processes: int
) -> Iterator[Rendered]:
    """Render `size` scenes at a time; gives what `render` answered to each chunk, in order.

    Args:
        render: a module's function, since other processes import it.
        scenes: all of them.
        size: of a chunk; the last may be smaller.
        processes: how many render; 1 is this one.
    """
    folder, split, first, end = scenes
    chunks = [(folder, split, start, min(end, start + size)) for start in range(first, end, size)]
    if processes <= 1:
        yield from map(render, chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(render, chunks)
