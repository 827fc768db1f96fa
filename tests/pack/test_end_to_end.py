"""Real files, packed and read back two ways, equal what pyvista reads from the originals.

Once through zarr-python on the unpacked shards, which shares no code with the project, and once
through `dataplane.Dataset`.
"""

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

pv = pytest.importorskip("pyvista", reason="the vtk extra is not installed")

from dataplane.pack import pack  # noqa: E402
from dataplane.shards import (  # noqa: E402
    DatasetWriter,
    SourceArray,
    SourceSample,
    WriteOptions,
)
from dataplane.stores import open_store  # noqa: E402
from tests.pack.oracle import assert_same_arrays, expected_arrays  # noqa: E402
from tests.pack.packed import read_with_zarr  # noqa: E402

EXAMPLES = ("hexbeam.vtk", "rectilinear.vtk", "uniform.vtk", "globe.vtk")


def _example_paths():
    return [Path(pv.examples.dir_path, name) for name in EXAMPLES]


def _expected_of_examples():
    return {path.stem: expected_arrays(pv.read(path)) for path in _example_paths()}


@pytest.fixture(scope="module")
def expected(simulation_files, tmp_path_factory):
    """Arrays of every sample in the folder of real files, as pyvista reads them."""
    folder = tmp_path_factory.mktemp("wavy")
    with zipfile.ZipFile(simulation_files / "wavy.zip") as archive:
        archive.extractall(folder)
    meshes = {name: f"{name}.{suffix}" for name, suffix in (("can", "vtu"), ("cth", "vtr"))}
    arrays = {
        key: expected_arrays(pv.read(simulation_files / file)) for key, file in meshes.items()
    }
    arrays["carotid"] = expected_arrays(pv.read(simulation_files / "carotid.vtk"))
    series = pv.PVDReader(folder / "wavy.pvd")
    for number, time in enumerate(series.time_values):
        series.set_active_time_value(time)
        (mesh,) = series.read()
        arrays[f"wavy-{number:04d}"] = expected_arrays(mesh)
    reader = pv.MultiBlockPlot3DReader(simulation_files / "bluntfinxyz.bin")
    reader.add_q_files(simulation_files / "bluntfinq.bin")
    reader.auto_detect_format = True
    block = expected_arrays(reader.read()[0])
    stored = ("points", "fields/Density", "fields/Momentum", "fields/StagnationEnergy")
    arrays["bluntfin"] = {name: block[name] for name in stored}
    return arrays


@pytest.fixture(scope="module")
def packed(simulation_files, tmp_path_factory):
    """A dataset of the whole folder, and its summary."""
    folder = tmp_path_factory.mktemp("packed") / "ds"
    summary = pack(sorted(simulation_files.iterdir()), folder.as_uri())
    return folder, summary


def test_the_summary_counts_the_samples_and_names_what_is_no_simulation(packed, expected):
    folder, summary = packed
    assert summary.samples == len(expected) == 19
    assert summary.arrays == len({name for arrays in expected.values() for name in arrays})
    nbytes = sum(a.nbytes for arrays in expected.values() for a in arrays.values())
    assert summary.source_bytes == summary.decoded_bytes == nbytes
    assert summary.stored_bytes == sum(p.stat().st_size for p in folder.glob("*.tar"))
    assert [Path(label).name for label, _ in summary.skipped] == ["Copyright.txt", "README.md"]


def test_zarr_python_reads_every_array_as_pyvista_does(packed, expected):
    stored = read_with_zarr(packed[0])
    assert set(stored) == set(expected)
    for key, arrays in expected.items():
        assert_same_arrays(stored[key][1], arrays)


def test_a_dataset_reads_every_array_as_pyvista_does(packed, expected, tmp_path):
    datasets = pytest.importorskip("dataplane.datasets", reason="the torch extra is not installed")
    with datasets.Dataset(packed[0].as_uri(), cache=tmp_path / "cache") as dataset:
        assert list(dataset.keys) == sorted(expected)
        for number, key in enumerate(dataset.keys):
            sample = dict(dataset[number])
            assert sample.pop("__key__") == key
            found = {name: tensor.numpy() for name, tensor in sample.items()}
            assert_same_arrays(found, expected[key])
        step = dataset.attributes(list(dataset.keys).index("wavy-0003"))
    assert (step["time"], step["timestep"], step["series"]) == (3, 3, "wavy")


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_every_codec_stores_the_same_values(tmp_path, codec):
    pack(_example_paths(), (tmp_path / "ds").as_uri(), WriteOptions(codec=codec))
    stored = read_with_zarr(tmp_path / "ds")
    expected = _expected_of_examples()
    assert set(stored) == set(expected)
    for key, arrays in expected.items():
        assert_same_arrays(stored[key][1], arrays)


