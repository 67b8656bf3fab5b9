"""Signals of the child process, on which the supervisor decides; what a task starts has defaults.

Ctrl-C, a service manager's SIGTERM and a batch system's warnings may reach every process.
"""

from __future__ import annotations

import faulthandler
import os
import signal

#: What may reach the child besides its supervisor.
_LEFT_ALONE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)


def leave_signals_to_the_supervisor() -> None:
    """Let signals pass without effect; processes that are forked or executed get Python's defaults.

    The handlers do nothing rather than be SIG_IGN, which an executed program would inherit.
    SIGUSR1 prints the stack: the supervisor sends it before it ends a trial that hangs, and it
    works even in C code that lets no other thread run.
    """
    faulthandler.register(signal.SIGUSR1)
    own = [number for number in _LEFT_ALONE if signal.getsignal(number) is not signal.SIG_IGN]
    for number in own:
        signal.signal(number, _do_nothing)
        signal.siginterrupt(number, False)  # C code need not know of EINTR

    # blocked around a fork: a signal that comes before the defaults are set is not lost
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, own)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, own)

    def set_defaults() -> None:
        faulthandler.unregister(signal.SIGUSR1)
        for number in own:
            if signal.getsignal(number) is _do_nothing:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
        unblock()

    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=set_defaults)


def _do_nothing(number: int, frame: object) -> None:
    """Let the signal pass."""
