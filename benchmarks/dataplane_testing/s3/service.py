"""What the operations work on, and the dispatch to them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dataplane_testing.s3.exchange import Request, Response
from dataplane_testing.s3.model import Limits
from dataplane_testing.s3.objects import ObjectFiles
from dataplane_testing.s3.replacements import Replacements
from dataplane_testing.s3.uploads import Uploads

__all__ = ["Operation", "Service"]


@dataclass(frozen=True, slots=True)
class Service:
    """The state of one endpoint that operations may touch. Each member is thread-safe."""

    files: ObjectFiles
    uploads: Uploads
    replacements: Replacements
    limits: Limits


Operation = Callable[[Service, Request], Response]


def all_operations() -> Mapping[str, Operation]:
    """Return every operation by S3's name of it."""
    from dataplane_testing.s3 import bucket_operations, object_operations, upload_operations

    return {
        **bucket_operations.OPERATIONS,
        **object_operations.OPERATIONS,
        **upload_operations.OPERATIONS,
    }
