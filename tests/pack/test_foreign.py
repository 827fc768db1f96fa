"""Content that is no simulation file is named for what it is, with what to do about it."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source
from dataplane.pack.foreign import foreign_content

_MESH = b'<?xml version="1.0"?><VTKFile type="UnstructuredGrid"></VTKFile>'


def _zip():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.vtu", _MESH)
    return stream.getvalue()


def _tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.vtu"))
    return stream.getvalue()


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123456\n"
_NOT_FOUND = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code></Error>'


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        (b"", "it is empty", "copy it again"),
        (_POINTER, "it is a Git LFS pointer", "git lfs pull"),
        (gzip.compress(_MESH, mtime=0), "it is gzip data", "gzip -d"),
        (bz2.compress(_MESH), "it is bzip2 data", "bzip2 -d"),
        (lzma.compress(_MESH), "it is xz data", "xz -d"),
        (_zip(), "it is a zip archive", "the suffix .zip"),
        (_tar(), "it is a tar archive", "unpack it first"),
        (b"<!DOCTYPE html>\n<title>404</title>", "it is an HTML page", "download"),
        (_NOT_FOUND, "error message .NoSuchKey.", "download"),
        (_MESH.decode().encode("utf-16"), "it is text in UTF-16", "iconv -f UTF-16"),
        (_MESH.decode().encode("utf-16-le"), "it is text in UTF-16", "iconv -f UTF-16"),
        (_MESH.decode().encode("utf-32"), "it is text in UTF-32", "iconv -f UTF-32"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file", "convert it"),
        (bytes(4096), "it is filled with zeros", "copy it again"),
    ],
)
@pytest.mark.parametrize("suffix", ["vtu", "vtk", "pvd"])
def test_foreign_content_is_refused_for_what_it_is_with_what_to_do(
    tmp_path, suffix, content, what, hint
):
    path = tmp_path / f"case.{suffix}"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=what) as caught:
        list(open_source(path))
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [_MESH, b"# vtk DataFile Version 3.0", b"\x93NUMPY\x01", b"\x01"]
)
def test_content_of_simulation_files_is_not_foreign(content):
    assert foreign_content(content) is None
