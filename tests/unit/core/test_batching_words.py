"""What somebody who waits for a batch is told."""

import pytest

from controlplane.core.batching import Mode, rules_for
from controlplane.core.explain import Standing, waiting_sentence
from controlplane.core.plan import Wait, WaitKind

_WAIT = Wait(WaitKind.SLOT, "draw", "draw-0")


@pytest.mark.parametrize(
    ("mode", "busy", "position", "words"),
    [
        (Mode.CONTINUOUS, 8, 1, "position 1 of 3: all slots of draw-0 are busy (8 of 8), first in line"),
        (
            Mode.STEPS,
            8,
            3,
            "position 3 of 3: the batch of 8 on draw-0 is full (8 at the engine); it joins at the next free row"
            ", 2 ahead in line",
        ),
        (
            Mode.CALLS,
            5,
            1,
            "position 1 of 3: draw-0 computes a batch of 5; the next one starts when it ends, first in line",
        ),
        (
            Mode.CALLS,
            0,
            2,
            "position 2 of 3: draw-0 waits up to 0.05 s for others of the same size and settings, 1 ahead in line",
        ),
    ],
)
def test_the_wait_for_a_batch_in_words(mode: Mode, busy: int, position: int, words: str) -> None:
    """Each way to batch has its own reason, with the place in line."""
    rules = rules_for(mode, 8, 8, 0.05)
    standing = Standing(now=0.0, slots=8, busy=busy, waiting=3, position=position, batching=rules)
    assert waiting_sentence(_WAIT, standing) == words


def test_the_first_of_a_model_in_general() -> None:
    """Asked about the model as such, nobody's place is named."""
    standing = Standing(now=0.0, slots=2, busy=2, waiting=3, batching=rules_for(Mode.STEPS, 2, 2))
    assert waiting_sentence(_WAIT, standing).startswith("the batch of 2 on draw-0 is full (2 at the engine)")
