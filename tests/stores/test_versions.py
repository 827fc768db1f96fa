"""A server that names no versions: nothing of one look is taken for what another look finds."""

from __future__ import annotations

import http.server
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.cache import Cache, CacheConfig
from dataplane.errors import ObjectChanged
from dataplane.stores import open_store
from dataplane.stores.base import StoreConfig
from tests.stores.inside import forget_warnings


class _Server(http.server.ThreadingHTTPServer):
    content = b""


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with neither ETag nor Last-Modified."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(200, self.server.content, body=False)

    def do_GET(self) -> None:
        content = self.server.content
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, content, body=True)
            return
        first, last = (int(text) for text in asked.removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        where = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self._answer(206, part, body=True, content_range=where)

    def _answer(self, status: int, part: bytes, *, body: bool, content_range: str = "") -> None:
        self.send_response(status)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("options", [{}, {"client_kwargs": {}}], ids=["obstore", "fsspec"])
def test_a_later_look_never_gets_what_was_cached_before(
    server: _Server, options: dict, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget_warnings()
    url = f"http://127.0.0.1:{server.server_port}/data"
    store = open_store(url, StoreConfig(storage_options=options))
    with Cache(CacheConfig(dir=tmp_path / "c", block_bytes=4096)) as cache:
        for letter in b"ABC":
            server.content = bytes([letter]) * 10_000
            with caplog.at_level(logging.WARNING, "dataplane"):
                blob = cache.open(store, store.head("x"))
            assert bytes(blob.read(0, 10_000)) == server.content
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "names no versions" in caplog.text
    store.close()


@pytest.mark.parametrize("options", [{}, {"client_kwargs": {}}], ids=["obstore", "fsspec"])
def test_another_size_is_another_version(server: _Server, options: dict) -> None:
    server.content = b"A" * 1000
    url = f"http://127.0.0.1:{server.server_port}/data"
    store = open_store(url, StoreConfig(storage_options=options))
    info = store.head("x")
    assert bytes(store.get_range("x", 5, 10, if_match=info.etag)) == b"AAAAA"
    server.content = b"B" * 1001
    with pytest.raises(ObjectChanged):
        store.get_range("x", 5, 10, if_match=info.etag)
    store.close()
