"""What the client of a remote store, or a request of our own, raised, as an error of ours.

Pure: it knows where a store is, and nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.errors import DataplaneError
from dataplane.stores.base import StoreConfig
from dataplane.stores.failures import from_obstore, from_reply
from dataplane.stores.http.failures import HttpFailure
from dataplane.stores.urls import Location

__all__ = ["RemoteFailures"]


@dataclass(frozen=True, slots=True)
class RemoteFailures:
    """Translates failures of one store.

    Attributes:
        location: what its URL names.
        server: the address of the server, where the user chose one.
        config: how it is reached.
    """

    location: Location
    server: str
    config: StoreConfig

    def of(self, err: Exception, key: str, action: str) -> DataplaneError:
        """Translate a failure; raise the result from it.

        Args:
            err: what was raised.
            key: the object's, below the store's URL; or the prefix that was listed.
            action: what was tried: `read`, `write`, `list`, `describe` or `delete`.
        """
        location = self.location
        where, bucket = (
            f"{location.url}/{key}".rstrip("/"),
            f"{location.scheme}://{location.bucket}",
        )
        if isinstance(err, HttpFailure):
            return from_reply(
                *(err.reply, where), bucket=bucket, action=action, server=self.server,
                config=self.config,
            )  # fmt: skip
        return from_obstore(
            *(err, where), bucket=bucket, action=action, server=self.server, config=self.config
        )
