"""The service: state that the operations work on."""

from __future__ import annotations

from collections.abc import Callable
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
