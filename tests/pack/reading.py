"""What reading one file gives: its sample, or one line that names the file. For tests."""

import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source

__all__ = ["read_one", "refused"]


def read_one(path, content=None):
    """Return the only sample of a file, which is written before where there is content."""
    if content is not None:
        path.write_bytes(content)
    (sample,) = open_source(path)
    return sample


def refused(path, content, reason):
    """Check that a file is refused for a reason, by one line with its name."""
    with pytest.raises(FormatError, match=reason) as caught:
        read_one(path, content)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
