"""What is done last, whatever has gone wrong before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable


class LastSteps:
    """Steps of which each is tried, whatever becomes of the others; after Ctrl-C they go on where they were.

    A step that is interrupted is called again at once, so that one Ctrl-C does not cost what is nearly done. It may be
    called once more after it was carried out, when Ctrl-C comes just then.

    Parameters
    ----------
    on_error : callable
        Called with what a step raises; not with Ctrl-C.
    """

    def __init__(self, on_error: Callable[[BaseException], None]) -> None:
        self._on_error = on_error
        self._left: deque[Callable[[], None]] | None = None  # those that are still to be done

    @property
    def known(self) -> bool:
        """Whether :meth:`take` was called."""
        return self._left is not None

    def take(self, steps: Iterable[Callable[[], None]]) -> None:
        """Say what there is to do; only once."""
        self._left = deque(steps)

    def carry_out(self) -> BaseException | None:
        """Do what is left to do, and return the first interruption, or one that ends the interpreter.

        Raises
        ------
        BaseException
            If a step is interrupted twice: it and those after it are still to be done.
        """
        first = None
        while self._left:
            interrupted = self._do(self._left[0])
            self._left.popleft()  # not before: it is done only now
            if first is None or isinstance(interrupted, SystemExit):  # an exit matters more than Ctrl-C
                first = interrupted
        return first

    def _do(self, step: Callable[[], None]) -> BaseException | None:
        interrupted: BaseException | None = None
        while True:
            try:
                step()
            except Exception as error:  # noqa: BLE001  raised by whoever closes, after everything was tried
                self._on_error(error)
            except BaseException as error:  # Ctrl-C: raised by whoever closes, too
                if isinstance(interrupted, SystemExit):
                    raise interrupted from None  # as below; an exit matters more than the Ctrl-C after it
                if interrupted is not None:
                    raise  # whoever asks twice does not want to wait
                interrupted = error
                continue
            return interrupted
