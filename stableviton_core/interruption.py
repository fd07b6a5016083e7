"""Ctrl-C and SIGTERM during a run: it ends at once, or where nothing is lost. Imports nothing
heavy, for the batch client stays small."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

INTERRUPTED = 130  # exit code of a stopped command, as shells have it for Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nStopping where nothing is lost. Once more: stop at once.\n"


def raise_interrupt_on_sigterm() -> None:
    """From here on SIGTERM raises KeyboardInterrupt, as Ctrl-C does. In the main thread only."""
    signal.signal(signal.SIGTERM, _raise_interrupt)


def _raise_interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@dataclass
class Interrupt:
    """requested: whether a signal to stop has come."""

    requested: bool = False


@contextmanager
def catch_interrupts() -> Iterator[Interrupt]:
    """In the block, the first signal only sets `requested`; a second one acts as it did before.
    Outside the main thread, where Python allows no handlers, signals act as before."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        interrupt.requested = True
        os.write(2, NOTICE)  # safe inside a signal handler, which print is not
        restore()

    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, note)
        yield interrupt
    finally:
        restore()


def ignore_interrupts(worker: int) -> None:
    """For a loader's process, which a signal to the whole run reaches, too, from a terminal, a
    launcher or a scheduler: the last step needs its batch. It ends with the run."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
