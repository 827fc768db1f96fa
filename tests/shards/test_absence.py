"""A URL that is taken for a dataset's: what it is instead, and what to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from dataplane.errors import BucketNotFound, FormatError, NotFound
from dataplane.shards import DatasetIndex, DatasetWriter, SourceArray, SourceSample
from dataplane.stores import open_store
from dataplane_testing.s3 import S3Endpoint


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing of requests."""


def fill(url: str) -> None:
    """Put a dataset at URL/set, and a file beside it and one in it that is no part of it."""
    with closing(open_store(f"{url}/set")) as store:
        with DatasetWriter(store) as writer:
            writer.add(SourceSample("a", {"x": SourceArray(np.arange(10))}))
        store.put("notes.txt", b"12345")
    with closing(open_store(url)) as store:
        store.put("runs/car 1.vtu", bytes(3 << 20))


@pytest.fixture(params=["s3", "file", "memory", "http"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where `fill` was."""
    folder = tmp_path
    if request.param == "s3":
        with S3Endpoint(in_process=True, buckets=("data",)) as endpoint, endpoint.exported():
            fill("s3://data/all")
            yield "s3://data/all"
        return
    if request.param == "http":
        fill(f"file://{folder}")
        handler = partial(_Quiet, directory=str(folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
        return
    given = f"file://{folder}" if request.param == "file" else f"memory://{folder.name}/all"
    fill(given)
    yield given


def error_at(url: str, kind: type[Exception], words: str) -> str:
    with closing(open_store(url)) as store, pytest.raises(kind, match=words) as caught:
        DatasetIndex.load(store)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("set/index.parquet", "is the index of a packed dataset, not the dataset itself"),
        ("set/shard-000000.tar", r"is a shard \(.* KiB\) of a packed dataset"),
        ("set/notes.txt", "of 5 B, not the dataset itself"),
    ],
)
def test_a_part_of_a_dataset_names_the_dataset(url: str, key: str, words: str) -> None:
    message = error_at(f"{url}/{key}", FormatError, words)
    assert message.startswith(f"{url}/{key} is ")
    assert message.endswith(f"(that is {url}/set)")


def test_any_other_object_is_named_with_its_size_and_what_to_do(url: str) -> None:
    name = "car%201.vtu" if url.startswith(("http", "file")) else "car 1.vtu"
    words = r"of 3 MiB, not a packed dataset \(.*dataplane pack"
    assert error_at(f"{url}/runs/{name}", FormatError, words)


def test_what_is_not_there_is_not_found(url: str) -> None:
    assert error_at(f"{url}/none/at/all", NotFound, "none/at/all")


def test_a_bucket_is_no_object_and_one_that_is_missing_is_named() -> None:
    with S3Endpoint(in_process=True, buckets=("empty",)) as endpoint, endpoint.exported():
        assert error_at("s3://empty", NotFound, "there is nothing below s3://empty")
        assert error_at("s3://none/x", BucketNotFound, "s3://none")
