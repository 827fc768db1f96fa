"""Background maintenance of a large cache, in a process that uses it: usage and catalog.

After an unclean stop usage is reconciled (`disk.reconcile`), with half a core at most.
When so much was downloaded meanwhile that the count says little, another one is begun later, after
a pause that doubles each time, up to an hour: a cold epoch may go on for as long.

Every ten minutes one process of the host (CATALOG_BYTE) refreshes the catalog, with a fifth of a
core at most, while reads go on. A directory of a few thousand entries needs none: looking at all of
them takes a fraction of a second.

A refresh has counted what is there. Where the shared count of bytes in use is far above it, after
an allowance for downloads under way, and was so at the refresh before, that is what killed
processes had reserved and not given back: it is given back. Far below it is corrected alike.

One daemon thread, dp-catalog, started with the attachment to the directory and ended with it. It
holds no lock of this process while it works.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time

from dataplane.cache.disk import locks
from dataplane.cache.disk.reconcile import MANY_ENTRIES, estimated_entries
from dataplane.cache.disk.session import Session
from dataplane.cache.disk.throttle import Throttle
from dataplane.cache.eviction.catalog import Catalog
from dataplane.cache.maintenance.process_statistics import read_published
from dataplane.daemon_thread import DaemonThread
from dataplane.telemetry import logger

__all__ = ["BackgroundMaintenance"]

_FIRST_S = 5.0  # a process that ends sooner needs no maintenance
_LOOK_S = 60.0
_EVERY_S = 600.0
_SHARE = 0.2  # of a core
_COUNT_SHARE = 0.5
_MAX_PAUSE_S = 3600.0  # between counts that others made vague
_DRIFT_BYTES = 64 << 20
_JOIN_S = 10.0


class BackgroundMaintenance:
    """Background maintenance of one directory until `close`: usage and catalog.

    Args:
        session: session in the directory.
        under_way_bytes: most bytes that a process may have reserved for downloads at once.
    """

    def __init__(self, session: Session, under_way_bytes: int) -> None:
        self._session = session
        self._under_way_bytes = under_way_bytes
        self._catalog = Catalog(session.directory)
        self._stopped = threading.Event()
        self._pid = os.getpid()
        self._drift: int | None = None
        self._pause_s = 0.0
        self._count_from_s = 0.0  # by time.monotonic
        self._thread = DaemonThread(self._keep, name="dp-catalog")
        self._thread.start()

    def close(self) -> None:
        """End the work. Idempotent."""
        if self._pid != os.getpid():
            return
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_S)

    def is_due(self) -> bool:
        """Whether the directory is large and its catalog old."""
        if estimated_entries(self._session.directory) < MANY_ENTRIES:
            return False
        listed_ns = self._catalog.listed_ns()
        return listed_ns is None or not 0 <= time.time_ns() - listed_ns < _EVERY_S * 1e9

    def reconcile(self) -> None:
        """Count the bytes in use again, unless another process is at it or it was tried just now.

        Raises:
            OSError: the directory cannot be read.
        """
        session = self._session
        if time.monotonic() < self._count_from_s:
            return
        with locks.hold(session.directory.fd, locks.CATALOG_BYTE, wait=False) as held:
            if not held or not session.usage.uncounted:
                return
            done = session.reconcile(Throttle(self._stopped, _COUNT_SHARE))
        self._pause_s = 0.0 if done else min(_MAX_PAUSE_S, max(_LOOK_S, 2 * self._pause_s))
        self._count_from_s = time.monotonic() + self._pause_s

    def refresh(self) -> None:
        """Refresh the catalog and look at the count, unless another process is at it.

        Raises:
            OSError: the directory cannot be read.
            sqlite3.Error: the catalog cannot be written.
        """
        session = self._session
        with locks.hold(session.directory.fd, locks.CATALOG_BYTE, wait=False) as held:
            if not held:
                return
            before = session.usage.used
            done = self._catalog.refresh(session, stopped=self._stopped, share=_SHARE)
            if not self._stopped.is_set():
                self._correct(before, session.usage.used, done.disk_bytes)

    def _correct(self, before: int, after: int, counted: int) -> None:
        under_way = max(1, len(read_published(self._session))) * self._under_way_bytes
        drift = 0
        if min(before, after) - under_way > counted:
            drift = min(before, after) - under_way - counted
        elif max(before, after) < counted:
            drift = max(before, after) - counted
        last, self._drift = self._drift, drift
        if last is None or (last < 0) != (drift < 0):
            return
        lasting = min(last, drift, key=abs)
        if abs(lasting) > _DRIFT_BYTES:
            self._session.usage.add_used(-lasting)
            self._drift = None

    def _keep(self) -> None:
        wait_s = 0.0 if self._session.usage.uncounted else _FIRST_S
        while not self._stopped.wait(wait_s):
            wait_s = _LOOK_S
            try:
                if self._session.usage.uncounted:
                    self.reconcile()
                if self.is_due():
                    self.refresh()
            except (OSError, sqlite3.Error) as err:
                # The directory went, or the disk is full: reads have noticed by themselves.
                logger.debug("the catalog cannot be refreshed: %s", err)
