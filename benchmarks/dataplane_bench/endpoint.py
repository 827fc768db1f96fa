"""The embedded endpoint of a benchmark, with TLS or without, and the variables that lead to it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from dataplane_testing.certificates import Authority
from dataplane_testing.environment import exported
from dataplane_testing.s3 import S3Endpoint

__all__ = ["start_endpoint"]


def start_endpoint(
    stack: ExitStack, bucket: str, *, tls: bool
) -> tuple[S3Endpoint, dict[str, str]]:
    """Start an endpoint in a process of its own, and lead this process to it.

    Args:
        stack: owner of the endpoint, which ends it.
        bucket: bucket to make.
        tls: whether to speak TLS, with a certificate of an authority made for it.

    Returns:
        The endpoint, and the variables that lead other processes to it.

    Raises:
        MissingPackage: certificates cannot be made.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dataplane-bench-")))
    certificate = None
    trust: dict[str, str] = {}
    if tls:
        authority = Authority(folder / "certificates")
        certificate = authority.issue("server")
        trust = {"AWS_CA_BUNDLE": str(authority.file)}
    endpoint = stack.enter_context(
        S3Endpoint(root=folder / "objects", buckets=(bucket,), certificate=certificate)
    )
    stack.enter_context(endpoint.exported())
    stack.enter_context(exported(trust))
    return endpoint, endpoint.environment() | trust
