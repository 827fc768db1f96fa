import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.pack.names import (
    MAX_SEGMENT_BYTES,
    array_segment,
    decode_segment,
    sample_key,
    unique_name,
)
from dataplane.shards.names import check_array_name, check_key


@pytest.mark.parametrize(
    "name",
    ["Pressure", "Volume Fraction for Body, Nose", "v.x", "Geschwindigkeit ü", "p (Pa) [abs]", "c"],
)
def test_readable_names_stay_as_they_are(name):
    assert array_segment(name) == name


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("p/q", "p%2Fq"),
        ("a\\b", "a%5Cb"),
        ("100%", "100%25"),
        (".", "%2E"),
        ("..", "%2E."),
        ("zarr.json", "%7Aarr.json"),
        ("__private", "%5F_private"),
        ("tab\there", "tab%09here"),
        ("nul\x00", "nul%00"),
    ],
)
def test_names_that_a_path_cannot_hold_are_encoded_and_come_back(name, segment):
    assert array_segment(name) == segment
    assert decode_segment(segment) == name


def test_an_empty_name_becomes_a_word():
    assert array_segment("") == "unnamed"


def test_a_name_that_is_no_unicode_is_encoded_byte_by_byte():
    name = b"T\xe9mp".decode("utf-8", "surrogateescape")
    assert array_segment(name) == "T%E9mp"
    assert decode_segment("T%E9mp") == name


def test_long_names_are_cut_and_stay_distinct():
    first, second = (array_segment("é" * 300 + end) for end in "ab")
    assert first != second
    assert len(first.encode()) <= MAX_SEGMENT_BYTES


@given(st.text(max_size=60))
def test_every_name_makes_a_legal_array_name(name):
    segment = array_segment(name)
    check_array_name(f"point_data/{segment}", "test")
    if name and "~" not in segment:
        assert decode_segment(segment) == name


@given(st.lists(st.text(max_size=40), max_size=4))
def test_every_path_makes_a_legal_key(parts):
    check_key(sample_key(parts))


def test_keys_join_folders_and_have_no_dots():
    assert sample_key(["run_1", "case.v2"]) == "run_1-case_v2"
    assert sample_key(["..", "???"]) == "sample"
    assert sample_key(["größe 3"]) == "größe_3"


def test_taken_names_get_the_next_number():
    assert unique_name("a", set(), "-") == "a"
    assert unique_name("a", {"a", "a-2"}, "-") == "a-3"
