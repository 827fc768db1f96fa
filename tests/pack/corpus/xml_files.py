"""VTK XML files of every kind, encoding, byte order, header and compressor, made from a seed.

The writer is our own and uses no VTK; what it writes are values that were drawn before, so they are
the right answer. Small on purpose: most of a file is structure, where damage does most.
"""

from __future__ import annotations

import numpy as np

from tests.pack.corpus.model import Case
from tests.pack.corpus.xml_datasets import write_grid, write_mesh, write_surface
from tests.pack.corpus.xml_layout import read_xml
from tests.pack.corpus.xml_writer import KINDS, Written, draw_encoding

__all__ = ["xml_case"]


def xml_case(rng: np.random.Generator) -> Case:
    """One file of any kind."""
    kind = str(rng.choice([*KINDS]))
    written = Written(draw_encoding(rng), kind)
    written.add_field_data()
    write = {"vtu": write_mesh, "vtp": write_surface}.get(kind, write_grid)
    pieces = int(rng.choice([1, 1, 2, 3]))
    may_refuse = write(written, pieces)
    if written.encoding.style == "wrapped base64":
        may_refuse = may_refuse or "wrapped base64"
    name = f"case.{kind}"
    content = written.content()
    if not written.sample.arrays:
        may_refuse = "must"  # image data without arrays
    expected = None if may_refuse == "must" else [written.sample]
    header = content.find(b"<AppendedData")
    return Case(
        f"{kind} {written.encoding.describe()} pieces={pieces}",
        name,
        {name: content},
        expected,
        read_xml,
        "" if may_refuse == "must" else may_refuse,
        ((name, 0, header if header > 0 else len(content)),),
    )
