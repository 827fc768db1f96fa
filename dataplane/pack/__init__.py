"""Converters from simulation files to packed datasets.

`pack` converts files and folders and writes a dataset; `open_source` reads the samples of one file.
The formats, names and keys are described in docs/packing.md. How the modules fit together:

    plan (found, formats, collections -> blocks, references; names) -> SourceFile
    convert (vtk.subprocess_reader, plot3d, numpy_files, archives) -> SourceSample
    read_ahead (threads, meter) -> engine -> dataplane.shards.DatasetWriter
"""

from dataplane.pack.convert import open_source
from dataplane.pack.engine import OnError, PackProgress, pack

__all__ = ["OnError", "PackProgress", "open_source", "pack"]
