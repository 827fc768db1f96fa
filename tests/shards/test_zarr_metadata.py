"""Zarr metadata: both ways, and nothing believed."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from dataplane.errors import ChecksumMismatch, FormatError
from dataplane.shards import ArrayMeta, parse_array, parse_shard_index, shard_index_bytes
from dataplane.shards.model import MISSING_CHUNK
from dataplane.shards.shard_index import pack_shard_index
from dataplane.shards.zarr_metadata import (
    array_document,
    group_document,
    inner_codecs,
    json_attributes,
    json_fill_value,
    parse_fill_value,
)


def meta(**changes: Any) -> ArrayMeta:
    fields: dict[str, Any] = {
        "dtype": np.dtype("<f4"),
        "shape": (10, 3),
        "chunk_shape": (4, 3),
        "codecs": inner_codecs(np.dtype("<f4"), "lz4", 5),
        "fill_value": 0.0,
        "dimension_names": ("point", "axis"),
        "units": "m",
        "attributes": {"frame": "body"},
    }
    return ArrayMeta(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dimension_names": None, "units": None, "attributes": {}},
        {"shape": (), "chunk_shape": (), "dimension_names": None},
        {"shape": (0, 3)},
        {"fill_value": math.inf},
        {"dtype": np.dtype("<c16"), "fill_value": complex(1, -math.inf)},
        {"dtype": np.dtype("?"), "fill_value": True},
        {"dtype": np.dtype("<u8"), "fill_value": 2**64 - 1},
    ],
)
def test_metadata_survives_the_round_trip(changes: dict[str, Any]) -> None:
    assert parse_array(array_document(meta(**changes)), "x") == meta(**changes)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_nan_is_a_fill_value(dtype: str) -> None:
    text = json_fill_value(math.nan, np.dtype(dtype))
    assert text == "NaN"
    assert math.isnan(parse_fill_value(text, np.dtype(dtype), "x"))


def test_hexadecimal_fill_values_are_bit_patterns() -> None:
    assert parse_fill_value("0x3fc00000", np.dtype("<f4"), "x") == 1.5


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (300, "u1"),
        (-1, "u8"),
        (1.5, "i4"),
        (True, "i4"),
        (0, "?"),
        ("nan", "f4"),
        ("0x12", "f4"),
        ("0xzzzzzzzz", "f4"),
        ([1], "c8"),
        (10**400, "f8"),
        (None, "f4"),
    ],
)
def test_fill_values_of_another_type_are_refused(value: Any, dtype: str) -> None:
    with pytest.raises(FormatError, match="does not fit"):
        parse_fill_value(value, np.dtype(dtype), "x")


def changed(path: str, value: Any) -> bytes:
    document = json.loads(array_document(meta()))
    at: Any = document
    *parents, last = path.split("/")
    for key in parents:
        at = at[int(key) if key.isdigit() else key]
    at[last] = value
    return json.dumps(document).encode()


SHARDING = "codecs/0/configuration"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("zarr_format", 2, "not the metadata"),
        ("node_type", "group", "not the metadata"),
        ("data_type", "string", "element type"),
        ("data_type", "object", "element type"),
        ("data_type", {"name": "r16"}, "element type"),
        ("shape", [10, -3], "shape"),
        ("shape", [2**62, 2**62], "too large"),
        ("shape", [10.0, 3], "shape"),
        ("shape", [10, 3, 1], "with chunks"),
        ("shape", [1000, 3], "more than one shard"),
        ("chunk_grid", {"name": "rectangular"}, "expected regular"),
        ("chunk_grid/configuration/chunk_shape", [13, 3], "not multiples"),
        (f"{SHARDING}/chunk_shape", [0, 3], "inner chunk_shape"),
        (f"{SHARDING}/codecs", [], "codecs"),
        (f"{SHARDING}/codecs", ["bytes"], "not a codec"),
        (f"{SHARDING}/index_codecs", [{"name": "bytes"}], "shard index"),
        (f"{SHARDING}/index_location", "start", "at the end"),
        ("codecs", [{"name": "bytes"}], "sharding_indexed"),
        ("codecs", [], "sharding_indexed"),
        ("attributes", [], "attributes"),
        ("dimension_names", ["a"], "dimension names"),
        ("fill_value", "zero", "fill_value"),
    ],
)
def test_metadata_that_we_do_not_read_is_refused_with_the_field(
    path: str, value: Any, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        parse_array(changed(path, value), "x")


@pytest.mark.parametrize("data", [b"", b"[]", b"nul", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_array(data, "x")


def test_every_prefix_of_metadata_is_refused() -> None:
    data = array_document(meta())
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse_array(data[:length], "x")


def test_units_that_are_not_text_stay_attributes() -> None:
    parsed = parse_array(changed("attributes", {"units": 3}), "x")
    assert parsed.units is None
    assert parsed.attributes == {"units": 3}


def test_attributes_become_plain_json() -> None:
    attributes = {
        "scalar": np.float32(0.5),
        "list": np.arange(3),
        "nested": {"inf": -math.inf, "t": (1, None, True)},
    }
    assert json_attributes(attributes, "x") == {
        "scalar": 0.5,
        "list": [0, 1, 2],
        "nested": {"inf": "-Infinity", "t": [1, None, True]},
    }


@pytest.mark.parametrize("value", [b"bytes", object(), {1: 2}, np.array([b"x"])])
def test_attributes_without_a_json_form_are_refused_by_name(value: object) -> None:
    with pytest.raises(FormatError, match="'bad'"):
        json_attributes({"bad": value}, "sample 'a'")


def test_a_shard_index_survives_the_round_trip() -> None:
    offsets = np.array([0, 4096, MISSING_CHUNK], np.uint64)
    nbytes = np.array([100, 7, MISSING_CHUNK], np.uint64)
    data = pack_shard_index(offsets, nbytes)
    assert len(data) == shard_index_bytes(3)
    found = parse_shard_index(data, 3, 5000, "x")
    np.testing.assert_array_equal(found, (offsets, nbytes))


def test_every_flip_and_cut_of_a_shard_index_is_refused() -> None:
    data = pack_shard_index(np.array([0], np.uint64), np.array([10], np.uint64))
    for at in range(len(data)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        with pytest.raises(ChecksumMismatch):
            parse_shard_index(flipped, 1, 1000, "x")
        with pytest.raises(FormatError):
            parse_shard_index(data[:at], 1, 1000, "x")


@pytest.mark.parametrize(
    ("offset", "length"),
    [(1000, 1), (0, 1000), (2**64 - 10, 20), (2**64 - 1, 0), (0, 2**64 - 1), (980, 1)],
)
def test_chunks_outside_the_shard_are_refused(offset: int, length: int) -> None:
    data = pack_shard_index(np.array([offset], np.uint64), np.array([length], np.uint64))
    with pytest.raises(FormatError, match="outside"):
        parse_shard_index(data, 1, 1000, "x")


def test_a_declared_grid_that_no_file_could_hold_is_refused() -> None:
    with pytest.raises(FormatError, match="cannot be the index"):
        parse_shard_index(b"", 2**40, 1000, "x")


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"none": None, "yes": True, "no": False, "whole": -(2**70), "half": 0.5, "tiny": 1e-300},
        {"text": 'quote " slash \\ tab \t é ∇ \x7f \u2028', "": "", "ключ": [[], {}, [{}], [[1]]]},
        {"nested": {"a": [1, [2.5, {"b": [None, "c"]}], "d"], "e": {"f": {"g": []}}}},
    ],
)
def test_documents_are_indented_as_the_standard_library_does(attributes: dict[str, Any]) -> None:
    document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    expected = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1).encode()
    assert group_document(attributes) == expected


def test_documents_refuse_numbers_that_json_lacks() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        group_document({"a": [math.nan]})
