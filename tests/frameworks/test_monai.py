"""MONAI's transforms, datasets and loaders work with ours, in worker threads as in processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

import dataplane as dp
from tests.datasets.packed import Packed
from tests.frameworks.cases import (
    BATCH,
    SAMPLES,
    SEED,
    STEPS,
    assert_shared_out,
    run_program,
    torchrun,
)

monai_data = pytest.importorskip("monai.data")
transforms = pytest.importorskip("monai.transforms")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # it warns of old names of torch and NumPy
    pytest.mark.timeout(60),
]

Crops = list[tuple[str, torch.Tensor]]
CROP = 8


def crop() -> transforms.RandSpatialCropd:
    return transforms.RandSpatialCropd(["image", "label"], roi_size=[CROP, CROP])


def chain() -> transforms.Compose:
    """As users write it: several random steps, one of which calls another."""
    return transforms.Compose([
        transforms.RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
        transforms.RandRotate90d(["image", "label"], prob=0.5),
        crop(),
    ])  # fmt: skip


@pytest.fixture
def dataset(cases: Packed) -> Iterator[dp.Dataset]:
    with dp.Dataset(cases.url, arrays=["image", "label"], cache=False) as dataset:
        yield dataset


def crops(
    packed: Packed, transform: Callable, *, epochs: int = 2, num_workers: int = 4, seed: int = SEED
) -> Crops:
    """Read crops in worker threads, and check that image and label belong together."""
    with dp.Dataset(
        packed.url, arrays=["image", "label"], cache=False, transform=transform
    ) as dataset:
        loader = dp.DataLoader(dataset, BATCH, shuffle=True, seed=seed, num_workers=num_workers)
        result: Crops = []
        for batch in (batch for _ in range(epochs) for batch in loader):
            assert batch["image"].shape == (BATCH, 1, CROP, CROP)
            for key, image, label in zip(
                batch["__key__"], batch["image"], batch["label"], strict=True
            ):
                assert torch.equal(label, 2 * image + 1), f"the label of {key} is of another crop"
                result.append((key, torch.as_tensor(image)))
    assert len(result) == epochs * len(packed.samples)
    return result


def same(one: Crops, other: Crops) -> bool:
    return [key for key, _ in one] == [key for key, _ in other] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("make", [crop, chain])
def test_crops_of_image_and_label_stay_together_in_threads(
    many_cases: Packed, make: Callable
) -> None:
    crops(many_cases, make(), epochs=4)


@pytest.mark.parametrize("make", [crop, chain])
def test_the_same_seed_gives_the_same_crops(many_cases: Packed, make: Callable) -> None:
    first = crops(many_cases, make().set_random_state(seed=3))
    assert same(first, crops(many_cases, make().set_random_state(seed=3)))


def test_each_epoch_has_crops_of_its_own(many_cases: Packed) -> None:
    read = crops(many_cases, crop().set_random_state(seed=3))
    first = dict(read[: len(many_cases.samples)])
    second = dict(read[len(many_cases.samples) :])
    equal = sum(torch.equal(image, second[key]) for key, image in first.items())
    assert equal < len(first) / 4  # one in 81 by chance


def test_a_run_resumes_in_mid_epoch_with_the_very_next_batch(cases: Packed) -> None:
    with dp.Dataset(
        cases.url, arrays=["image", "label"], cache=False, transform=chain()
    ) as dataset:

        def make() -> dp.DataLoader:
            return dp.DataLoader(dataset, BATCH, shuffle=True, seed=SEED, num_workers=4)

        whole = make()
        expected = [batch["__key__"] for _ in range(2) for batch in whole]
        loader = make()
        for _ in islice((batch for _ in range(2) for batch in loader), STEPS + 2):
            state = loader.state_dict()
        resumed = make()
        resumed.load_state_dict(state)
        assert [batch["__key__"] for batch in resumed] == expected[STEPS + 2 :]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_monai_s_collate_and_worker_functions_are_taken(cases: Packed, num_workers: int) -> None:
    with dp.Dataset(cases.url, arrays=["image", "label"], cache=False, transform=crop()) as dataset:
        loader = dp.DataLoader(
            dataset, BATCH, num_workers=num_workers,
            collate_fn=monai_data.list_data_collate,
            worker_init_fn=monai_data.utils.worker_init_fn,
        )  # fmt: skip
        batches = list(loader)
    assert [batch["image"].shape for batch in batches] == [(BATCH, 1, CROP, CROP)] * STEPS
    assert [key for batch in batches for key in batch["__key__"]] == list(dataset.keys)


def test_several_crops_of_a_sample_become_one_batch(cases: Packed) -> None:
    transform = transforms.RandSpatialCropSamplesd(
        ["image", "label"], roi_size=[CROP, CROP], num_samples=3, random_size=False
    )
    with dp.Dataset(
        cases.url, arrays=["image", "label"], cache=False, transform=transform
    ) as dataset:
        loader = dp.DataLoader(
            dataset, BATCH, num_workers=4, collate_fn=monai_data.list_data_collate
        )
        for batch in loader:
            assert batch["image"].shape == (3 * BATCH, 1, CROP, CROP)
            assert torch.equal(batch["label"], 2 * batch["image"] + 1)
            assert len(batch["__key__"]) == 3 * BATCH


def test_a_batch_is_taken_apart_with_its_keys(dataset: dp.Dataset) -> None:
    (batch, *_) = dp.DataLoader(dataset, BATCH, num_workers=2)
    samples = monai_data.decollate_batch(batch)
    assert [sample["__key__"] for sample in samples] == list(dataset.keys[:BATCH])
    for number, sample in enumerate(samples):
        assert torch.equal(sample["image"], batch["image"][number])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["Dataset", "CacheDataset"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_monai_s_datasets_and_loader_read_a_packed_dataset(
    dataset: dp.Dataset, kind: str, num_workers: int
) -> None:
    options = {"progress": False} if kind == "CacheDataset" else {}
    wrapped = getattr(monai_data, kind)(dataset, crop(), **options)
    for loader in (
        monai_data.DataLoader(wrapped, batch_size=BATCH, num_workers=num_workers),
        dp.DataLoader(wrapped, batch_size=BATCH, num_workers=num_workers),
    ):
        batches = list(loader)
        assert [key for batch in batches for key in batch["__key__"]] == list(dataset.keys)
        for batch in batches:
            assert torch.equal(batch["label"], 2 * batch["image"] + 1)


@pytest.mark.parametrize("threads", [False, True])
def test_monai_s_thread_loader_reads_a_packed_dataset(dataset: dp.Dataset, threads: bool) -> None:
    loader = monai_data.ThreadDataLoader(
        dataset, batch_size=BATCH, num_workers=2 if threads else 0, use_thread_workers=threads
    )
    keys = [key for batch in loader for key in batch["__key__"]]
    assert keys == list(dataset.keys)
    assert len(keys) == SAMPLES


_RANKS = """
import torch, torch.distributed as dist
from monai.transforms import Compose, RandFlipd, RandSpatialCropd
from torch.nn.parallel import DistributedDataParallel
import dataplane as dp

