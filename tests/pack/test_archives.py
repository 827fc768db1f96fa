"""Zip archives: what is in them is read, what is hostile in them is refused."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataplane.errors import FormatError, NoSpace
from dataplane.pack import archives, open_source
from dataplane.pack.convert import convert
from dataplane.pack.plan import plan_sources
from dataplane.pack.source import Unreadable


def _npy(value):
    buffer = io.BytesIO()
    np.save(buffer, np.full(3, value))
    return buffer.getvalue()


def _zip(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)


@pytest.fixture
def temp_folder(tmp_path, monkeypatch):
    """A folder for temporary files that must be empty again."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def test_each_dataset_of_an_archive_is_a_sample(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("b/case.npy", _npy(2)), ("a.npy", _npy(1)), ("b/", b"")])
    samples = list(open_source(tmp_path / "all.zip"))
    assert [s.key for s in samples] == ["a", "b-case"]
    assert [int(s.arrays["values"].values[0]) for s in samples] == [1, 2]
    assert samples[1].attributes["archive"] == "all.zip"
    assert samples[1].attributes["source"]["name"] == "all.zip/b/case.npy"


def test_a_reader_that_stops_early_leaves_no_files(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("a.npy", _npy(1)), ("b.npy", _npy(2))])
    samples = open_source(tmp_path / "all.zip")
    assert next(samples).key == "a"
    samples.close()


def test_the_real_series_gives_each_time_step_once(simulation_files, temp_folder, tmp_path):
    pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")
    samples = list(open_source(simulation_files / "wavy.zip"))
    assert [s.key for s in samples] == [f"wavy-{n:04d}" for n in range(15)]
    assert [s.attributes["time"] for s in samples] == list(range(15))
    with zipfile.ZipFile(simulation_files / "wavy.zip") as archive:
        for number in (0, 14):
            archive.extract(f"wavy/wavy{number:02d}.vts", tmp_path)
            mesh = pv.read(tmp_path / "wavy" / f"wavy{number:02d}.vts")
            values = samples[number].arrays["fields/z"].values
            assert np.array_equal(values.reshape(-1), mesh.point_data["z"])
            assert np.array_equal(
                samples[number].arrays["points"].values.reshape(-1, 3), mesh.points
            )


def test_a_bad_member_does_not_hide_the_good_ones(tmp_path, temp_folder):
    _zip(
        tmp_path / "all.zip",
        [("a.npy", _npy(1)), ("b.npy", b"\x93NUMPY broken"), ("c.txt", b"?"), ("d.zip", b"PK\3\4")],
    )
    (source,) = plan_sources([tmp_path / "all.zip"])
    good, broken, text, nested = convert(source)
    assert good.key == "a"
    assert broken.label.endswith("all.zip/b.npy")
    assert not text.asked_for
    assert nested.reason == "an archive inside an archive is not read"


@pytest.mark.parametrize(
    "name", ["../evil.npy", "/evil.npy", "a/../../evil.npy", "a\\..\\evil.npy", "x\x01.npy"]
)
def test_names_that_could_lead_out_are_refused(tmp_path, temp_folder, name):
    _zip(tmp_path / "all.zip", [("ok.npy", _npy(1)), (name, _npy(1))])
    with pytest.raises(FormatError, match=r"all\.zip"):
        list(open_source(tmp_path / "all.zip"))
    assert not list(tmp_path.glob("**/evil.npy"))


def test_links_are_refused(tmp_path, temp_folder):
    link = zipfile.ZipInfo("link.npy")
    link.external_attr = 0o120777 << 16
    _zip(tmp_path / "all.zip", [(link, "/etc/passwd")])
    with pytest.raises(FormatError, match="is a link"):
        list(open_source(tmp_path / "all.zip"))