def test_small_chunks_and_shards_store_the_same_values(tmp_path):
    options = WriteOptions(chunk_bytes=4 << 10, shard_bytes=1 << 16, workers=2)
    summary = pack(_example_paths(), (tmp_path / "ds").as_uri(), options)
    assert summary.shards > 1
    stored = read_with_zarr(tmp_path / "ds")
    for key, arrays in _expected_of_examples().items():
        assert_same_arrays(stored[key][1], arrays)


def test_a_permuted_mesh_is_the_same_mesh(tmp_path):
    path = Path(pv.examples.dir_path, "hexbeam.vtk")
    pack([path], (tmp_path / "ds").as_uri(), WriteOptions(permute_seed=7))
    _, arrays, _ = read_with_zarr(tmp_path / "ds")["hexbeam"]
    before = expected_arrays(pv.read(path))
    assert not np.array_equal(arrays["points"], before["points"])
    # Points are distinct, so their coordinates say where each went; its data went along.
    where = {tuple(point): number for number, point in enumerate(before["points"])}
    order = np.array([where[tuple(point)] for point in arrays["points"]])
    assert np.array_equal(np.sort(order), np.arange(len(order)))
    for name in ("point_data/sample_point_scalars", "point_data/VTKorigID"):
        assert np.array_equal(arrays[name], before[name][order])
    # Each cell joins the same places in the same sense, and kept its own data.
    old_cells = before["points"][before["cells/connectivity"].reshape(-1, 8)]
    new_cells = arrays["points"][arrays["cells/connectivity"].reshape(-1, 8)]
    assert np.array_equal(arrays["cells/offsets"], before["cells/offsets"])
    cell_of = {cell.tobytes(): number for number, cell in enumerate(old_cells)}
    cells = np.array([cell_of[cell.tobytes()] for cell in new_cells])
    assert np.array_equal(np.sort(cells), np.arange(len(old_cells)))
    assert not np.array_equal(cells, np.arange(len(old_cells)))
    data = "cell_data/sample_cell_scalars"
    assert np.array_equal(arrays[data], before[data][cells])


def test_a_permutation_leaves_grids_alone(tmp_path):
    path = Path(pv.examples.dir_path, "uniform.vtk")
    pack([path], (tmp_path / "ds").as_uri(), WriteOptions(permute_seed=7))
    assert_same_arrays(
        read_with_zarr(tmp_path / "ds")["uniform"][1], expected_arrays(pv.read(path))
    )


def test_a_permuted_mesh_of_all_kinds_of_cells_is_the_same_mesh(tmp_path):
    points = np.random.default_rng(1).random((9, 3))
    surface = pv.PolyData(
        points, verts=[1, 0, 1, 3], lines=[3, 1, 2, 3], faces=[3, 0, 1, 2, 5, 4, 5, 6, 7, 8]
    )
    surface.cell_data["number"] = np.arange(surface.n_cells)
    surface.save(tmp_path / "case.vtp")
    pack([tmp_path / "case.vtp"], (tmp_path / "ds").as_uri(), WriteOptions(permute_seed=3))
    arrays = read_with_zarr(tmp_path / "ds")["case"][1]
    before = expected_arrays(pv.read(tmp_path / "case.vtp"))

    def cells(of):
        runs = np.split(of["cells/connectivity"], of["cells/offsets"][1:-1])
        return {
            (int(number), int(kind)): of["points"][run].tobytes()
            for number, kind, run in zip(
                of["cell_data/number"], of["cells/types"], runs, strict=True
            )
        }

    assert cells(arrays) == cells(before)
    assert not np.array_equal(arrays["cell_data/number"], before["cell_data/number"])


