"""Loaders of mixes: order, sources in batches, looks, resuming, and contradictions."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset

import dataplane as dp
from dataplane.cache import CacheConfig
from dataplane.datasets.mixture import Mix
from tests.datasets.packed import Packed, pack, source_sample
from tests.loader.inside import epoch_of_plan
from tests.loader.stops import WORLDS, assert_every_batch_is_a_stopping_place

LENGTH = 45


@pytest.fixture(scope="module")
def urls(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Eleven samples from 0 on, four from 20 on."""
    second = pack(tmp_path_factory.mktemp("second") / "ds", map(source_sample, range(20, 24)))
    return [packed.url, second.url]


def noisy(sample: dict[str, Any]) -> dict[str, Any]:
    return {"__key__": sample["__key__"], "noise": int(torch.randint(1 << 40, ()))}


def mixed(urls: list[str], transform: Any = None, **arguments: Any) -> Mix:
    """A mix of three sources: some of the first dataset, both concatenated, the second."""
    one, other = (
        dp.Dataset(url, ["global_data/mach", "points"], cache=False, transform=transform)
        for url in urls
    )
    given = {
        "weights": [2, 5, 1],
        "stop": LENGTH,
        "names": ["some", "both", "other"],
        **arguments,
    }
    return dp.mix([Subset(one, [3, 1, 7]), ConcatDataset([one, other]), other], **given)


NUMBERS = [3, 1, 7, *range(11), *range(20, 24), *range(20, 24)]
"""Numbers of the samples of the mix, one after the other."""


def make(mix: Mix, **arguments: Any) -> dp.DataLoader[Any]:
    return dp.DataLoader(mix, **{"batch_size": 4, "seed": 5, **arguments})


def reads(loader: dp.DataLoader[Any]) -> list[tuple[str, str]]:
    return [
        pair for batch in loader for pair in zip(batch["__source__"], batch["__key__"], strict=True)
    ]


