"""Code of the user inside a loader: transforms, samplers, and arguments that cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import StackDataset, Subset

import dataplane as dp
from dataplane.datasets.reader import SampleReader
from dataplane.datasets.views import ViewReader
from dataplane.errors import FormatError
from dataplane.shards import SourceArray, SourceSample
from tests.datasets.packed import SAMPLES, Packed, pack


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


@pytest.mark.parametrize("timeout", [0, 30])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_time_out_of_the_users_code_is_raised_as_it_is(
    packed: Packed, timeout: float, num_workers: int
) -> None:
    def late(sample: dict[str, object]) -> dict[str, object]:
        raise TimeoutError("the license server does not answer")

    dataset = dp.Dataset(packed.url, ["global_data/mach"], transform=late)
    loader = dp.DataLoader(dataset, num_workers=num_workers, timeout=timeout if num_workers else 0)
    with pytest.raises(TimeoutError, match="license server"):
        next(iter(loader))


def test_a_transform_that_changes_nothing_changes_nothing(tmp_path: Path) -> None:
    """Also for arrays that some samples lack, and with the batches of the user's sampler."""

    def sample(number: int) -> SourceSample:
        arrays = {
            "x": np.full(3, number, "f4"),
            "varies": np.arange(4 * number, dtype="i4").reshape(-1, 2),
        }
        if number % 2:
            del arrays["varies"]
        if number % 3:
            arrays["fixed"] = np.full((2, 5), number, "f8")
        return SourceSample(
            key=f"s{number}",
            arrays={name: SourceArray(values, None, None, {}) for name, values in arrays.items()},
            attributes={},
        )

    url = pack(tmp_path / "ds", map(sample, range(8))).url
    plain = dp.Dataset(url, cache=False)
    same = dp.Dataset(url, cache=False, transform=lambda sample: sample)
    batches = [[0, 1, 2], [3, 4, 5, 6, 7]]
    for arguments in ({"batch_sampler": batches}, {"batch_size": 4}):
        expected = list(dp.DataLoader(plain, num_workers=1, **arguments))
        ragged = [name for name in expected[0] if f"{name}.offsets" in expected[0]]
        got = list(dp.DataLoader(same, num_workers=1, ragged=ragged, **arguments))
        assert len(got) == len(expected)
        for one, other in zip(expected, got, strict=True):
            assert one.keys() == other.keys()
            assert all(_same(one[name], other[name]) for name in one), (one, other)


def test_names_that_a_transform_gives_to_some_samples_only_are_an_error(packed: Packed) -> None:
    def transform(sample: dict) -> dict:
        return {**sample, "extra": torch.zeros(1)} if sample["__key__"].endswith("1") else sample

    dataset = dp.Dataset(packed.url, ["global_data/mach"], transform=transform)
    with pytest.raises(dp.LoaderError, match="different names"):
        list(dp.DataLoader(dataset, batch_size=4, num_workers=1))


def test_more_workers_than_can_decode_get_the_warning_of_torch(packed: Packed) -> None:
    with pytest.warns(UserWarning, match="257 worker"):
        loader = dp.DataLoader(dp.Dataset(packed.url, ["points"]), num_workers=257)
    assert len(list(loader)) == SAMPLES


