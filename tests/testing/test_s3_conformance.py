"""The contract of stores, held by dataplane's own S3 clients against the embedded endpoint."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from dataplane.stores import Store, StoreConfig, open_store
from dataplane_testing.conformance import StoreConformance
from dataplane_testing.s3 import S3Endpoint

_numbers = itertools.count()


@pytest.fixture(scope="module")
def running() -> Iterator[S3Endpoint]:
    with S3Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(running: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket that the environment leads to."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)
    name = f"conformance-{next(_numbers)}"
    running.create_bucket(name)
    return f"s3://{name}"


class TestEndpoint(StoreConformance):
    many_keys = 1100

    @pytest.fixture
    def store(self, bucket: str) -> Iterator[Store]:
        store = open_store(f"{bucket}/some prefix")
        yield store
        store.close()


class TestEndpointThroughFsspec(StoreConformance):
    config = StoreConfig(storage_options={"default_fill_cache": False})
    many_keys = 1100

    @pytest.fixture
    def store(self, bucket: str) -> Iterator[Store]:
        pytest.importorskip("s3fs")
        store = open_store(f"{bucket}/some prefix", self.config)
        yield store
        store.close()
