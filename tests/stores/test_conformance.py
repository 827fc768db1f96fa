"""Every store that open_store can return, held to one contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.stores import Store, StoreConfig, open_store
from dataplane_testing.conformance import StoreConformance
from dataplane_testing.conformance_streams import StreamConformance
from dataplane_testing.s3 import S3Endpoint
from tests.servers.s3 import S3Server

_numbers = itertools.count()


class TestMemory(StoreConformance):
    many_keys = 3000
    is_shared_between_processes = False

    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"memory://conformance-{next(_numbers)}/prefix")


class TestLocalFolder(StoreConformance):
    many_keys = 1100

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        root = tmp_path / "a root, with % signs"
        root.mkdir()
        return open_store(root)


class TestFsspecFolder(StoreConformance):
    config = StoreConfig(storage_options={"auto_mkdir": False})
    many_keys = 1100

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        (tmp_path / "root").mkdir()
        return open_store(tmp_path / "root", self.config)


class TestFsspecMemory(StoreConformance):
    config = StoreConfig(storage_options={"asynchronous": False})
    is_shared_between_processes = False

    @pytest.fixture
    def store(self) -> Store:
        return open_store(f"memory://fsspec-{next(_numbers)}/prefix", self.config)


class TestMoto(StoreConformance):
    @pytest.fixture
    def store(self, moto_url: str) -> Iterator[Store]:
        store = open_store(f"{moto_url}/some prefix")
        yield store
        store.close()


class TestStreamsThroughTheLibrary(StreamConformance):
    """As from servers with TLS, which are not read directly."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with S3Endpoint(buckets=("streams",)) as endpoint, endpoint.exported():
            store = open_store("s3://streams/some prefix", StoreConfig(direct=False))
            yield store
            store.close()


@pytest.mark.ceph
class TestCeph(StoreConformance):
    many_keys = 1100

    @pytest.fixture
    def store(self, s3_url: str) -> Iterator[Store]:
        store = open_store(f"{s3_url}/some prefix")
        yield store
        store.close()


@pytest.mark.ceph
class TestS3ThroughFsspec(StoreConformance):
    config = StoreConfig(storage_options={"default_fill_cache": False})

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, s3_server: S3Server, _s3_session_bucket: str) -> Iterator[Store]:
        # One client for the class: s3fs takes half a second to make one.
        pytest.importorskip("s3fs")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3_server.environ().items():
                patch.setenv(name, value)
            store = open_store(f"s3://{_s3_session_bucket}/through fsspec", cls.config)
            assert list(store.list()) == []
        yield store
        store.close()

    @pytest.fixture
    def store(self, opened: Store, s3_url: str) -> Iterator[Store]:
        del s3_url  # It puts the credentials into the environment.
        yield opened
        for info in list(opened.list()):
            opened.delete(info.key)
