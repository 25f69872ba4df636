"""States that an interrupted training goes on from: how often they are stored."""

import time
from collections.abc import Callable

from rspipe.training.fitting import State

CHECKPOINT_SECONDS = 5.0


def checkpointing(save: Callable[[State], None]) -> Callable[[State], None]:
    """Return a function to be called after each epoch, which saves the state where the last time is seconds ago."""
    saved = time.monotonic()

    def after_epoch(state: State) -> None:
        nonlocal saved
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            save(state)
            saved = time.monotonic()

    return after_epoch
