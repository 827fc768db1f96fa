"""The native module, as Python sees it. See native/ for the code behind it."""

from typing_extensions import Buffer

build_type: str
sanitizers: str

def crc32c(bytes: Buffer, seed: int = 0) -> int: ...  # noqa: A002
