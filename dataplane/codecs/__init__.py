"""The typed face of the native decoder, and its NumPy reference.

A chunk of an array is stored as the inner codec chain of a Zarr v3 array says: `parse_pipeline`
turns that metadata into a `Pipeline`, `encode_chunk` and `encode_chunks` make the stored bytes,
`ChunkTable` lists the chunks of whole arrays or boxes of them with NumPy, and `decode` has the
native module decode all rows of a table in one call, without the GIL, into memory that the caller
owns. `stage` gathers the chunks' compressed streams for a decompressor on a GPU instead.
`dataplane.codecs.reference` is the slow twin that tests compare against.

Nothing here reads files or knows samples: offsets, lengths and buffers come from
`dataplane.shards` and the cache.
"""

from dataplane.codecs.decode import (
    CancelFlag,
    EncodedBuffer,
    NativeInfo,
    codec_alone,
    decode,
    native_info,
)
from dataplane.codecs.encode import encode_chunk, encode_chunks
from dataplane.codecs.pipeline import Codec, Pipeline, parse_pipeline
from dataplane.codecs.stage import STAGE_ALIGN, STREAM_DTYPE, stage, staged_bytes
from dataplane.codecs.table import CHUNK_DTYPE, MAX_DIMS, ChunkTable, Convert, join_rows

__all__ = [
    "CHUNK_DTYPE",
    "MAX_DIMS",
    "STAGE_ALIGN",
    "STREAM_DTYPE",
    "CancelFlag",
    "ChunkTable",
    "Codec",
    "Convert",
    "EncodedBuffer",
    "NativeInfo",
    "Pipeline",
    "codec_alone",
    "decode",
    "encode_chunk",
    "encode_chunks",
    "join_rows",
    "native_info",
    "parse_pipeline",
    "stage",
    "staged_bytes",
]