def test_float32_narrows_floats_and_nothing_else(tmp_path):
    pack(_example_paths(), (tmp_path / "ds").as_uri(), WriteOptions(float32=True))
    stored = read_with_zarr(tmp_path / "ds")
    for key, arrays in _expected_of_examples().items():
        narrowed = {
            name: values.astype("f4") if values.dtype == np.float64 else values
            for name, values in arrays.items()
        }
        assert_same_arrays(stored[key][1], narrowed)


@pytest.mark.parametrize("bits", [8, 16])
def test_rounding_stays_within_its_bound_and_packs_smaller(tmp_path, bits):
    rng = np.random.default_rng(0)
    image = pv.ImageData(dimensions=(32, 32, 32))
    image.point_data["p"] = rng.standard_normal(32**3).astype(np.float32)
    image.point_data["ids"] = np.arange(32**3)
    image.save(tmp_path / "case.vti")
    sizes = []
    for name, options in (("all", WriteOptions()), ("some", WriteOptions(round_bits=bits))):
        sizes.append(
            pack([tmp_path / "case.vti"], (tmp_path / name).as_uri(), options).stored_bytes
        )
    stored = read_with_zarr(tmp_path / "some")["case"][1]
    values = image.point_data["p"].reshape(32, 32, 32)
    error = np.abs(stored["fields/p"] - values) / np.abs(values)
    assert 0 < error.max() <= 2.0 ** -(bits + 1)
    assert np.array_equal(stored["fields/ids"].reshape(-1), np.arange(32**3))
    assert sizes[1] < 0.95 * sizes[0]


ODD_NAMES = (
    *("Volume Fraction for Body, Nose", "p (Pa) [abs] {x}", "v.x", "größe", "a+b=c&d;e", "#1 'q'"),
    *("p/q", "back\\slash", "100%", "..", "__hidden", "zarr.json", "c", "new\nline", '"quoted"'),
)


def test_odd_names_are_read_by_zarr_tensorstore_and_unzip(tmp_path):
    ts = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    from dataplane.pack.names import array_segment, decode_segment

    # Not through a file: VTK's own writers cannot write some of these, other programs can.
    arrays = {
        f"fields/{array_segment(name)}": SourceArray(
            (np.arange(24.0) + number).reshape(2, 3, 4), attributes={"name": name}
        )
        for number, name in enumerate(ODD_NAMES)
    }
    with DatasetWriter(open_store((tmp_path / "ds").as_uri())) as writer:
        writer.add(SourceSample("case", arrays))
    _, arrays, attributes = read_with_zarr(tmp_path / "ds")["case"]
    assert set(arrays) == {f"fields/{array_segment(name)}" for name in ODD_NAMES}
    with tarfile.open(tmp_path / "ds" / "shard-000000.tar") as archive:
        archive.extractall(tmp_path / "plain", filter="data")
    with zipfile.ZipFile(tmp_path / "plain" / "case.zarr.zip") as archive:
        assert archive.testzip() is None
    for number, name in enumerate(ODD_NAMES):
        path = f"fields/{array_segment(name)}"
        expected = (np.arange(24.0) + number).reshape(2, 3, 4)
        assert np.array_equal(arrays[path], expected)
        assert attributes[path]["name"] == name
        assert decode_segment(path.removeprefix("fields/")) == name
        base = {"driver": "file", "path": str(tmp_path / "plain" / "case.zarr.zip")}
        store = {"driver": "zip", "base": base, "path": f"{path}/"}
        opened = ts.open({"driver": "zarr3", "kvstore": store}, read=True).result()
        assert np.array_equal(opened.read().result(), expected)


def test_generated_samples_are_stored_as_they_are(tmp_path):
    from dataplane_testing.generate import generate_samples

    samples = {s.key: s for s in generate_samples(1 << 20, seed=5)}
    store = open_store((tmp_path / "ds").as_uri())
    with DatasetWriter(store, WriteOptions()) as writer:
        for sample in samples.values():
            writer.add(sample)
    stored = read_with_zarr(tmp_path / "ds")
    assert set(stored) == set(samples)
    for key, sample in samples.items():
        assert_same_arrays(stored[key][1], {n: a.values for n, a in sample.arrays.items()})
