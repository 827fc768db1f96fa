"""Values that are NaN or infinite: counted, named, and refused when that is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dataplane.cli.info import info
from dataplane.cli.pack import pack as pack_command
from dataplane.errors import FormatError
from dataplane.shards import DatasetIndex, DatasetWriter, SourceArray, SourceSample, WriteOptions
from dataplane.shards.nonfinite import NonFinite
from dataplane.shards.summary import summarise
from dataplane.stores import Store, open_store


def diverged(key: str, nans: int = 0, infinities: int = 0) -> SourceSample:
    """A sample with a field of vectors, an enthalpy of complex numbers, and integers."""
    vectors = np.arange(300.0).reshape(100, 3)
    vectors[:nans, 1] = np.nan
    vectors[50 : 50 + infinities, 0] = -np.inf
    numbers = np.ones(10, complex)
    numbers[:nans] = complex(1, np.nan)
    return SourceSample(key, {
        "u": SourceArray(vectors), "h": SourceArray(numbers), "n": SourceArray(np.arange(7)),
    })  # fmt: skip


def test_a_pack_counts_them_per_array_and_names_the_first_sample(store: Store) -> None:
    with DatasetWriter(store, WriteOptions(chunk_bytes=1024)) as writer:
        for sample in (diverged("a"), diverged("b", 2, 1), diverged("c", 3)):
            writer.add(sample)
        summary = writer.finish()
    assert sorted(summary.nonfinite, key=lambda one: one.array) == [
        NonFinite("h", None, 5, 2, "b"),
        NonFinite("u", 5, 6, 2, "b"),
    ]
    assert str(summary.nonfinite[0]) == ("u: 5 NaN and 1 infinite values in 2 samples, the first b")


def test_the_index_has_the_counts_of_every_array(pack: Callable[..., Store]) -> None:
    index = DatasetIndex.load(pack(diverged("a"), diverged("b", 2, 1)))
    clean, dirty = index[0].arrays, index[1].arrays
    assert [clean[name].measured.nonfinite_count for name in "uhn"] == [0, 0, 0]
    assert [dirty[name].measured.nonfinite_count for name in "uhn"] == [3, 2, 0]
    assert dirty["u"].stats is not None
    assert dirty["u"].stats.nan_count == 2
    assert dirty["u"].stats.minimum == -math.inf
    assert dirty["h"].stats is None


def test_info_names_them_and_says_the_extremes_of_the_rest(
    pack: Callable[..., Store], folder: Path
) -> None:
    pack(diverged("a"), diverged("b", nans=2))
    text = CliRunner().invoke(info, [str(folder)], catch_exceptions=False).output
    assert "not finite: u: 2 NaN values in sample b" in text
    assert "not finite: h: 2 values NaN or infinite in sample b" in text
    document = CliRunner().invoke(info, [str(folder), "--json"], catch_exceptions=False).output
    u = json.loads(document, parse_constant=pytest.fail)["arrays"][0]
    assert (u["minimum"], u["maximum"], u["nan_count"], u["nonfinite_count"]) == (0, 299, 2, 2)
    assert (u["nonfinite_samples"], u["nonfinite_first"]) == (1, "b")


def test_a_dataset_without_any_has_no_such_line(pack: Callable[..., Store], folder: Path) -> None:
    pack(diverged("a"))
    text = CliRunner().invoke(info, [str(folder)], catch_exceptions=False).output
    assert "not finite" not in text


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (diverged("b", 1), "sample 'b': array 'u' has 1 NaN value"),
        (diverged("b", 0, 1), "sample 'b': array 'u' has 1 infinite value"),
        (
            SourceSample("b", {"z": SourceArray(np.full(3, complex(np.inf, 0)))}),
            "sample 'b': array 'z' has 3 values NaN or infinite",
        ),
    ],
)
def test_a_sample_is_refused_when_asked_for_and_others_are_not(
    store: Store, sample: SourceSample, words: str
) -> None:
    with DatasetWriter(store, WriteOptions(fail_on_nan=True)) as writer:
        writer.add(diverged("a"))
        with pytest.raises(FormatError, match=words):
            writer.add(sample)
        writer.add(diverged("c"))
    assert list(DatasetIndex.load(store).keys) == ["a", "c"]


def test_mean_and_deviation_are_those_of_all_samples_together(pack: Callable[..., Store]) -> None:
    rng = np.random.default_rng(3)
    fields = [rng.normal(5 * k, 1 + k, (rows, 3)) for k, rows in enumerate((50, 1000, 7))]
    fields[1][:40, 2] = np.nan
    index = DatasetIndex.load(
        pack(*(SourceSample(f"s{k}", {"u": SourceArray(it)}) for k, it in enumerate(fields)))
    )
    (u,) = summarise(index)
    together = np.concatenate(fields)
    assert u.mean == pytest.approx(np.nanmean(together), rel=1e-12)
    assert u.std == pytest.approx(np.nanstd(together), rel=1e-12)
    assert [one.mean for one in u.components] == pytest.approx(np.nanmean(together, axis=0))
    assert [one.std for one in u.components] == pytest.approx(np.nanstd(together, axis=0))
    assert [one.minimum for one in u.components] == np.nanmin(together, axis=0).tolist()
    assert [one.maximum for one in u.components] == np.nanmax(together, axis=0).tolist()


def test_the_command_names_what_diverged_and_skips_or_stops_when_asked(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    np.save(runs / "a.npy", np.arange(10.0))
    np.save(runs / "b.npy", np.array([1.0, np.nan, np.inf, np.nan]))

    def run(*options: str) -> Result:
        arguments = [str(runs), f"{tmp_path}/out", "--overwrite", *options]
        return CliRunner().invoke(pack_command, arguments)

    summary = run()
    assert "not finite: values: 2 NaN and 1 infinite values in sample b" in summary.output
    assert json.loads(run("--json").stdout)["nonfinite"] == [
        {
            "array": "values", "nan_count": 2, "nonfinite_count": 3,
            "samples": 1, "first_sample": "b",
        }
    ]  # fmt: skip
    skipped = run("--fail-on-nan")
    assert skipped.exit_code == 0
    (line,) = skipped.stderr.splitlines()
    assert line.startswith("skipped ")
    assert "b.npy: sample 'b': array 'values' has 2 NaN and 1 infinite values" in line
    assert list(DatasetIndex.load(open_store(f"file://{tmp_path}/out")).keys) == ["a"]
    stopped = run("--fail-on-nan", "--on-error", "fail")
    assert isinstance(stopped.exception, FormatError)
    assert "has 2 NaN and 1 infinite values" in str(stopped.exception)
    assert not (tmp_path / "out" / "index.parquet").exists()


@pytest.mark.parametrize(
    ("shape", "names", "dtype", "count"),
    [
        ((40, 3), None, "f4", 3),
        ((40, 3), ("point", "axis"), "f8", 3),
        ((40, 3), ("y", "x"), "f4", 0),
        ((40, 17), None, "f4", 0),
        ((40, 3, 3), None, "f4", 0),
        ((40, 3), None, "i4", 0),
        ((40,), None, "f4", 0),
        ((), None, "f4", 0),
        ((0, 3), None, "f4", 0),
    ],
)
def test_components_are_those_of_vectors_and_of_nothing_else(
    store: Store, shape: tuple[int, ...], names: tuple[str, ...] | None, dtype: str, count: int
) -> None:
    with DatasetWriter(store) as writer:
        writer.add(SourceSample("a", {"v": SourceArray(np.ones(shape, dtype), names)}))
    measured = DatasetIndex.load(store)[0].arrays["v"].measured
    assert len(measured.components) == count
