"""What the rows of `dataplane bench loader` say of the dataset they were measured on."""

from __future__ import annotations

from dataplane.shards import WriteOptions
from dataplane_bench.cases.loader import LoaderOptions, case_of


def test_rows_name_codec_chunks_and_state() -> None:
    case = case_of(LoaderOptions(codec="zstd"), 12, "warm")
    assert case.dataset.startswith("12 ")
    assert (case.codec, case.state) == ("blosc-zstd", "warm")
    assert case.chunk_bytes == WriteOptions().chunk_bytes