def test_an_index_that_a_sampler_made_up_is_one_error(
    packed: Packed, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    loader = dp.DataLoader(dataset, sampler=[0, SAMPLES + 5], num_workers=1)
    with pytest.raises(IndexError):
        list(loader)
    assert not caplog.records


def test_an_error_of_a_sampler_is_one_error(
    packed: Packed, caplog: pytest.LogCaptureFixture
) -> None:
    def sampler() -> Iterator[int]:
        yield 0
        raise RuntimeError("the sampler broke")

    dataset = dp.Dataset(packed.url, ["global_data/mach"])
    with pytest.raises(RuntimeError, match="the sampler broke"):
        list(dp.DataLoader(dataset, sampler=sampler(), num_workers=1))
    assert not caplog.records


@pytest.mark.parametrize("num_workers", [0, 2])
def test_samples_whose_transform_fails_fall_under_a_policy_if_asked_for(
    packed: Packed, num_workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    def transform(sample: dict) -> dict:
        if sample["__key__"] in ("case-004", "case-005"):
            raise ValueError("not this one")
        return sample

    def keys(policy: str, size: int) -> list[list[str]]:
        dataset = dp.Dataset(
            packed.url, ["global_data/mach"], transform=transform, transform_errors=policy
        )
        loader = dp.DataLoader(dataset, size, num_workers=num_workers)
        found = [list(batch["__key__"]) for batch in loader]
        done = "skipped" if policy == "skip" else "replaced"
        assert dataset.counters[f"dataset_samples_{done}"] >= 2
        return found

    assert keys("skip", 3)[1] == ["case-003"]
    assert keys("skip", 2)[2] == ["case-006", "case-007"]  # a batch that lost all is left out
    assert keys("replace", 3)[1] == ["case-003", "case-006", "case-006"]
    assert "not this one" in caplog.text
    assert "case-004" in caplog.text
    with pytest.raises(dp.ConfigError, match="transform_errors must be"):
        dp.Dataset(packed.url, transform_errors="ignore")


class Picky(dp.Dataset):
    """Whose own code fails, before or after it has asked for the sample."""

    def __getitem__(self, i: int) -> Any:
        if i == 4:
            raise ValueError("not this one")
        sample = super().__getitem__(i)
        if i == 5:
            raise ValueError("nor this one")
        return sample


class Around:
    """A class that is no dataset of ours, around one that is."""

    def __init__(self, dataset: dp.Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Any:
        return self.dataset[i]


def fails_for_two(sample: dict) -> dict:
    if sample["__key__"] in ("case-004", "case-005"):
        raise ValueError("not this one")
    return sample


@pytest.mark.parametrize("kind", ["subclass", "subset of it", "stack", "class around it"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_policy_is_that_of_the_dataset_whose_code_failed_however_it_is_asked(
    packed: Packed, kind: str, num_workers: int
) -> None:
    def keys(policy: str, size: int) -> list[list[str]]:
        given: Any = {"arrays": ["global_data/mach"], "transform_errors": policy, "cache": False}
        if kind.startswith("sub"):
            inner: Any = Picky(packed.url, **given)
            dataset = Subset(inner, range(len(inner))) if kind == "subset of it" else inner
        else:
            inner = dp.Dataset(packed.url, transform=fails_for_two, **given)
            dataset = StackDataset(a=inner, b=inner) if kind == "stack" else Around(inner)
        loader = dp.DataLoader(dataset, size, num_workers=num_workers)
        batches = list(loader)
        if policy != "raise":
            done = "skipped" if policy == "skip" else "replaced"
            assert inner.counters[f"dataset_samples_{done}"] >= 2
        return [list((batch["a"] if kind == "stack" else batch)["__key__"]) for batch in batches]

    assert keys("skip", 3)[1] == ["case-003"]
    assert keys("skip", 2)[2] == ["case-006", "case-007"]
    assert keys("replace", 3)[1] == ["case-003", "case-006", "case-006"]
    with pytest.raises(ValueError, match="not this one"):
        keys("raise", 3)


@pytest.mark.parametrize("kind", ["plain", "subclass"])
@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_a_policy_for_user_code_hides_no_error_of_ours(
    packed: Packed, kind: str, policy: str
) -> None:
    class Asking(dp.Dataset):
        def __getitem__(self, i: int) -> Any:
            raise dp.StoreError("the store is down")

    def refused(sample: dict) -> dict:
        torch.nn.functional.gumbel_softmax(torch.ones(3))
        return sample

    given: Any = {"transform_errors": policy, "cache": False}
    inner = (
        Asking(packed.url, **given)
        if kind == "subclass"
        else dp.Dataset(packed.url, transform=refused, **given)
    )
    expected = dp.StoreError if kind == "subclass" else dp.LoaderError
    with pytest.raises(expected, match=r"the store is down|gumbel_softmax"):
        list(dp.DataLoader(inner, 2, num_workers=2))


def test_a_policy_holds_for_indices_of_numpy(packed: Packed) -> None:
    dataset = Picky(packed.url, ["global_data/mach"], transform_errors="skip", cache=False)
    numbers = list(np.arange(SAMPLES))
    found = [
        key for batch in dp.DataLoader(dataset, 2, sampler=numbers) for key in batch["__key__"]
    ]
    assert len(found) == SAMPLES - 2


def test_what_replaces_a_sample_follows_it_also_where_others_were_left_out(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample 1 cannot be read and is left out; 6 is replaced by the one behind it, which is 7."""
    verified = SampleReader._verified

    def damaged(self: SampleReader, index: int, look: int) -> Any:
        if index == 1:
            raise FormatError("damaged")
        return verified(self, index, look)

    def transform(sample: dict) -> dict:
        if sample["__key__"] == "case-006":
            raise ValueError("of the transform")
        return sample

    monkeypatch.setattr(SampleReader, "_verified", damaged)
    monkeypatch.setattr(ViewReader, "fetch", ViewReader.recover)
    dataset = dp.Dataset(
        packed.url, ["global_data/mach"], transform=transform, errors="skip",
        transform_errors="replace", cache=False,
    )  # fmt: skip
    (batch,) = dp.DataLoader(dataset, 3, sampler=[1, 6, 9])
    assert batch["__key__"] == ["case-007", "case-009"]


def test_a_class_around_a_dataset_has_no_policy_for_its_own_code(packed: Packed) -> None:
    class Broken(Around):
        def __getitem__(self, i: int) -> Any:
            if i == 4:
                raise ValueError("of its own")
            return super().__getitem__(i)

    inner = dp.Dataset(packed.url, ["global_data/mach"], transform_errors="skip", cache=False)
    with pytest.raises(ValueError, match="of its own"):
        list(dp.DataLoader(Broken(inner), 2))  # type: ignore[arg-type]


def test_a_replacement_has_no_key_where_none_is_wanted(packed: Packed) -> None:
    def transform(sample: dict) -> dict:
        if sample["global_data/mach"] == broken:
            raise ValueError("not this one")
        return sample

    broken = packed.values("case-004")["global_data/mach"]
    dataset = dp.Dataset(
        packed.url, ["global_data/mach"], transform=transform, transform_errors="replace"
    )
    for batch in dp.DataLoader(dataset, 3, keys=False):
        assert set(batch) == {"global_data/mach"}


def test_a_name_of_ragged_that_is_nowhere_is_warned_of(packed: Packed) -> None:
    dataset = dp.Dataset(packed.url, ["points"], cache=False, transform=fails_for_none)
    loader = dp.DataLoader(dataset, 2, ragged=["points", "pionts"])
    with pytest.warns(UserWarning, match=r"ragged=\['pionts'\] names nothing.*'points'"):
        batches = list(loader)
    assert all("points.offsets" in batch for batch in batches)


def fails_for_none(sample: dict) -> dict:
    return {"points": sample["points"], "inner": {"number": 1}}


def test_a_batch_that_was_saved_can_be_loaded_safely(packed: Packed, tmp_path: Path) -> None:
    batch = next(iter(dp.DataLoader(dp.Dataset(packed.url, ["points"]), 2)))
    torch.save(batch, tmp_path / "batch.pt")
    loaded = torch.load(tmp_path / "batch.pt", weights_only=True)
    assert loaded["__key__"] == batch["__key__"]
    assert type(loaded["__key__"]) is type(batch["__key__"])
    assert torch.equal(loaded["points"], batch["points"])
