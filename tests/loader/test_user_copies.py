"""Each worker runs a copy of the user's code: nothing is mixed, and runs can be repeated."""

from __future__ import annotations

import functools
import random
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

import dataplane as dp
from tests.datasets.packed import pack_numbered

COUNT = 48


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Samples whose `x` is full of their number, which is also their `y`."""
    return pack_numbered(tmp_path_factory.mktemp("numbered") / "ds", COUNT).url


class Remembering:
    """Keeps one sample's values between two lines, as MONAI's random transforms do."""

    def __init__(self) -> None:
        self.buffer = np.empty((6, 6), "f4")

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        self.buffer[:] = sample["x"].numpy()
        for _ in range(30):
            torch.rand(10).sum()  # lets go of Python's lock
        return {"x": torch.from_numpy(self.buffer.copy()), "y": sample["y"]}


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
def test_values_of_two_samples_never_meet_in_one(url: str, workers: int) -> None:
    dataset = dp.Dataset(url, transform=Remembering(), cache=False)
    for _ in range(3):
        for batch in dp.DataLoader(dataset, 2, shuffle=True, num_workers=workers):
            assert torch.equal(batch["x"][:, 0, 0].double(), batch["y"])


def test_values_of_two_samples_never_meet_in_a_closure(url: str) -> None:
    buffer = np.empty((6, 6), "f4")

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        buffer[:] = sample["x"].numpy()
        for _ in range(30):
            torch.rand(10).sum()
        return {"x": torch.from_numpy(buffer.copy()), "y": sample["y"]}

    dataset = dp.Dataset(url, transform=transform, cache=False)
    for batch in dp.DataLoader(dataset, 2, num_workers=4):
        assert torch.equal(batch["x"][:, 0, 0].double(), batch["y"])


def test_what_transform_and_collate_fn_share_they_share_in_each_copy(url: str) -> None:
    seen: list[float] = []

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        seen.append(float(sample["y"]))
        return sample

    def collate(samples: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
        mine, seen[:] = list(seen), []
        return mine, [float(sample["y"]) for sample in samples]

    dataset = dp.Dataset(url, transform=transform, cache=False)
    for mine, samples in dp.DataLoader(dataset, 3, num_workers=4, collate_fn=collate):
        assert mine == samples
    assert seen == []


def test_what_cannot_be_copied_is_run_by_one_worker_at_a_time_and_said_once(
    url: str, tmp_path: Path
) -> None:
    connection = sqlite3.connect(tmp_path / "db", check_same_thread=False)
    connection.execute("create table seen (y)")
    inside: list[int] = []

    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        inside.append(1)
        assert len(inside) == 1
        connection.execute("insert into seen values (?)", (float(sample["y"]),))
        for _ in range(10):
            torch.rand(10).sum()
        inside.pop()
        return sample

    dataset = dp.Dataset(url, transform=transform, cache=False)
    loader = dp.DataLoader(dataset, 2, num_workers=4)
    with pytest.warns(UserWarning, match=r"cannot be copied.*sqlite3\.Connection") as told:
        list(loader)
    list(loader)  # a second warning would be an error
    assert len(told) == 1
    assert told[0].filename == __file__
    ((count,),) = connection.execute("select count(*) from seen")
    assert count == 2 * COUNT
    connection.close()


def test_a_subclass_with_its_own_getitem_is_asked(url: str) -> None:
    class Doubled(dp.Dataset):
        def __getitem__(self, i: int) -> Any:
            return super().__getitem__(i)["y"] * 2

    class Several(dp.Dataset):
        def __getitems__(self, indices: Any) -> list[Any]:
            return [sample["y"] + 1 for sample in super().__getitems__(indices)]

    for kind, expected in ((Doubled, lambda y: 2 * y), (Several, lambda y: y + 1)):
        dataset = kind(url, cache=False)
        for workers in (0, 2):
            got = torch.cat(list(dp.DataLoader(dataset, 5, num_workers=workers)))
            assert got.tolist() == [expected(float(y)) for y in range(COUNT)]
        theirs = torch.cat(list(torch.utils.data.DataLoader(dataset, 5)))
        assert torch.equal(got, theirs)


def draw(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "y": sample["y"],
        "torch": torch.rand(1),
        "numpy": np.random.rand(),
        "random": random.random(),
    }


def drawn(loader: dp.DataLoader[Any], epochs: int = 2) -> list[dict[str, Any]]:
    """What the transform drew, by sample, in each of some epochs."""
    found = []
    for _ in range(epochs):
        values = {}
        for batch in loader:
            for at, y in enumerate(batch["y"].tolist()):
                names = ("torch", "numpy", "random")
                values[y] = tuple(float(batch[name][at]) for name in names)
        found.append(values)
    return found


def test_what_code_draws_is_a_function_of_seed_epoch_and_sample(url: str) -> None:
    dataset = dp.Dataset(url, transform=draw, cache=False)

    def run(**arguments: Any) -> list[dict[str, Any]]:
        given = {"batch_size": 4, "shuffle": True, "seed": 3, **arguments}
        return drawn(dp.DataLoader(dataset, **given))

    expected = run()
    assert expected[0] != expected[1]
    assert len(set(expected[0].values())) == COUNT
    for arguments in ({"num_workers": 1}, {"num_workers": 4}, {"batch_size": 7}):
        assert run(**arguments) == expected
    assert run(shuffle=False) == expected  # the order has no part in it
    assert run(seed=4) != expected
    halves = [run(rank=rank, world_size=2, num_workers=2) for rank in range(2)]
    for epoch in range(2):
        assert {**halves[0][epoch], **halves[1][epoch]} == expected[epoch]


def test_with_a_sampler_of_the_user_s_the_seed_is_that_of_what_code_draws(url: str) -> None:
    dataset = dp.Dataset(url, transform=draw, cache=False)

    def run(seed: int, workers: int, moved: int) -> list[dict[str, Any]]:
        torch.manual_seed(moved)
        order = [*range(COUNT)][::-1]
        return drawn(dp.DataLoader(dataset, 4, sampler=order, seed=seed, num_workers=workers))

    expected = run(3, 0, 0)
    assert expected[0] != expected[1]
    assert run(3, 2, 1) == expected
    assert run(4, 0, 0) != expected


def test_the_seed_worker_recipe_gives_other_numbers_in_each_epoch(url: str) -> None:
    def seed_worker(worker: int) -> None:
        seed = torch.initial_seed() % 2**32
        np.random.seed(seed)
        random.seed(seed)

    dataset = dp.Dataset(url, transform=draw, cache=False)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        loader = dp.DataLoader(dataset, 4, num_workers=2, worker_init_fn=seed_worker)
        runs.append(drawn(loader))
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


@pytest.mark.parametrize("arguments", [{}, {"shuffle": True}, {"shuffle": True, "batch_size": 5}])
def test_the_loop_s_own_numbers_are_those_beside_torch_s_loader(
    url: str, arguments: dict[str, Any]
) -> None:
    def loop(kind: Any, transform: Any, workers: int) -> list[Any]:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        loader = kind(dp.Dataset(url, transform=transform, cache=False), **arguments)
        if kind is dp.DataLoader:
            loader = kind(loader.dataset, num_workers=workers, **arguments)
        found = []
        for _ in range(2):
            # The first batch aside: torch draws the seed of the shuffle there, not before.
            for at, _ in enumerate(loader):
                if at:
                    found.append((torch.rand(1).item(), np.random.rand(), random.random()))
        return found

    expected = loop(torch.utils.data.DataLoader, None, 0)
    for transform in (None, draw):
        for workers in (0, 2):
            assert loop(dp.DataLoader, transform, workers) == expected


def test_worker_info_is_there_in_workers_and_nowhere_else(url: str) -> None:
    def transform(sample: dict[str, Any]) -> dict[str, Any]:
        info = get_worker_info()
        assert len(info.dataset) == COUNT
        generator = torch.random.thread_safe_generator()
        return {
            "id": info.id,
            "of": info.num_workers,
            "seed": info.seed,
            "dataset": id(info.dataset),
            "own": torch.rand(1, generator=generator),
        }

    dataset = dp.Dataset(url, transform=transform, cache=False)
    batches = list(dp.DataLoader(dataset, 2, num_workers=3, seed=1))
    assert get_worker_info() is None
    # Batch `n` is worker `n % 3`'s, as with torch.
    assert [batch["id"].tolist() for batch in batches] == [[n % 3] * 2 for n in range(COUNT // 2)]
    assert {int(of) for batch in batches for of in batch["of"]} == {3}
    assert len({int(seed) for batch in batches for seed in batch["seed"]}) == 3
    copies = {int(one) for batch in batches for one in batch["dataset"]}
    assert len(copies) == 3
    assert id(dataset) not in copies

    def here(sample: dict[str, Any]) -> bool:
        return get_worker_info() is None

    assert next(iter(dp.DataLoader(dp.Dataset(url, transform=here, cache=False)))).item()


def test_a_variable_of_a_script_is_not_shared(url: str, tmp_path: Path) -> None:
    """Neither by a function, which is copied with it, nor by a class, whose methods are not."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, warnings, numpy as np, torch, dataplane as dp\n"
        "BUFFER = np.empty((6, 6), 'f4')\n"
        "def function(sample):\n"
        "    BUFFER[:] = sample['x'].numpy()\n"
        "    for _ in range(30): torch.rand(10).sum()\n"
        "    return {'x': torch.from_numpy(BUFFER.copy()), 'y': sample['y']}\n"
        "class Callable:\n"
        "    def __call__(self, sample):\n"
        "        BUFFER[:] = sample['x'].numpy()\n"
        "        for _ in range(30): torch.rand(10).sum()\n"
        "        return {'x': torch.from_numpy(BUFFER.copy()), 'y': sample['y']}\n"
        "call = Callable.__call__\n"
        "for transform in (function, Callable()):\n"
        "    dataset = dp.Dataset(sys.argv[1], transform=transform, cache=False)\n"
        "    for batch in dp.DataLoader(dataset, 2, num_workers=4):\n"
        "        assert torch.equal(batch['x'][:, 0, 0].double(), batch['y'])\n"
        "assert Callable.__call__ is call\n"
        "from numpy.random import rand\n"
        "from random import random\n"
        "def draw(sample):\n"
        "    return {'y': sample['y'], 'n': rand(), 'r': random()}\n"
        "found = []\n"
        "for workers, mode in ((0, 'thread'), (2, 'thread'), (2, 'process')):\n"
        "    dataset = dp.Dataset(sys.argv[1], transform=draw, cache=False)\n"
        "    loader = dp.DataLoader(dataset, 5, num_workers=workers, transform_mode=mode, seed=1)\n"
        "    values = [(b['n'].tolist(), b['r'].tolist()) for _ in range(2) for b in loader]\n"
        "    assert values[0] != values[len(values) // 2]\n"
        "    found.append(values)\n"
        "assert found[0] == found[1] == found[2]\n"
        "print('kept apart')\n"
    )
    done = subprocess.run(
        [sys.executable, script, url], check=False, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "kept apart\n"), done.stderr


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_persistent_workers_of_one_pass_are_not_those_of_another_beside_it(
    url: str, mode: str
) -> None:
    dataset = dp.Dataset(url, transform=Remembering(), cache=False)
    loader = dp.DataLoader(
        dataset, 8, shuffle=True, seed=1, num_workers=2, persistent_workers=True,
        transform_mode=mode,
    )  # fmt: skip
    for _ in range(2):
        for pair in zip(loader, loader, strict=True):
            for batch in pair:
                assert torch.equal(batch["x"][:, 0, 0].double(), batch["y"])


