"""What is refused before anything runs, in one clear line, and what says why DALI is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch.utils.data

import dataplane as dp
from dataplane import dali_ops as ops
from tests.datasets.packed import Packed
from tests.gpu_dali.cases import SAMPLES, packed, volumes

pytest.importorskip("nvidia.dali", reason="there is no DALI for this platform")

DENSITY = "fields/density"


def made(of: Any, operations: Any = (), **options: Any) -> Any:
    return dp.dali_pipeline(of, options.pop("batch_size", 2), operations, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ops.normalise, "normalise: no array is named"),
        (lambda: ops.normalise("a", mean=1), "mean and std go together"),
        (lambda: ops.normalise("a", mean=1, std=0), "std must be above 0"),
        (lambda: ops.normalise("a", mean=[1, 2], std=[1]), "one for each mean"),
        (lambda: ops.normalise("a", mean="x", std=1), "normalise: mean must be a finite number"),
        (lambda: ops.random_crop((4, 4)), r"crop: size must be z, y, x extents"),
        (lambda: ops.random_crop((4, 4, 0)), r"extents above 0, got \(4, 4, 0\)"),
        (lambda: ops.centre_crop(2.5), r"extents above 0, got 2.5"),
        (lambda: ops.flip("w"), "axes must be some of 'zyx', got 'w'"),
        (lambda: ops.flip("xx"), "axes must be some of 'zyx', got 'xx'"),
        (lambda: ops.flip(probability=2), "flip: probability must be a finite number, from 0 to 1"),
        (lambda: ops.rotate90("xx"), "planes must be of 'yx', 'zx' and 'zy'"),
        (lambda: ops.rotate90([]), "planes must be of"),
        (lambda: ops.rotate(200), "rotate: degrees must be a finite number, from 0 to 180"),
        (lambda: ops.rotate(5, axis="w"), "axis must be 'x', 'y', 'z' or three numbers"),
        (lambda: ops.rotate(5, axis=(0, 0, 0)), "axis has no direction"),
        (lambda: ops.rotate(5, spacing=(1, 1, 0)), "spacing must be above 0"),
        (lambda: ops.rotate(5, spacing=(1, 1)), "spacing must be three numbers"),
        (lambda: ops.rotate(5, outside="wrap"), "outside must be 'edge' or 'zero', got 'wrap'"),
        (ops.zoom, "zoom: no factor is given"),
        (lambda: ops.zoom((1.2, 0.8)), "the lower bound comes first"),
        (lambda: ops.zoom((1, 2, 3)), "a number or two bounds"),
        (lambda: ops.zoom(0), "zoom: factor must be a finite number, at least 0.001"),
        (lambda: ops.noise(-1, arrays=["a"]), "noise: std must be a finite number, at least 0"),
        (lambda: ops.channel_drop(1.1, arrays=["a"]), "channel_drop: probability"),
        (lambda: ops.cast("complex64"), "'complex64' is no element type of DALI"),
        (lambda: ops.cast("floot"), "'floot' is no element type of DALI"),
        (lambda: ops.affine(scale=0), "affine: scale must be a finite number"),
        (lambda: ops.affine(shift=-1), "shift must be at least 0"),
        (lambda: ops.affine(centre=(1, 2)), "centre must be three numbers"),
        (lambda: ops.jitter(float("nan")), "jitter: std must be a finite number"),
        (lambda: ops.unit_scale("cube"), "to must be 'box' or 'ball', got 'cube'"),
    ],
)  # fmt: skip
def test_an_argument_that_cannot_be_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(dp.ConfigError, match=message):
        wrong()


@pytest.mark.parametrize(
    ("operations", "options", "message"),
    [
        ([ops.normalise("density")], {}, "normalise: there is no array .*'fields/density'"),
        ([ops.noise(1, arrays=["p"])], {}, "noise: arrays: there is no array 'p'"),
        ([ops.noise(1, arrays="fields/density")], {}, "'fields/density' is one string"),
        ([ops.cast("float16", arrays=["x"])], {}, "cast: arrays: there is no array 'x'"),
        ([ops.channel_drop(1, arrays=["x"])], {}, "channel_drop: arrays: there is no array 'x'"),
        ([], {"volumes": ["fields/denisty"]}, "volumes: there is no array 'fields/denisty'"),
        ([], {"labels": ["x"]}, "labels: there is no array 'x'"),
        ([], {"vectors": "fields/velocity"}, "vectors='fields/velocity' is one string"),
        ([], {"layouts": {"x": "DHW"}}, "layouts: there is no array 'x'"),
        ([], {"layouts": {DENSITY: "HWD"}}, "3 dimensions and layout 'HWD'"),
        ([], {"vectors": [DENSITY]}, r"must have the shape \[D, H, W, 3\], got \[8, 8, 8\]"),
        ([], {"vectors": ["fields/pair"]}, r"got \[8, 8, 8, 2\]"),
        ([], {"points": ["global_data/mach"]}, r"must have the shape \[N, 3\], got \[\]"),
        ([], {"points": [DENSITY], "volumes": [DENSITY]}, "is named in points and in volumes"),
        ([], {"labels": ["global_data/mach"]}, "labels: 'global_data/mach' is no volume"),
        (
            [],
            {"labels": ["fields/velocity"], "vectors": ["fields/velocity"]},
            "is named in labels and in vectors",
        ),
        ([ops.normalise("fields/label")], {"labels": ["fields/label"]}, "is named in labels"),
        ([ops.normalise(DENSITY, mean=[1, 2], std=[1, 2])], {}, "has 1 components, got .* of 2"),
        ([ops.noise(1, arrays=["fields/label"])], {}, "has elements of type int32"),
        ([ops.noise(1, arrays=[DENSITY])], {"labels": [DENSITY]}, "and is a label"),
        ([ops.random_crop(9)], {}, r"has extents \(8, 8, 8\) .* less than the crop's \(9, 9, 9\)"),
        ([ops.random_crop(4), ops.random_crop(5)], {}, r"has extents \(4, 4, 4\)"),
        ([ops.jitter(1)], {}, "jitter moves points, and no array is named so"),
        ([ops.affine()], {}, "affine moves points"),
        ([ops.unit_scale()], {}, "unit_scale moves points"),
        ([ops.flip()], {"volumes": []}, "flip moves the voxels of volumes, and there are none"),
        ([ops.rotate(3)], {"volumes": []}, "rotate moves the voxels of volumes"),
        ([ops.cast("int8", arrays=["fields/velocity"])], {"vectors": ["fields/velocity"]}, "cast:"),
        (["flip"], {}, r"ops\[0\] is no operation but a value of type str"),
        (ops.flip(), {}, "ops must be a list of operations, got a value of type Definition"),
        ([], {"batch_sampler": [[0, 1]]}, "batch_sampler= decides how large batches are"),
        ([], {"batch_size": 0}, "batch_size must be a whole number above 0, got 0"),
        ([], {"threads": 0}, "threads must be"),
        ([], {"prefetch": True}, "prefetch must be"),
        ([], {"device_id": -1}, "device_id must be the number of a GPU, None or 'auto', got -1"),
        ([], {"device_id": "cuda"}, "got 'cuda'"),
        ([], {"in_order": False}, "in_order=False cannot be done"),
        ([], {"keys": False}, "keys=False cannot be done"),
        ([], {"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_arrays_is_refused_before_anything_is_read(
    volume_set: dp.Dataset, operations: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(dp.ConfigError, match=message):
        made(volume_set, operations, **options)


def test_other_datasets_are_sent_to_the_source(volume_set: dp.Dataset) -> None:
    with pytest.raises(dp.ConfigError, match=r"takes a dataplane.Dataset.*dp.dali_source"):
        made([1, 2, 3])
    with pytest.raises(dp.ConfigError, match=r"takes a dataplane.Dataset"):
        made(torch.utils.data.StackDataset(volume_set))


def test_volumes_of_different_extents_are_told_apart(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"a": np.zeros((4, 4, 4)), "b": np.zeros((4, 4, 5))}])
    dataset = dp.Dataset(data.url, cache=False)
    with pytest.raises(dp.ConfigError, match=r"'a' has \[4, 4, 4\], 'b' has \[4, 4, 5\]"):
        made(dataset)
    (batch,) = made(dataset, [ops.random_crop(3)], volumes=["a"])
    assert batch["a"].shape == (1, 3, 3, 3)
    assert batch["b"].shape == (1, 4, 4, 5)


def test_volumes_that_part_in_one_sample_are_named_with_it(tmp_path: Path) -> None:
    shapes = [((4, 4, 4), (4, 4, 4)), ((5, 4, 4), (6, 4, 4))]
    data = packed(tmp_path, [{"a": np.zeros(a), "b": np.zeros(b)} for a, b in shapes])
    dataset = dp.Dataset(data.url, cache=False)
    with pytest.raises(dp.LoaderError, match=r"volumes of sample 'case-1' .*\(5, 4, 4\).*'b'"):
        list(made(dataset, [ops.flip()]))


def test_a_sample_that_is_smaller_than_the_crop_is_named(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"a": np.zeros((n, 9, 9))} for n in (9, 5, 9)])
    with pytest.raises(dp.ConfigError, match=r"crop: sample 'case-1' has extents \(5, 9, 9\)"):
        list(made(dp.Dataset(data.url, cache=False), [ops.random_crop(8)]))


def test_types_and_shapes_that_dali_has_not_are_named(tmp_path: Path) -> None:
    data = packed(tmp_path / "complex", [{"a": np.zeros(3, "c8")}])
    with pytest.raises(dp.ConfigError, match="'a' has elements of type complex64, which DALI has"):
        made(dp.Dataset(data.url, cache=False))
    mixed = [{"a": np.zeros((2, 3), "f4")}, {"a": np.zeros((2, 3), "f8")}]
    data = packed(tmp_path / "mixed", mixed)
    with pytest.raises(dp.ConfigError, match="elements of float32, float64"):
        made(dp.Dataset(data.url, cache=False))
    lacking = [{"a": np.zeros((2, 3, 4)), "b": np.zeros((2, n, n))} for n in (2, 3, 4)]
    del lacking[1]["b"]
    data = packed(tmp_path / "lacking", lacking)
    with pytest.raises(dp.ConfigError, match="'b' is missing in 1 samples"):
        made(dp.Dataset(data.url, cache=False), volumes=["a"])
    channels = [{"a": np.zeros((4, 4, 4, n))} for n in (2, 3)]
    data = packed(tmp_path / "channels", channels)
    with pytest.raises(dp.ConfigError, match="another number of components in other samples"):
        made(dp.Dataset(data.url, cache=False))


def test_a_dataset_without_stored_statistics_says_so_and_what_to_give(tmp_path: Path) -> None:
    data = packed(tmp_path, [volumes(n) for n in range(2)])
    path = tmp_path / "index.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("mean")
    rows = zip(table.column("array").to_pylist(), table.column("mean").to_pylist(), strict=True)
    empty = [None if name == DENSITY else mean for name, mean in rows]
    pq.write_table(table.set_column(place, table.schema.field("mean"), [empty]), path)
    dataset = dp.Dataset(data.url, arrays=[DENSITY], cache=False)
    with pytest.raises(
        dp.ConfigError, match=r"has no statistics of array 'fields/density' .*'case-0'.*mean= and"
    ):
        made(dataset, [ops.normalise(DENSITY)])
    assert len(list(made(dataset, [ops.normalise(DENSITY, mean=5, std=3)]))) == 1
    with pytest.raises(dp.ConfigError, match="no statistics of each component"):
        made(dataset, [ops.normalise(DENSITY, per_component=True)])


def test_an_array_of_nothing_but_nan_has_no_statistics(tmp_path: Path) -> None:
    data = packed(tmp_path, [{"a": np.full(4, np.nan)}] * 2)
    with pytest.raises(dp.ConfigError, match="'a' has no finite values"):
        made(dp.Dataset(data.url, cache=False), [ops.normalise("a")])


def test_a_transform_that_changes_shapes_or_leaves_arrays_out_is_named(volume_data: Packed) -> None:
    def run(transform: Any) -> None:
        names = [DENSITY, "fields/velocity"]
        dataset = dp.Dataset(volume_data.url, arrays=names, transform=transform, cache=False)
        list(made(dataset, [ops.flip()]))

    with pytest.raises(dp.LoaderError, match=r"float32\[8, 8, 4\].*made for float32\[8, 8, 8\]"):
        run(lambda sample: {**sample, DENSITY: sample[DENSITY][..., :4]})
    with pytest.raises(dp.LoaderError, match=r"is float64\[8, 8, 8\]"):
        run(lambda sample: {**sample, DENSITY: sample[DENSITY].double()})
    with pytest.raises(dp.LoaderError, match="no array 'fields/density'"):
        run(lambda sample: {name: sample[name] for name in ("fields/velocity", "__key__")})
    with pytest.raises(dp.LoaderError, match="the batch has no keys"):
        run(lambda sample: {name: sample[name] for name in (DENSITY, "fields/velocity")})


def test_a_failure_within_dali_is_said_as_such(volume_set: dp.Dataset) -> None:
    one = made(volume_set, [ops.flip()])

    def fail(*_: object) -> None:
        raise RuntimeError("encountered: out of memory")

    one.pipeline.run = fail
    with pytest.raises(dp.LoaderError, match=r"DALI could not run the operations: .*out of memory"):
        next(iter(one))


_WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "nvidia" or name.startswith("nvidia."):
            raise {error}
sys.meta_path.insert(0, Blocked())
import dataplane as dp
from dataplane import dali_ops
dali_ops.flip()
ds = dp.Dataset(sys.argv[1], cache=False)
for call in (
    lambda: dp.dali_pipeline(ds, 2, [dali_ops.flip()]),
    lambda: dp.dali_source(dp.DataLoader(ds)).outputs(),
):
    try:
        call()
    except dp.MissingPackage as err:
        print(type(err).__name__, err)
"""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            "ModuleNotFoundError(f'No module named {name!r}', name=name)",
            "need the Python package nvidia-dali, which is not installed",
        ),
        ("ImportError('libcuda.so.1: too old')", "cannot be loaded: libcuda.so.1: too old"),
    ],
)
def test_without_dali_one_line_says_what_to_install(
    volume_data: Packed, error: str, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(error=error), volume_data.url],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert message in first
    assert "dali-cuda13" in first
    assert "dali-cuda12" in first


def test_dali_is_imported_at_its_first_use_and_without_a_warning(volume_data: Packed) -> None:
    program = """
import sys
import dataplane as dp
from dataplane import dali_ops as ops
ops.flip()
assert not any(name.partition(".")[0] == "nvidia" for name in sys.modules)
ds = dp.Dataset(sys.argv[1], arrays=["fields/density"], cache=False)
pipeline = dp.dali_pipeline(ds, 4, [ops.flip(), ops.rotate(5)], device_id="auto")
print(sum(len(batch["__key__"]) for batch in pipeline), pipeline.device_id)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, volume_data.url],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    count, device = done.stdout.split()
    assert int(count) == SAMPLES
    assert device == ("0" if torch.cuda.is_available() else "None")
