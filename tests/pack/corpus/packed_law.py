"""The law of pack's readers for the whole command: what is packed is exact, or nothing is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from click.testing import CliRunner

from dataplane.cli.pack import pack
from dataplane.errors import FormatError
from dataplane.pack import open_source
from tests.pack.corpus.law import Outcome, Wrong, compare, refused
from tests.pack.corpus.model import Case, Refused, Sample
from tests.pack.packed import read_with_zarr

__all__ = ["judge_packed"]


def judge_packed(case: Case, folder: Path, dest: Path, *, damaged: bool) -> Outcome:
    """Pack the case's files with the command, and read the dataset with zarr-python.

    Raises:
        Wrong: what the dataset holds is not what the oracle reads, or the command broke off.
    """
    source = folder / case.entry
    result = CliRunner().invoke(pack, [str(source), f"file://{dest}", "--on-error", "fail"])
    error = result.exception
    if isinstance(error, FormatError):
        if dest.exists() and any(dest.iterdir()):
            raise Wrong(f"a refused source leaves {sorted(map(str, dest.iterdir()))}")
        return refused(case, error, source, damaged=damaged)
    if error is not None or result.exit_code:
        raise Wrong(f"the command ended with {result.exit_code}: {error!r} {result.output[-300:]}")
    expected: list[Sample] | None = case.expected
    if damaged:
        try:
            expected = case.oracle(source)
        except Refused as err:
            raise Wrong(f"packed, though damaged: {err}") from err
    if expected is None:
        raise Wrong("packed, though it must be refused")
    packed = read_with_zarr(dest)
    found = [
        SimpleNamespace(
            arrays={name: SimpleNamespace(values=values) for name, values in arrays.items()},
            attributes=attributes,
        )
        for attributes, arrays, _ in (packed[key] for key in _keys(source))
    ]
    compare(found, expected)
    return Outcome(exact=True)


def _keys(source: Path) -> list[str]:
    return [sample.key for sample in open_source(source)]
