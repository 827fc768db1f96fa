"""What tests look at inside of the S3 endpoint: the one place that knows how it is built."""

from __future__ import annotations

from dataplane_testing.s3 import S3Endpoint
from dataplane_testing.s3.control import RemoteEngine


def process_id_of(endpoint: S3Endpoint) -> int:
    """The process that an endpoint runs in, if that is one of its own."""
    engine = endpoint._engine
    assert isinstance(engine, RemoteEngine)
    return engine._process.pid
