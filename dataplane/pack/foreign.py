"""Recognition of content that no simulation file has: pointers, archives, error pages, UTF-16.

Such files lie in datasets under the names of simulation files: a checkout without its large files,
a download that failed, a file that was compressed afterwards. A reader that finds no mark of its
own format asks here, and reports the kind of the file and a hint. Pure functions, no state.
Source: the magic numbers are those of file(1); the pointer is that of the Git LFS specification.
"""

from __future__ import annotations

import re

from dataplane.pack.source import COPY_AGAIN

__all__ = ["HEAD_BYTES", "foreign_content"]

HEAD_BYTES = 1024
"""First bytes of a file that are enough to recognise all of it."""

_UNPACK = "unpack it first, and pack what was in it"
_SAVE_AS_UTF8 = "convert it first: `iconv -f UTF-16 -t UTF-8`"
_DOWNLOAD = "download the file again; this is the server's answer, not its content"
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file itself",
        "fetch the file with `git lfs pull`",
    ),
    (b"\x1f\x8b", "gzip data", "decompress it first: `gzip -d`, or `tar -xzf` for a .tar.gz"),
    (b"BZh", "bzip2 data", "decompress it first: `bzip2 -d`"),
    (b"\xfd7zXZ\x00", "xz data", "decompress it first: `xz -d`"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data", "decompress it first: `zstd -d`"),
    (b"\x04\x22\x4d\x18", "LZ4 data", "decompress it first: `lz4 -d`"),
    (b"PK\x03\x04", "a zip archive", "give it the suffix .zip, or unpack it first"),
    (b"PK\x05\x06", "a zip archive without members", COPY_AGAIN),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "convert it to VTK XML or .npz first"),
    (b"CDF\x01", "a NetCDF file", "convert it to VTK XML or .npz first"),
    (b"CDF\x02", "a NetCDF file", "convert it to VTK XML or .npz first"),
    (b"\xff\xfe\x00\x00", "text in UTF-32", "convert it first: `iconv -f UTF-32 -t UTF-8`"),
    (b"\xff\xfe", "text in UTF-16", _SAVE_AS_UTF8),
    (b"\xfe\xff", "text in UTF-16", _SAVE_AS_UTF8),
    (b"<\x00?\x00", "text in UTF-16", _SAVE_AS_UTF8),
    (b"\x00<\x00?", "text in UTF-16", _SAVE_AS_UTF8),
)
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_HTML = re.compile(
    rb"\s*(?:<!--.{0,512}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b", re.I | re.S
)
_STORE_ERROR = re.compile(rb"\s*(?:<\?xml[^>]{0,100}\?>\s*)?<Error>\s*<Code>([\w.]{1,64})</Code>")


def foreign_content(head: bytes) -> tuple[str, str] | None:
    """Return the kind of a file that is no simulation file, and a hint; None when it is not known.

    Call it for a file that does not begin as its format does: a `.npz` is a zip archive, too.

    Args:
        head: first `HEAD_BYTES` bytes of the file, or all of it.

    Returns:
        The kind, to follow "it is", and a hint.

    Example:
        >>> foreign_content(bytes.fromhex("1f8b0800"))[0]
        'gzip data'
        >>> foreign_content(b"# vtk DataFile Version 3.0") is None
        True
    """
    if not head:
        return "empty", COPY_AGAIN
    for magic, what, hint in _MAGIC:
        if head.startswith(magic):
            return what, hint
    if head.startswith(_TAR_MAGIC, _TAR_MAGIC_AT):
        return "a tar archive", _UNPACK
    if _HTML.match(head):
        return "an HTML page", _DOWNLOAD
    error = _STORE_ERROR.match(head)
    if error:
        return f"an object store's error message ({error.group(1).decode()})", _DOWNLOAD
    if len(head) >= _TAR_MAGIC_AT and not head.strip(b"\x00"):
        return "filled with zeros", COPY_AGAIN
    return None
