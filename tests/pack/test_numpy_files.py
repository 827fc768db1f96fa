import io
import os
import zipfile

import numpy as np
import pytest

from dataplane.errors import FormatError
from dataplane.pack import open_source


def _npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(24, dtype=">i4").reshape(2, 3, 4),
        np.asfortranarray(np.random.default_rng(0).random((5, 7))),
        np.array(3.5),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array([1 + 2j]),
    ],
)
def test_an_npy_file_is_one_array_of_any_type_and_order(tmp_path, values):
    np.save(tmp_path / "case.npy", values)
    (sample,) = open_source(tmp_path / "case.npy")
    found = sample.arrays["values"].values
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)


def test_an_npz_file_keeps_names_and_folders(tmp_path):
    arrays = {
        "points": np.random.default_rng(0).random((4, 3)),
        "point_data/Pressure, total": np.arange(4, dtype=np.float32),
        "..": np.arange(3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "none": np.zeros((0, 2)),
    }
    np.savez_compressed(tmp_path / "case.npz", **arrays)
    (sample,) = open_source(tmp_path / "case.npz")
    found = {name: array.values for name, array in sample.arrays.items()}
    expected = {("%2E." if name == ".." else name): value for name, value in arrays.items()}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values)
    assert sample.arrays["%2E."].attributes == {"name": ".."}
    assert sample.arrays["points"].attributes == {}


def test_text_becomes_attributes(tmp_path):
    np.savez(tmp_path / "case.npz", p=np.zeros(2), title=np.array("blunt fin"), tags=["a", "b"])
    (sample,) = open_source(tmp_path / "case.npz")
    assert sample.attributes["text"] == {"title": ["blunt fin"], "tags": ["a", "b"]}


@pytest.mark.parametrize("name", ["case.npy", "case.npz"])
def test_pickled_objects_are_refused(tmp_path, name):
    values = np.array([{}], object)
    save = np.save if name.endswith("npy") else np.savez
    save(tmp_path / name, values)
    with pytest.raises(FormatError, match=r"case\.np"):
        list(open_source(tmp_path / name))


class _RunsCode:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_pickled_dict_beside_arrays_is_left_out_and_never_unpickled(tmp_path, caplog, compressed):
    harmed = tmp_path / "harmed"
    save = np.savez_compressed if compressed else np.savez
    params = np.array({"mach": 0.8, "object": _RunsCode(harmed)})
    save(tmp_path / "case.npz", p=np.arange(4.0), params=params, q=np.arange(2))
    (sample,) = open_source(tmp_path / "case.npz")
    found = {name: array.values.tolist() for name, array in sample.arrays.items()}
    assert found == {"p": [0, 1, 2, 3], "q": [0, 1]}
    reason = "it holds pickled objects, which are not read"
    assert sample.attributes["members_left_out"] == {"params.npy": reason}
    assert caplog.messages == [f"{tmp_path}/case.npz: left out: 'params.npy' ({reason})"]
    assert not harmed.exists()


def test_a_pickled_dict_alone_is_refused_with_what_to_do(tmp_path):
    harmed = tmp_path / "harmed"
    np.save(tmp_path / "case.npy", {"p": np.arange(3), "object": _RunsCode(harmed)})
    np.savez(tmp_path / "case.npz", params={"p": 1})
    for name in ("case.npy", "case.npz"):
        with pytest.raises(FormatError, match=r"it holds .*pickled objects") as caught:
            list(open_source(tmp_path / name))
        assert "np.savez" in (caught.value.hint or "")
    assert not harmed.exists()


def test_a_member_that_is_no_array_is_named_and_the_rest_is_packed(tmp_path, caplog):
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        archive.mkdir("docs")
        nameless = zipfile.ZipInfo("x")
        nameless.filename = ""
        archive.writestr(nameless, "text")
        archive.writestr("docs/README.txt", "hello")
        archive.writestr("p.npy", _npy(np.arange(3)))
        archive.writestr("empty", "")
    (sample,) = open_source(tmp_path / "case.npz")
    assert sample.arrays["p"].values.tolist() == [0, 1, 2]
    assert [*sample.arrays] == ["p"]
    left_out = dict.fromkeys(("", "docs/README.txt", "empty"), "it is no array")
    assert sample.attributes["members_left_out"] == left_out
    assert len(caplog.messages) == 1
    assert "'docs/README.txt'" in caplog.messages[0]


def test_a_member_named_as_an_array_that_is_none_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        archive.writestr("p.npy", _npy(np.arange(3)))
        archive.writestr("q.npy", "hello, this is no array")
    with pytest.raises(FormatError, match=r"not a sound \.npz file"):
        list(open_source(tmp_path / "case.npz"))


@pytest.mark.parametrize("name", ["params.npy", "README"])
def test_damage_in_a_member_that_is_left_out_is_noticed(tmp_path, name):
    pickled = io.BytesIO()
    np.save(pickled, {"a": list(range(2000))})
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        archive.writestr("p.npy", _npy(np.arange(3)))
        archive.writestr(name, pickled.getvalue() if name == "params.npy" else b"text " * 1000)
    content = bytearray((tmp_path / "case.npz").read_bytes())
    content[3000] ^= 1
    (tmp_path / "case.npz").write_bytes(content)
    with pytest.raises(FormatError, match="CRC"):
        list(open_source(tmp_path / "case.npz"))


