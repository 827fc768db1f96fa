"""Packed datasets: tar, zip, Zarr metadata, the Parquet index, readers and writers.

`DatasetWriter` takes `SourceSample` objects and writes shards and an index; `DatasetIndex` reads
the index back as `SampleEntry` objects, which say where every chunk lies. Decoding is not done
here.
The format, byte by byte: docs/dataset-format.md.
"""

from dataplane.shards.index import DatasetIndex
from dataplane.shards.index_schema import FORMAT_VERSION, INDEX_KEY
from dataplane.shards.model import (
    MISSING_CHUNK,
    ArrayEntry,
    ArrayMeta,
    Attributes,
    SampleEntry,
    Stats,
)
from dataplane.shards.options import CodecName, PackSummary, WriteOptions
from dataplane.shards.shard_index import parse_shard_index, shard_index_bytes
from dataplane.shards.source import SourceArray, SourceSample
from dataplane.shards.tar import TarMember, read_tar_members
from dataplane.shards.writer import DatasetWriter
from dataplane.shards.zarr_metadata import parse_array
from dataplane.shards.zip_directory import ZipMember, read_zip_directory

__all__ = [
    "FORMAT_VERSION",
    "INDEX_KEY",
    "MISSING_CHUNK",
    "ArrayEntry",
    "ArrayMeta",
    "Attributes",
    "CodecName",
    "DatasetIndex",
    "DatasetWriter",
    "PackSummary",
    "SampleEntry",
    "SourceArray",
    "SourceSample",
    "Stats",
    "TarMember",
    "WriteOptions",
    "ZipMember",
    "parse_array",
    "parse_shard_index",
    "read_tar_members",
    "read_zip_directory",
    "shard_index_bytes",
]
