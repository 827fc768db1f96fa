"""Archives of generated files, and sound cases for files that hold or list others."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.pack.corpus.legacy_files import legacy_case
from tests.pack.corpus.model import Case, Refused, Sample
from tests.pack.corpus.numpy_files import npy_case, npz_case
from tests.pack.corpus.parallel_files import parallel_case
from tests.pack.corpus.plot3d_files import plot3d_case
from tests.pack.corpus.xml_files import xml_case
from tests.pack.corpus.xml_oracle import need

__all__ = ["moved", "sound_case", "zip_case"]

Generator = Callable[[np.random.Generator], Case]


def sound_case(rng: np.random.Generator, generators: list[Generator]) -> Case:
    """A case that must be read."""
    while True:
        case = generators[int(rng.integers(len(generators)))](rng)
        if case.expected is not None and not case.may_refuse:
            return case


def moved(case: Case, folder: str) -> dict[str, bytes]:
    """The files of a case, in a folder of their own."""
    return {f"{folder}/{name}": content for name, content in case.files.items()}


def zip_case(rng: np.random.Generator) -> Case:
    """An archive of one to three datasets, each in a folder of its own."""
    generators = [xml_case, legacy_case, npy_case, npz_case, plot3d_case, parallel_case]
    cases = [sound_case(rng, generators) for _ in range(int(rng.integers(1, 4)))]
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.6 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w") as archive:
        for number, case in enumerate(cases):
            for name, content in moved(case, f"part {number}").items():
                archive.writestr(zipfile.ZipInfo(name), content, method)

    def oracle(path: Path) -> list[Sample]:
        with TemporaryDirectory() as folder:
            try:
                with zipfile.ZipFile(path) as archive:
                    names = archive.namelist()
                    wanted = [n for at, case in enumerate(cases) for n in moved(case, f"part {at}")]
                    need(sorted(names) == sorted(wanted), "members")
                    archive.extractall(folder)
            except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError,
                    RuntimeError, ValueError, OSError) as err:  # fmt: skip
                raise Refused(f"zip: {err}") from err
            return [
                sample
                for at, case in enumerate(cases)
                for sample in case.oracle(Path(folder, f"part {at}", case.entry))
            ]

    expected = [sample for case in cases for sample in case.expected or ()]
    kinds = " + ".join(case.kind.partition(" ")[0] for case in cases)
    return Case(f"zip of {kinds}", "case.zip", {"case.zip": out.getvalue()}, expected, oracle)