dist.init_process_group("gloo")
both = ["image", "label"]
transform = Compose([RandFlipd(both, prob=0.5, spatial_axis=0), RandSpatialCropd(both, [8, 8])])
dataset = dp.Dataset(sys.argv[1], arrays=both, cache=False, transform=transform)
model = DistributedDataParallel(torch.nn.Conv2d(1, 1, 3))
optimizer = torch.optim.SGD(model.parameters(), 1e-3)

def make():
    return dp.DataLoader(dataset, 2, shuffle=True, seed=7, num_workers=2)

def read(loader, first=0, stop=None):
    steps = []
    for epoch in range(first, 2):
        for batch in loader:
            assert torch.equal(batch["label"], 2 * batch["image"] + 1)
            optimizer.zero_grad()
            model(torch.as_tensor(batch["image"])).square().mean().backward()
            optimizer.step()
            steps.append((epoch, batch["__key__"]))
            if len(steps) == stop:
                return steps
    return steps

steps = [read(make())]
loader = make()
steps.append(read(loader, stop=8))
state = [loader.state_dict() if dist.get_rank() == 0 else None]
dist.broadcast_object_list(state)
rest = make()
rest.load_state_dict(state[0])
report(dist.get_rank(), [*steps, read(rest, first=1)])
"""


def test_two_processes_share_every_epoch_and_resume_in_its_middle(
    cases: Packed, tmp_path: Path
) -> None:
    ranks = run_program(_RANKS, tmp_path, cases.url, launcher=torchrun())
    assert_shared_out([whole for whole, *_ in ranks], [one.key for one in cases.samples])
    for whole, part, rest in ranks:
        assert part + rest == whole