def test_members_of_one_array_name_are_both_kept(tmp_path):
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        for name, first in (("p.npy", 1), ("p", 2)):
            archive.writestr(name, _npy(np.arange(first, first + 2)))
            archive.writestr(f"t{name[1:]}", _npy(np.array([name])))
    (sample,) = open_source(tmp_path / "case.npz")
    assert {name: array.values.tolist() for name, array in sample.arrays.items()} == {
        "p": [1, 2],
        "p~2": [2, 3],
    }
    assert sample.attributes["text"] == {"t": ["p.npy"], "t~2": ["p"]}


def test_structured_arrays_are_refused_with_advice(tmp_path):
    np.save(tmp_path / "case.npy", np.zeros(3, [("a", "i4"), ("b", "f8")]))
    with pytest.raises(FormatError, match="one array per field"):
        list(open_source(tmp_path / "case.npy"))


def test_an_npz_without_numbers_is_refused(tmp_path):
    np.savez(tmp_path / "case.npz", title=np.array("nothing else"))
    with pytest.raises(FormatError, match="no numeric arrays"):
        list(open_source(tmp_path / "case.npz"))


@pytest.mark.parametrize("name", ["case.npy", "case.npz"])
def test_a_file_cut_anywhere_is_refused(tmp_path, name):
    save = np.save if name.endswith("npy") else np.savez
    save(tmp_path / name, np.arange(50.0))
    content = (tmp_path / name).read_bytes()
    for size in range(0, len(content), 11):
        (tmp_path / name).write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"case\.np"):
            list(open_source(tmp_path / name))


def test_a_header_that_asks_for_more_than_the_member_holds_is_refused(tmp_path):
    lying = _npy(np.zeros(4)).replace(b"(4,), }", b"(4000000000000,), }", 1)
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        archive.writestr("p.npy", lying)
    with pytest.raises(FormatError, match="declares 32000000000000 bytes"):
        list(open_source(tmp_path / "case.npz"))


def test_double_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "case.npz", "w") as archive:
        archive.writestr("p.npy", _npy(np.zeros(4)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("p.npy", _npy(np.ones(4)))
    with pytest.raises(FormatError, match="twice"):
        list(open_source(tmp_path / "case.npz"))


def test_a_flipped_byte_in_the_data_is_noticed(tmp_path):
    np.savez(tmp_path / "case.npz", p=np.zeros(1000))
    content = bytearray((tmp_path / "case.npz").read_bytes())
    content[4000] ^= 1
    (tmp_path / "case.npz").write_bytes(content)
    with pytest.raises(FormatError, match="CRC"):
        list(open_source(tmp_path / "case.npz"))


def test_damaged_deflate_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "case.npz", p=np.random.default_rng(0).random(500))
    content = bytearray((tmp_path / "case.npz").read_bytes())
    content[45:] = bytes(byte ^ 0xFF for byte in content[45:90]) + content[90:]
    (tmp_path / "case.npz").write_bytes(content)
    with pytest.raises(FormatError, match=r"case\.npz: it is not a sound \.npz file"):
        list(open_source(tmp_path / "case.npz"))


@pytest.mark.parametrize("brackets", [b"((", b"[[", b"(}"])
def test_a_header_that_is_no_literal_is_refused(tmp_path, brackets):
    content = _npy(np.zeros(4)).replace(b"(4,), }", brackets + b",), }"[: 7 - len(brackets)], 1)
    (tmp_path / "case.npy").write_bytes(content)
    with pytest.raises(FormatError, match=r"case\.npy: it is not a sound \.npy file"):
        list(open_source(tmp_path / "case.npy"))


def test_more_dimensions_than_can_be_read_are_refused(tmp_path):
    np.save(tmp_path / "eight.npy", np.zeros((1,) * 7 + (2,)))
    np.save(tmp_path / "nine.npy", np.zeros((1,) * 8 + (2,)))
    assert len(list(open_source(tmp_path / "eight.npy"))) == 1
    with pytest.raises(FormatError, match="has 9 dimensions; arrays of at most 8 can be read"):
        list(open_source(tmp_path / "nine.npy"))


def test_an_npy_file_that_is_cut_after_it_was_read_harms_nothing(tmp_path):
    values = np.random.default_rng(0).random(100_000)
    np.save(tmp_path / "case.npy", values)
    (sample,) = open_source(tmp_path / "case.npy")
    os.truncate(tmp_path / "case.npy", 100)
    assert np.array_equal(sample.arrays["values"].values, values)
    with pytest.raises(FormatError, match=r"case\.npy"):
        list(open_source(tmp_path / "case.npy"))


def test_a_file_that_goes_on_after_its_array_is_refused(tmp_path):
    path = tmp_path / "case.npy"
    with path.open("wb") as stream:
        np.save(stream, np.arange(3.0))
        np.save(stream, np.arange(4.0))
    with pytest.raises(FormatError, match=r"case\.npy goes on after the 24 bytes") as caught:
        list(open_source(path))
    assert "np.savez" in str(caught.value)


def test_a_member_whose_header_declares_too_little_is_refused(tmp_path):
    path = tmp_path / "case.npz"
    content = io.BytesIO()
    np.save(content, np.zeros((3, 4)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("p.npy", content.getvalue().replace(b"(3, 4)", b"(3, 0)"))
    with pytest.raises(FormatError, match=r"'p\.npy' goes on after the 0 bytes"):
        list(open_source(path))


@pytest.mark.parametrize("descr", ["1f8", "<U0"])
def test_types_that_are_no_plain_types_are_refused(tmp_path, descr):
    content = _npy(np.zeros(2)).replace(b"'<f8'", f"{descr!r}".encode())
    (tmp_path / "case.npy").write_bytes(content)
    with pytest.raises(FormatError, match="no plain type"):
        list(open_source(tmp_path / "case.npy"))
