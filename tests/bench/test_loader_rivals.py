"""Every rival of the loader case that is installed reads exact bytes, cold and warm."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dataplane_bench.cases.loader_forms import FORM_OF, Stored, store_forms
from dataplane_bench.cases.loader_systems import RIVALS, OurLoader, start_ours, start_rival
from dataplane_bench.cases.loader_table import case_named
from dataplane_bench.model import LeftOut
from dataplane_bench.rivals.loader_mosaicml import stand_ins
from dataplane_bench.rivals.loaders import LoaderInput, consume, cut_sample, digest_of, draw_box
from dataplane_testing.s3 import S3Endpoint

_PACKAGES = {
    "litdata": "litdata",
    "mosaicml-streaming": "streaming",
    "tensorstore": "tensorstore",
    "webdataset": "webdataset",
    "zarr-python": "zarr",
}
_CASE = case_named("volumes-14mb").shrunk()
_SAMPLES = 16


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    root = tmp_path_factory.mktemp("s3") / "s3"
    with S3Endpoint(root=root, buckets=("bench",)) as one, one.exported():
        yield one


@pytest.fixture(scope="module")
def stored(endpoint: S3Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return store_forms(
        tmp_path_factory.mktemp("forms"),
        _CASE,
        _SAMPLES,
        codec="lz4",
        seed=3,
        batch_size=5,
        endpoint=endpoint,
        bucket="bench",
        forms=list(dict.fromkeys(FORM_OF.values())),
        progress=lambda _: None,
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("state", ["warm", "cold"])
@pytest.mark.parametrize("name", sorted(RIVALS))
def test_a_rival_delivers_every_sample_as_it_was(name: str, state: str, stored: Stored) -> None:
    if importlib.util.find_spec(_PACKAGES[name]) is None:
        pytest.skip(f"{name} is not installed: make bench-peers")
    assert stored.left_out(name) is None
    given = dataclasses.replace(stored.given, cold=state == "cold")
    found = start_rival(name, given, 0, lambda _: None, choose=False)
    assert not isinstance(found, LeftOut), found
    system, settings = found
    try:
        cost = system.run(0.001)  # it compares with the digest of what was generated
    finally:
        system.close()
    assert settings in RIVALS[name].SETTINGS
    assert (cost.samples, cost.nbytes) == (_SAMPLES, _SAMPLES * _CASE.sample_bytes)
    assert cost.first_batch_s
    assert cost.utilisation
    assert cost.peak_rss_bytes


@pytest.mark.parametrize("state", ["warm", "cold"])
def test_what_would_be_thrown_away_is_not_fetched_by_ours(state: str, stored: Stored) -> None:
    given = dataclasses.replace(stored.given, cold=state == "cold")
    system, settings = start_ours(OurLoader, given, 0)
    try:
        cost = system.run(0.001)
    finally:
        system.close()
    assert settings == ("next_epoch_bytes=0" if given.cold else None)
    assert (cost.samples, cost.nbytes) == (_SAMPLES, _SAMPLES * _CASE.sample_bytes)


def test_a_form_of_a_package_that_is_missing_leaves_its_rivals_out(stored: Stored) -> None:
    lacking = Stored(stored.given, {"zarr": "RivalFailed: needs zarr"})
    for name in ("zarr-python", "tensorstore"):
        assert lacking.left_out(name) == LeftOut(name, "RivalFailed: needs zarr")
    assert lacking.left_out("webdataset") is None
    assert set(FORM_OF) == set(RIVALS) == set(_PACKAGES)


def _given(stored: Stored, digest: int | None) -> LoaderInput:
    return dataclasses.replace(
        stored.given, shapes={"x": (2048,)}, samples=4, batch_size=2, digest=digest
    )


def test_an_epoch_with_other_bytes_or_samples_is_an_error(stored: Stored) -> None:
    values = np.arange(4 * 2048, dtype=np.float32).reshape(4, 2048)
    batches = [{"x": torch.from_numpy(values[first : first + 2].copy())} for first in (2, 0)]
    digest = digest_of(values)
    assert consume(batches, _given(stored, digest)).nbytes == values.nbytes
    batches[1]["x"][1, 1024] += 1
    with pytest.raises(RuntimeError, match="other bytes"):
        consume(batches, _given(stored, digest))
    with pytest.raises(RuntimeError, match="held 2 samples instead of 4"):
        consume(batches[:1], _given(stored, None))


def test_one_box_is_cut_from_all_arrays_of_a_sample() -> None:
    grid = np.arange(8**3, dtype=np.float32).reshape(8, 8, 8)
    sample = {"pressure": grid, "velocity": np.stack([grid, -grid], axis=-1)}
    cut = cut_sample(sample, ("crop", 3), np.random.default_rng(1))
    assert cut["pressure"].shape == (3, 3, 3)
    assert torch.equal(cut["velocity"][..., 1], -cut["pressure"])
    assert cut["pressure"][0, 0, 1] - cut["pressure"][0, 0, 0] == 1
    (rows,) = draw_box((10, 3), ("run", 10), np.random.default_rng(1))
    assert (rows.start, rows.stop) == (0, 10)


def test_empty_modules_stand_in_only_for_what_is_missing_and_only_meanwhile() -> None:
    with stand_ins(["no_such_package", "json"]):
        module = importlib.import_module("no_such_package.deep.inside")
        assert not isinstance({}, module.Anything)
        assert importlib.import_module("json").loads("1") == 1
    assert not [name for name in sys.modules if name.startswith("no_such_package")]
    assert importlib.util.find_spec("no_such_package") is None