class Slow:
    """A transform that says whether it was called while it still ran."""

    def __init__(self) -> None:
        self.is_inside = False

    def __call__(self, sample: dict[str, Any]) -> bool:
        was_inside, self.is_inside = self.is_inside, True
        time.sleep(0.1)
        self.is_inside = False
        return was_inside


def test_a_persistent_worker_that_did_not_end_with_its_pass_is_not_another_s(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.loader.pipeline.JOIN_TIMEOUT_S", 0.0)
    loader = dp.DataLoader(
        dp.Dataset(url, transform=Slow(), cache=False),
        4,
        num_workers=2,
        persistent_workers=True,
        collate_fn=any,
    )
    batches = iter(loader)
    next(batches)
    batches.close()
    next_batches = iter(loader)
    assert [next(next_batches), next(next_batches)] == [False, False]


def test_a_pass_in_another_thread_leaves_the_main_thread_s_numbers_alone(url: str) -> None:
    loader = dp.DataLoader(dp.Dataset(url, transform=draw, cache=False), 2, seed=1)
    expected = drawn(loader, 1)
    found: list[Any] = []
    loader.set_epoch(0)
    thread = threading.Thread(target=lambda: found.append(drawn(loader, 1)))
    torch.manual_seed(3)
    thread.start()
    numbers = []
    while thread.is_alive():
        numbers.append(torch.rand(1).item())
    thread.join()
    assert found[0] == expected
    torch.manual_seed(3)
    assert numbers == [torch.rand(1).item() for _ in numbers]


class KeptInTheClass:
    buffer = np.empty((6, 6), "f4")

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        self.buffer[:] = sample["x"].numpy()
        for _ in range(30):
            torch.rand(10).sum()
        return {"x": torch.from_numpy(self.buffer.copy()), "y": sample["y"]}


def kept_in_a_default(
    sample: dict[str, Any],
    buffer: np.ndarray = np.empty((6, 6), "f4"),  # noqa: B008 - that is the point
) -> dict[str, Any]:
    buffer[:] = sample["x"].numpy()
    for _ in range(30):
        torch.rand(10).sum()
    return {"x": torch.from_numpy(buffer.copy()), "y": sample["y"]}


@functools.lru_cache
def scratch() -> np.ndarray:
    return np.empty((6, 6), "f4")


def kept_in_a_cache(sample: dict[str, Any]) -> dict[str, Any]:
    return kept_in_a_default(sample, scratch())


def _decorated(function: Any) -> Any:
    buffer = np.empty((6, 6), "f4")

    @functools.wraps(function)
    def wrapper(sample: dict[str, Any]) -> dict[str, Any]:
        return function(sample, buffer)

    return wrapper


@_decorated
def kept_in_a_closure(sample: dict[str, Any], buffer: np.ndarray) -> dict[str, Any]:
    buffer[:] = sample["x"].numpy()
    for _ in range(30):
        torch.rand(10).sum()
    return {"x": torch.from_numpy(buffer.copy()), "y": sample["y"]}


@torch.no_grad()
def kept_under_a_decorator(sample: dict[str, Any]) -> dict[str, Any]:
    return kept_in_a_default(sample, scratch())


KEEPING = [
    KeptInTheClass(),
    kept_in_a_default,
    kept_in_a_cache,
    kept_in_a_closure,
    kept_under_a_decorator,
]


@pytest.mark.parametrize("transform", KEEPING)
def test_what_a_class_or_a_default_keeps_is_not_shared(url: str, transform: Any) -> None:
    dataset = dp.Dataset(url, transform=transform, cache=False)
    for batch in dp.DataLoader(dataset, 2, num_workers=2, transform_mode="process"):
        assert torch.equal(batch["x"][:, 0, 0].double(), batch["y"])
    loader = dp.DataLoader(dataset, 2, num_workers=4)
    with pytest.warns(UserWarning, match="of which there is one"):
        batches = list(loader)
    for batch in batches:
        assert torch.equal(batch["x"][:, 0, 0].double(), batch["y"])


def test_the_truth_of_a_transform_is_not_asked_for(url: str) -> None:
    """MONAI's `Compose` answers with its length, and draws new random states to find that out."""

    class Touchy:
        def __bool__(self) -> bool:
            raise AssertionError("asked for its truth")

        __len__ = __bool__

        def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
            return sample

    dataset = dp.Dataset(url, transform=Touchy(), cache=False)
    for workers in (0, 2):
        loader = dp.DataLoader(dataset, 2, num_workers=workers, collate_fn=Touchy())
        assert len(list(loader)) == COUNT // 2
        assert len(list(dp.DataLoader(dataset, 2, num_workers=workers))) == COUNT // 2
