"""Stop after a step when the system asks a process to end, as schedulers do."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from causalseg.errors import END_SIGNALS


class StopRequest:
    """Notes SIGTERM and SIGHUP while it is entered; does nothing in other threads than the main.

    Attributes:
        number: of the signal that came, 0 before.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in END_SIGNALS}
            ignored = (signal.SIG_IGN, None)  # as nohup does, and what is no handler of Python
            self._before = {n: each for n, each in handlers.items() if each not in ignored}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
