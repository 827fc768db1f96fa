"""`.npy` and `.npz` files of all types, orders and versions, made from a seed, and their reader."""

from __future__ import annotations

import ast
import io
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from tests.pack.corpus.model import Case, Refused, Sample, encoded_name
from tests.pack.corpus.xml_writer import draw_values

__all__ = ["npy_case", "npz_case"]

_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", "?")
_NOT_READ = ("object", "structured", "datetime")
_NAMES = ("p", "point_data/p", "velocity", "a b", "é µ", "x.y", "__x", "U:0", "..x", "q_1", "T")
_SOUND_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError,
              RuntimeError, ValueError, OSError)  # fmt: skip


class Pickled(Refused):
    """An array of objects, which nobody reads: it is left out of an `.npz`."""


def read_npy(content: bytes) -> np.ndarray:
    """Read one array; the file must end where its values do."""
    if content[:6] != b"\x93NUMPY" or len(content) < 10:
        raise Refused("no NumPy file")
    version = tuple(content[6:8])
    if version not in {(1, 0), (2, 0), (3, 0)}:
        raise Refused("version")
    width = 2 if version == (1, 0) else 4
    stop = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    if stop > len(content):
        raise Refused("header is cut")
    try:
        text = content[8 + width : stop].decode("latin-1" if version < (3, 0) else "utf-8")
        header = ast.literal_eval(text.strip())
        if set(header) != {"descr", "fortran_order", "shape"}:
            raise Refused("keys")
        dtype, shape = np.dtype(header["descr"]), header["shape"]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as err:
        raise Refused(f"header: {err}") from err
    if dtype.hasobject:
        raise Pickled("objects")
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not whole or type(header["fortran_order"]) is not bool or len(shape) > 8:
        raise Refused("shape or order")
    if not isinstance(header["descr"], str) or dtype.kind not in "biufcUS":
        raise Refused("type")
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if count * dtype.itemsize != len(content) - stop:
        raise Refused("size")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    order = "F" if header["fortran_order"] else "C"
    return np.frombuffer(content, dtype, count, stop).reshape(shape, order=order)


def _sample_of(arrays: dict[str, np.ndarray]) -> Sample:
    sample = Sample({})
    for name, values in arrays.items():
        path = "/".join(encoded_name(part) for part in name.strip("/").split("/"))
        if values.dtype.kind in "US":
            text = [str(one) for one in values.astype(np.str_).reshape(-1)]
            sample.attributes.setdefault("text", {})[path] = text
        else:
            sample.arrays[path] = values
    if not sample.arrays:
        raise Refused("no numeric arrays")
    return sample


def _oracle_npy(path: Path) -> list[Sample]:
    return [_sample_of({"values": read_npy(path.read_bytes())})]


def _oracle_npz(path: Path) -> list[Sample]:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.removesuffix(".npy") in arrays:
                    raise Refused("twice")
                content = archive.read(member)
                if member.endswith(".npy") or content.startswith(b"\x93NUMPY"):
                    with suppress(Pickled):
                        arrays[member.removesuffix(".npy")] = read_npy(content)
    except _SOUND_ZIP as err:
        raise Refused(f"zip: {err}") from err
    return [_sample_of(arrays)]


def _draw(rng: np.random.Generator) -> np.ndarray:
    """An array of any type, order and shape."""
    shape = tuple(int(n) for n in rng.integers(0 if rng.random() < 0.1 else 1, 5, rng.integers(5)))
    type_name = str(rng.choice(_TYPES))
    if type_name == "?":
        values = rng.random(shape) < 0.5
    elif type_name[0] == "c":
        part = f"f{int(type_name[1:]) // 2}"
        values = (draw_values(rng, shape, part) + 1j * rng.random(shape)).astype(type_name)
    elif type_name == "f2":
        values = rng.standard_normal(shape).astype("f2")
    else:
        values = draw_values(rng, shape, type_name)
    values = np.asarray(values).astype(np.dtype(type_name).newbyteorder(str(rng.choice([*"<>"]))))
    return np.asfortranarray(values) if rng.random() < 0.4 else values


def _written(rng: np.random.Generator, values: np.ndarray, *, pickled: bool = False) -> bytes:
    out = io.BytesIO()
    version = None if pickled else [None, (1, 0), (2, 0), (3, 0)][int(rng.integers(4))]
    np.lib.format.write_array(out, values, version, allow_pickle=pickled)
    return out.getvalue()


def _not_read(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    kind = str(rng.choice(_NOT_READ))
    if kind == "object":
        return kind, np.array({"a": 1}, object)
    if kind == "structured":
        return kind, np.zeros(3, [("a", "<f8"), ("b", "<i4")])
    return kind, np.array(["2020-01-01"], "M8[D]")


def npy_case(rng: np.random.Generator) -> Case:
    """One `.npy`; rarely of a type that is not read."""
    if rng.random() < 0.1:
        kind, values = _not_read(rng)
        content = _written(rng, values, pickled=True)
        return Case(f"npy of {kind}", "case.npy", {"case.npy": content}, None, _oracle_npy)
    values = _draw(rng)
    content = _written(rng, values)
    start = len(content) - values.nbytes
    kind = f"npy {values.dtype.str} {list(values.shape)}"
    expected = [Sample({"values": values})]
    return Case(kind, "case.npy", {"case.npy": content}, expected, _oracle_npy,
                headers=(("case.npy", 0, start),))  # fmt: skip


def npz_case(rng: np.random.Generator) -> Case:
    """One `.npz`, stored or deflated."""
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.5 else zipfile.ZIP_STORED
    sample = Sample({})
    kind = "npz"
    with zipfile.ZipFile(out, "w", method) as archive:
        for at in rng.choice(len(_NAMES), int(rng.integers(1, 5)), replace=False):
            name, values = _NAMES[at], _draw(rng)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), _written(rng, values), method)
            sample.arrays["/".join(map(encoded_name, name.split("/")))] = values
        if rng.random() < 0.2:
            words = ["inlet", "", "é µ"]
            archive.writestr(zipfile.ZipInfo("words.npy"), _written(rng, np.array(words)), method)
            sample.attributes["text"] = {"words": words}
            kind += " with text"
        if rng.random() < 0.15:
            archive.writestr(zipfile.ZipInfo("README.txt"), b"how it was made\n", method)
        if rng.random() < 0.15:
            settings = _written(rng, np.array({"Re": 100}, object), pickled=True)
            archive.writestr(zipfile.ZipInfo("settings.npy"), settings, method)
    name = "case.npz"
    return Case(kind, name, {name: out.getvalue()}, [sample], _oracle_npz)
