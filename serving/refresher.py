"""The thread that keeps a searcher at the newest version."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from index_format.errors import StorageError
from serving.faults import places_of
from serving.searcher import Searcher
from serving.snapshot import Snapshot

_log = logging.getLogger("colonnade.serving")
_STOP_SECONDS = 5.0  # to fetch a version takes longer than anybody waits for a server to end


class Refresher(threading.Thread):
    """Looks for a newer version every `period` seconds, and when told to, until stopped.

    on_swap is called with each snapshot that was swapped in, on_fault whenever looking failed.
    """

    def __init__(
        self,
        searcher: Searcher,
        period: float = 1.0,
        *,
        on_swap: Callable[[Snapshot], None] = lambda _: None,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="colonnade-refresher", daemon=True)
        self._searcher = searcher
        self._period = period
        self._on_swap = on_swap
        self._on_fault = on_fault
        self._stopping = False
        self._wanted = threading.Event()

    def run(self) -> None:
        while not self._stopping:
            self._wanted.wait(self._period)
            self._wanted.clear()
            if not self._stopping:
                self._look()

    def look_now(self) -> None:
        """Do not wait for the period to end: somebody knows of a newer version."""
        self._wanted.set()

    def stop(self) -> None:
        self._stopping = True
        self._wanted.set()
        self.join(_STOP_SECONDS)

    def _look(self) -> None:
        try:
            if self._searcher.refresh():
                self._on_swap(self._searcher.snapshot)
        except StorageError as error:
            _log.warning("cannot look for a newer version: %s", error)
            self._on_fault()
        except Exception as error:  # noqa: BLE001  # whatever it is, the next version must still be seen
            _log.error("looking for a newer version failed with %s", places_of(error))
            self._on_fault()
