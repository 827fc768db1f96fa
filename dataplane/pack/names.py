r"""Keys of samples and names of arrays, made from names in files.

Simulation files call arrays anything: "Volume Fraction for Body, Nose", "p/q", "", "..". A packed
dataset holds them as Zarr v3 node names, that is as path segments of a zip and of a mount. Most
names can stay as they are, spaces, commas, dots and unicode included. The rest is percent-encoded,
byte by byte of UTF-8, and nothing else is, so `decode_segment` gives the name back:

- `/`, `\`, control characters, and `%` itself;
- the first character of names that Zarr or a file system reserves: `.`, `..`, `zarr.json`, and
  those that begin with two underscores.

Two cases cannot be undone from the segment: an empty name becomes `unnamed`, and a name that would
be longer than MAX_SEGMENT_BYTES is cut and ends in `~` and a hash of the whole. For them, as for
every array, the converter records the original name in the attribute `name`.

Pure functions, no state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable
from urllib.parse import unquote_to_bytes

__all__ = [
    "FreeNames",
    "array_segment",
    "decode_segment",
    "member_key",
    "sample_key",
    "unique_name",
]

MAX_SEGMENT_BYTES = 200
"""Well below the 255 bytes of a file name, so that a suffix for a double name still fits."""
MAX_KEY_BYTES = 200
_UNNAMED = "unnamed"
_RESERVED = frozenset({".", "..", "zarr.json"})
_NOT_IN_A_SEGMENT = re.compile(r"[\x00-\x1f\x7f/\\%\udc80-\udcff]")
_NOT_IN_A_KEY = re.compile(r"[^\w-]+")


def array_segment(original: str) -> str:
    """Make one path segment of an array's name.

    Args:
        original: any text; bytes that are no UTF-8 as surrogate escapes.

    Example:
        >>> array_segment("Volume Fraction for Body, Nose")
        'Volume Fraction for Body, Nose'
        >>> array_segment("p/q"), array_segment(".."), array_segment("100%"), array_segment("")
        ('p%2Fq', '%2E.', '100%25', 'unnamed')
    """
    if not original:
        return _UNNAMED
    segment = _NOT_IN_A_SEGMENT.sub(lambda found: _percent(found.group()), original)
    if segment in _RESERVED or segment.startswith("__"):
        segment = _percent(segment[0]) + segment[1:]
    encoded = segment.encode()
    if len(encoded) <= MAX_SEGMENT_BYTES:
        return segment
    digest = hashlib.sha256(original.encode(errors="surrogateescape")).hexdigest()[:16]
    kept = encoded[: MAX_SEGMENT_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{kept}~{digest}"


def decode_segment(segment: str) -> str:
    """Undo `array_segment`, except for empty and shortened names.

    Example:
        >>> decode_segment("p%2Fq"), decode_segment("Body, Nose")
        ('p/q', 'Body, Nose')
    """
    return unquote_to_bytes(segment).decode(errors="surrogateescape")


def sample_key(parts: Iterable[str]) -> str:
    """Make the key of a sample from the folders below its source and the stem of its file.

    Characters that are no letter, digit, `_` or `-` become one `_` (WebDataset cuts keys at dots).

    Example:
        >>> sample_key(["run 1", "case.v2"])
        'run_1-case_v2'
    """
    cleaned = (_NOT_IN_A_KEY.sub("_", part).strip("_-") for part in parts)
    key = "-".join(part for part in cleaned if part) or "sample"
    return key.encode()[:MAX_KEY_BYTES].decode(errors="ignore")


def member_key(key: str, parts: Iterable[str]) -> str:
    """Make the key of a member of a collection from the collection's key and the member's names.

    A key that would be too long is cut and ends in a hash of the whole.

    Example:
        >>> member_key("case-0003", ["boundary", "inlet 1"])
        'case-0003-boundary-inlet_1'
    """
    parts = [*parts]
    cleaned = (_NOT_IN_A_KEY.sub("_", part).strip("_-") for part in parts)
    whole = "-".join([key, *(part for part in cleaned if part)])
    encoded = whole.encode()
    if len(encoded) <= MAX_KEY_BYTES:
        return whole
    digest = hashlib.sha256(json.dumps([key, *parts]).encode()).hexdigest()[:16]
    return f"{encoded[: MAX_KEY_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"


def unique_name(name: str, taken: Iterable[str], separator: str) -> str:
    """Return `name`, or the first of name + separator + 2, 3, … that is not taken."""
    taken = taken if isinstance(taken, set | frozenset | dict) else set(taken)
    if name not in taken:
        return name
    return FreeNames(taken, f"{{}}{separator}{{}}").find(name)


class FreeNames:
    """Numbered names that are not taken; for one name, the search goes on where it ended.

    So many arrays of one name take time in proportion to their number.
    """

    def __init__(self, taken: Container[str], pattern: str) -> None:
        """Number by `pattern` (`"{}-{}"`); `taken` may grow meanwhile, and not shrink."""
        self._taken = taken
        self._pattern = pattern
        self._numbers: dict[str, int] = {}

    def find(self, name: str) -> str:
        """Return the first of the names with 2, 3, … that is not taken."""
        number = self._numbers.get(name, 2)
        while (free := self._pattern.format(name, number)) in self._taken:
            number += 1
        self._numbers[name] = number
        return free


def _percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode(errors="surrogateescape"))