def expected(mix: Mix, epoch: int, shuffle: bool = True) -> list[tuple[str, str]]:
    samples = mix.rule(shuffle=shuffle).of_epoch(5, epoch).read(range(mix.epoch_length))[0]
    which = np.searchsorted(mix.cumulative_sizes, samples, side="right")
    return [
        (mix.names[source], f"case-{NUMBERS[sample]:03d}")
        for source, sample in zip(which, samples, strict=True)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("shuffle", [None, True, False])
def test_batches_come_in_the_order_of_the_mix_and_name_their_sources(
    urls: list[str], shuffle: bool | None, num_workers: int
) -> None:
    mix = mixed(urls)
    loader = make(mix, shuffle=shuffle, num_workers=num_workers)
    assert len(loader) == 12
    for epoch in range(2):
        found = reads(loader)
        assert found == expected(mix, epoch, shuffle is not False)
        shares = Counter(source for source, _ in found)
        assert shares == {"some": 11, "both": 28, "other": 6}
    assert "order=mixed" in repr(loader)


def test_a_batch_holds_what_its_samples_hold(urls: list[str]) -> None:
    mix = mixed(urls)
    by_key = {mix[i]["__key__"]: mix[i] for i in range(len(mix))}
    for batch in make(mix, num_workers=1):
        offsets = batch["points.offsets"].tolist()
        for place, key in enumerate(batch["__key__"]):
            points = batch["points"][offsets[place] : offsets[place + 1]]
            assert torch.equal(points, by_key[key]["points"])
            assert batch["global_data/mach"][place] == by_key[key]["global_data/mach"]


def test_sources_move_along_with_a_batch_on_every_way_to_it(urls: list[str]) -> None:
    mix = mixed(urls)
    whole = expected(mix, 0)
    for arguments in (
        {"device": "cpu"},
        {"device": "cpu", "decode": "gpu"},
        {"collate_fn": dp.collate},
        {"num_workers": 2, "collate_fn": dp.collate},
        {"num_workers": 1, "collate_fn": dp.collate, "transform_mode": "process"},
    ):
        assert reads(make(mix, **arguments)) == whole
    batch = next(iter(make(mix)))
    assert batch["__source__"].to("cpu") is batch["__source__"]
    assert isinstance(next(iter(make(mix, keys=False)))["__source__"], list)
    singles = [(one["__source__"], one["__key__"]) for one in make(mix, batch_size=None)]
    assert singles == whole


def test_a_transform_may_return_a_dict_of_its_own_and_the_source_is_added(
    urls: list[str],
) -> None:
    for num_workers in (0, 2):
        mix = mixed(urls, noisy)
        assert reads(make(mix, num_workers=num_workers)) == expected(mix, 0)
        assert mix[0]["__source__"] == "some"


def noise(urls: list[str], **arguments: Any) -> list[tuple[str, str, int]]:
    loader = make(mixed(urls, noisy), **arguments)
    return [
        (source, key, int(number))
        for batch in loader
        for source, key, number in zip(
            batch["__source__"], batch["__key__"], batch["noise"], strict=True
        )
    ]


def test_what_code_draws_differs_from_pass_to_pass_of_a_source(urls: list[str]) -> None:
    whole = noise(urls)
    assert [(source, key) for source, key, _ in whole] == expected(mixed(urls), 0)
    for source in ("some", "both", "other"):
        of_source = [(key, number) for one, key, number in whole if one == source]
        assert len(set(of_source)) == len(of_source)
    for arguments in (
        {"batch_size": 7},
        {"num_workers": 3},
        {"num_workers": 1, "transform_mode": "process"},
    ):
        assert noise(urls, **arguments) == whole


@pytest.mark.parametrize("before", WORLDS)
def test_a_run_goes_on_from_any_batch_with_any_world(urls: list[str], before: int) -> None:
    whole = noise(urls)
    mix = mixed(urls, noisy)

    def rank(rank: int, world: int, size: int) -> dp.DataLoader[Any]:
        return make(mix, rank=rank, world_size=world, batch_size=size)

    def samples(batch: Any) -> list[tuple[str, str, int]]:
        numbers = map(int, batch["noise"])
        return [*zip(batch["__source__"], batch["__key__"], numbers, strict=True)]

    assert_every_batch_is_a_stopping_place(rank, samples, whole, before)


def test_a_state_of_another_mix_is_refused(urls: list[str]) -> None:
    state = make(mixed(urls)).state_dict()
    make(mixed(urls, names=["a", "b", "c"])).load_state_dict(state)
    for other in ({"weights": [1, 5, 1]}, {"stop": LENGTH + 1}):
        with pytest.raises(dp.ConfigError, match="another mixed order"):
            make(mixed(urls, **other)).load_state_dict(state)
    with pytest.raises(dp.ConfigError, match="another mixed order"):
        make(mixed(urls), shuffle=False).load_state_dict(state)


def test_what_a_mix_contradicts_is_refused(urls: list[str]) -> None:
    mix = mixed(urls)
    for arguments, message in (
        ({"sampler": [1, 2]}, "a mix and a sampler both say the order"),
        ({"batch_sampler": [[1]], "batch_size": 1}, "a mix and a sampler both say the order"),
        ({"weights": [1.0] * len(mix)}, "weights are of samples"),
    ):
        with pytest.raises(dp.ConfigError, match=message):
            make(mix, **arguments)


def test_a_mix_and_its_loader_can_be_copied(urls: list[str]) -> None:
    mix = mixed(urls)
    loader = make(mix)
    assert reads(pickle.loads(pickle.dumps(loader))) == expected(mix, 0)
    assert reads(make(pickle.loads(pickle.dumps(mix)))) == expected(mix, 0)
    assert reads(dp.DataLoader(mix, 3, sampler=loader.sampler)) == expected(mix, 0)


def test_a_sample_that_replaces_another_names_its_own_source(
    urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sample of a source is replaced by the first of the next."""
    from dataplane.datasets.reader import SampleReader
    from dataplane.datasets.views import ViewReader
    from dataplane.errors import FormatError

    verified = SampleReader._verified

    def damaged(self: SampleReader, index: int, look: int) -> Any:
        sample = verified(self, index, look)
        if sample.plan.key == "case-007":
            raise FormatError("damaged")
        return sample

    monkeypatch.setattr(SampleReader, "_verified", damaged)
    monkeypatch.setattr(ViewReader, "fetch", ViewReader.recover)
    one = dp.Dataset(urls[0], ["global_data/mach"], cache=False, errors="replace")
    other = dp.Dataset(urls[1], ["global_data/mach"], cache=False, errors="replace")
    mix = dp.mix([Subset(one, [3, 7]), other], names=["one", "other"], stop="all")
    found = reads(make(mix))
    assert ("one", "case-007") not in found
    assert found.count(("other", "case-020")) == 2


def test_samples_of_a_batch_are_read_together_by_source(
    urls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataplane.datasets.reader import SampleReader

    calls: list[list[int]] = []
    fetch_all = SampleReader.fetch_all

    def noted(self: SampleReader, indices: Any) -> Any:
        calls.append(list(indices))
        return fetch_all(self, calls[-1])

    monkeypatch.setattr(SampleReader, "fetch_all", noted)
    mix = mixed(urls)
    assert reads(make(mix, batch_size=LENGTH)) == expected(mix, 0)
    assert len(calls) <= 4  # the first dataset is in two of the sources


@pytest.mark.parametrize("kind", ["mix", "weights", "shards"])
def test_the_plan_of_bytes_goes_on_from_epoch_to_epoch(
    urls: list[str], tmp_path: Path, kind: str
) -> None:
    cache = CacheConfig(dir=tmp_path / "cache", block_bytes=64 << 10)
    one, other = (dp.Dataset(url, ["fields/velocity"], cache=cache) for url in urls)
    given: dict[str, Any] = {"batch_size": 4, "seed": 5, "num_workers": 1}
    if kind == "mix":
        loader = dp.DataLoader(dp.mix([one, other], [1, 1], stop=20), **given)
    elif kind == "weights":
        loader = dp.DataLoader(one, weights=range(1, 12), num_samples=20, **given)
    else:
        loader = dp.DataLoader(one, shuffle="shards", shuffle_window=2, **given)
    epochs = [[key for batch in loader for key in batch["__key__"]] for _ in range(3)]
    assert epoch_of_plan(loader) == 2  # one plan for all of them
    assert len({*map(tuple, epochs)}) == 3
