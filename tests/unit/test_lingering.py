"""What lasts longer than a while is looked after once; what left before is not."""

import asyncio

from controlplane.loop.lingering import Lingering


async def test_only_what_stays_is_called_and_in_the_order_it_came() -> None:
    """One that left in time is never called; the others are, oldest first, each once."""
    lingering, called, last = Lingering(0.01), [], asyncio.Event()
    for name in ("stays", "leaves", "stays too"):
        lingering.enter(name, lambda name=name: called.append(name))
    lingering.enter("last", last.set)
    lingering.leave("leaves")

    await last.wait()

    assert called == ["stays", "stays too"]


async def test_it_begins_anew_after_it_was_empty() -> None:
    """The timer is set again for what comes after everything has left or was called."""
    lingering = Lingering(0.01)
    for _ in range(3):
        late = asyncio.Event()
        lingering.enter("gone", late.clear)
        lingering.leave("gone")
        lingering.enter("late", late.set)
        await late.wait()
        lingering.leave("late")


async def test_one_may_come_or_leave_while_another_is_called() -> None:
    """A callback changes who is in it without harm."""
    lingering, done, called = Lingering(0.01), asyncio.Event(), []

    def swap() -> None:
        lingering.leave("second")
        lingering.enter("third", done.set)

    lingering.enter("first", swap)
    lingering.enter("second", lambda: called.append("second"))

    await done.wait()

    assert called == []