def test_encrypted_members_are_refused(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("a.npy", _npy(1))])
    content = bytearray((tmp_path / "all.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(FormatError, match="encrypted"):
        list(open_source(tmp_path / "all.zip"))


def test_double_members_are_refused(tmp_path, temp_folder):
    with pytest.warns(UserWarning, match="Duplicate"):
        _zip(tmp_path / "all.zip", [("a.npy", _npy(1)), ("a.npy", _npy(2))])
    with pytest.raises(FormatError, match="twice"):
        list(open_source(tmp_path / "all.zip"))


def test_a_name_that_is_file_and_folder_is_refused(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("a", b"x"), ("a/b.npy", _npy(1))])
    with pytest.raises(FormatError, match="both a file and a folder"):
        list(open_source(tmp_path / "all.zip"))


def test_an_archive_that_claims_more_than_it_can_hold_is_refused(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("a.npy", _npy(1))])
    content = bytearray((tmp_path / "all.zip").read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(FormatError, match="declares"):
        list(open_source(tmp_path / "all.zip"))


def test_an_archive_that_does_not_fit_is_refused_before_it_fills_the_disk(
    tmp_path, temp_folder, monkeypatch
):
    monkeypatch.setattr(archives, "_KEEP_FREE_BYTES", 2**62)
    _zip(tmp_path / "all.zip", [("a.npy", _npy(1))])
    with pytest.raises(NoSpace, match="has room for"):
        list(open_source(tmp_path / "all.zip"))


def test_too_many_members_are_refused(tmp_path, temp_folder, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    _zip(tmp_path / "all.zip", [(f"{n}.npy", _npy(n)) for n in range(3)])
    with pytest.raises(FormatError, match="at most 2"):
        list(open_source(tmp_path / "all.zip"))


def test_a_series_may_not_refer_outside_its_archive(tmp_path, temp_folder):
    for file in ("../../secret.npy", "/etc/hostname", "..\\..\\secret.vti"):
        series = (
            '<VTKFile type="Collection"><Collection>'
            f'<DataSet timestep="0" file="{file}"/></Collection></VTKFile>'
        )
        _zip(tmp_path / "all.zip", [("flow.pvd", series)])
        (source,) = plan_sources([tmp_path / "all.zip"])
        (refused,) = convert(source)
        assert isinstance(refused, Unreadable)
        assert "outside the archive" in refused.reason


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_cut_or_damaged_anywhere_is_refused(tmp_path, temp_folder, method):
    path = Path(tmp_path / "all.zip")
    _zip(path, [("a.npy", _npy(1)), ("b.npy", _npy(2))], compression=method)
    content = path.read_bytes()
    for size in range(0, len(content), 13):
        path.write_bytes(content[:size])
        with pytest.raises(FormatError, match=r"all\.zip"):
            list(open_source(path))
    damaged = bytearray(content)
    damaged[content.index(b"NUMPY" if method == zipfile.ZIP_STORED else b"a.npy") + 20] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match=r"all\.zip"):
        list(open_source(path))


def test_a_name_that_is_not_utf8_is_refused(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("ä.npy", _npy(1))])
    content = (tmp_path / "all.zip").read_bytes().replace("ä".encode(), b"\xe4\x9b")
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(FormatError, match=r"all\.zip: it is not a sound zip archive: 'utf-8'"):
        list(open_source(tmp_path / "all.zip"))


def test_an_archive_that_was_cut_within_an_archive_is_not_taken_for_that_one(tmp_path, temp_folder):
    inner = io.BytesIO()
    np.savez(inner, p=np.arange(3.0))
    _zip(tmp_path / "all.zip", [("a.npy", _npy(1)), ("b.npz", inner.getvalue()), ("c.npy", b"")])
    content = (tmp_path / "all.zip").read_bytes()
    cut = content[: content.index(inner.getvalue()) + len(inner.getvalue())]
    for name in ("cut.zip", "cut.npz"):
        (tmp_path / name).write_bytes(cut)
        with pytest.raises(FormatError, match=rf"{name}: .* it was cut"):
            list(open_source(tmp_path / name))


def test_a_message_about_a_damaged_archive_stays_short(tmp_path, temp_folder):
    _zip(tmp_path / "all.zip", [("a.npy", _npy(1)), ("b.npy", bytes(range(1, 256)) * 40)])
    content = bytearray((tmp_path / "all.zip").read_bytes())
    second = content.index(b"PK\x03\x04", 4)
    content[second + 26 : second + 28] = (9000).to_bytes(2, "little")  # length of its name
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(FormatError, match="not a sound zip archive: File name") as caught:
        list(open_source(tmp_path / "all.zip"))
    assert len(str(caught.value)) < 1000


def _with_directory_changed(path, at, value, field_bytes=2):
    """Change a field of the first entry of an archive's directory."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")
    content[start + at : start + at + field_bytes] = value.to_bytes(field_bytes, "little")
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["zip", "npz"])
def test_a_directory_that_lost_a_member_is_refused(tmp_path, temp_folder, suffix):
    path = tmp_path / f"all.{suffix}"
    _zip(path, [("a.npy", _npy(1)), ("b.npy", _npy(2))])
    _with_directory_changed(path, 32, 46 + len("b.npy"))  # its comment swallows the second entry
    with pytest.raises(FormatError, match=r"all\.\w+: its directory lists 1 of 2 members"):
        list(open_source(path))


@pytest.mark.parametrize("suffix", ["zip", "npz"])
def test_a_folder_that_has_content_is_a_damaged_file(tmp_path, temp_folder, suffix):
    path = tmp_path / f"all.{suffix}"
    _zip(path, [("a.npy", _npy(1)), ("b.npy", _npy(2))])
    _with_directory_changed(path, 46 + 4, ord("/"), 1)
    with pytest.raises(FormatError, match=r"its folder 'a\.np/' has content"):
        list(open_source(path))
