"""Failures of a remote store's client, or of our own requests, as errors of ours.

Pure: it knows the location of a store, and nothing else of it.
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
    """Translator of the failures of one store.

    Attributes:
        location: location that the store's URL names.
        server: address of the server, where the user chose one.
        config: configuration of the store.
    """

    location: Location
    server: str
    config: StoreConfig

    def of(self, err: Exception, key: str, action: str) -> DataplaneError:
        """Translate a failure; raise the result from it.

        Args:
            err: exception of the client or of a request of our own.
            key: key of the object, below the store's URL; or the prefix that was listed.
            action: `read`, `write`, `list`, `describe` or `delete`.
        """
        if isinstance(err, DataplaneError):  # of our own making, such as a damaged CA bundle
            return err
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
