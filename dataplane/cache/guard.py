"""Guard of a cache directory: attaches to it at need, and leaves it alone when it fails.

When the directory cannot be used (missing, full, read-only, failing, of another version) there is
no attachment, with one warning, and reads go to the store; a circuit breaker says when the
directory is tried again (`disk.circuit_breaker`).

Thread-safe: one lock, held while one thread attaches and the others wait for it.
"""

from __future__ import annotations

import contextlib
import threading
from contextlib import AbstractContextManager

from dataplane.cache.attachment import Attachment
from dataplane.cache.closed import closed_error
from dataplane.cache.config import CacheConfig
from dataplane.cache.disk import unusable
from dataplane.cache.disk.circuit_breaker import CircuitBreaker
from dataplane.cache.disk.directory import link_failure
from dataplane.cache.entries.encryption import Sealer
from dataplane.cache.read.prefetch_buffer import PrefetchBuffer
from dataplane.errors import CacheError
from dataplane.telemetry import Counters, logger

__all__ = ["DirectoryGuard"]


class DirectoryGuard:
    """Guard of one cache's directory, which is attached to through it alone.

    Args:
        config: configuration of the cache.
        counters: counters to add to.
        sealer: encryption of blocks, or None.
        buffer: prefetch buffer of this process.
        warned: initial value of the attribute.

    Attributes:
        current: the attachment, whether or not the directory is left alone just now.
        warned: whether the one warning was given.
    """

    def __init__(
        self,
        config: CacheConfig,
        counters: Counters,
        sealer: Sealer | None,
        buffer: PrefetchBuffer,
        *,
        warned: bool = False,
    ) -> None:
        self._config = config
        self._counters = counters
        self._sealer = sealer
        self._buffer = buffer
        self._attach_lock = threading.Lock()
        self._breaker = CircuitBreaker()
        self.warned = warned
        self._closed = False
        self.current: Attachment | None = None

    def attached(self) -> Attachment | None:
        """Return the attachment, attaching first; None when the directory cannot be used.

        Raises:
            CacheError: the cache is closed.
        """
        attachment = self.current
        if attachment is not None and not self._breaker.is_on():
            return attachment
        if self._closed:
            raise closed_error()
        if not self._breaker.is_due():
            return None
        with self._attach_lock:
            if self._closed:  # meanwhile: nobody would leave the directory again
                raise closed_error()
            if self.current is not None and not self._breaker.is_on():
                return self.current
            if not self._breaker.is_due():
                return None
            return self._attach_locked()

    def slot_at(self, store: str) -> AbstractContextManager[None]:
        """Return a context in which one request may be made to a store, by its identity."""
        attachment = self.current
        return (
            attachment.host_semaphore.at(store)
            if attachment is not None
            else contextlib.nullcontext()
        )

    def on_disk_error(self, err: Exception) -> None:
        """Leave the directory alone for a while, since it failed."""
        self._breaker.begin()
        if isinstance(err, OSError):
            err = link_failure(err, self._config.dir) or err
        text = f"cannot use the cache directory {self._config.dir}: {err}"
        if unusable.is_news(self._config.dir):
            self.warn_once(text)
        else:
            logger.debug("%s", text)

    def on_no_room(self) -> None:
        """Warn that nothing could be evicted for a block."""
        size = self._config.size_bytes
        limit = "a tenth of the disk must stay free" if size is None else f"{size} bytes are full"
        self.warn_once(f"the cache {self._config.dir} has no room for a block: {limit}")

    def warn_once(self, text: str) -> None:
        """Log a warning; all but the first go to the debug log."""
        if self.warned:
            logger.debug("%s", text)
            return
        self.warned = True
        logger.warning("%s; reading from the store instead", text)

    def refuse(self) -> None:
        """Attach no more: the cache is closed."""
        self._closed = True

    def end_waits(self) -> None:
        """Let every request go that waits for a slot: it must not be waited for."""
        with self._attach_lock:
            attachment = self.current
        if attachment is not None:
            attachment.host_semaphore.close()

    def close(self) -> None:
        """Leave the directory. Idempotent."""
        with self._attach_lock:
            attachment, self.current = self.current, None
        if attachment is not None:
            attachment.close()

    def _attach_locked(self) -> Attachment | None:
        """Attach to the directory, or again when it is no longer the one that was opened."""
        old = self.current
        try:
            if old is not None and not old.session.directory.is_current():
                old.close()
                old = None
            if old is None:
                old = Attachment.to(self._config, self._counters, self._sealer, self._buffer)
        except (OSError, CacheError) as err:
            self.current = None
            self.on_disk_error(err)
            return None
        self.current = old
        self._breaker.end()
        unusable.forget(self._config.dir)
        return old
