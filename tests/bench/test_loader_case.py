"""What the rows of `dataplane bench loader` say of the dataset they were measured on."""

from __future__ import annotations

from dataplane.shards import WriteOptions
from dataplane_bench.cases.loader import LoaderOptions, case_of, run


def test_rows_name_codec_chunks_and_state() -> None:
    case = case_of(LoaderOptions(codec="zstd"), 12, "warm")
    assert case.dataset.startswith("12 ")
    assert (case.codec, case.state) == ("blosc-zstd", "warm")
    assert case.chunk_bytes == WriteOptions().chunk_bytes


def test_small_samples_are_compared_by_batch_size_beside_torch_and_decoding() -> None:
    options = LoaderOptions(parts=("small",), small_samples=70, rounds=1, threads=1)
    rows = run(options, lambda _: None)
    assert [(row.state, row.system) for row in rows] == [
        (f"warm, batches of {size}", system)
        for size in (64, 1)
        for system in ("dataplane", "torch DataLoader", "ceiling:decode")
    ]
    assert all(row.samples_per_s for row in rows)
    assert all(row.ratio_to_ceiling is not None for row in rows)
