"""Train a small surrogate model on a packed dataset, on one process or many, and resume mid-epoch.

    python examples/train.py URL --epochs 2 --checkpoint model.pt
    torchrun --nproc_per_node=2 examples/train.py URL --epochs 2 --checkpoint model.pt

`URL` is a dataset of surface meshes, with `points` [N, 3] and `point_data/pressure` [N]:
`dataplane pack` makes it of simulation files, `dataplane_testing.generate.generate_samples` of
nothing. Interrupt it at any time and start it again with the same arguments: it goes on with the
very next batch, also with another number of processes.

With several processes, each reads its share of every epoch, and the model is a
DistributedDataParallel. There is one checkpoint: model and optimizer are the same on all ranks, and
so is the loader's state, which counts the places of the order that all ranks together used up.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import dataplane as dp

CPU = torch.device("cpu")
ARRAYS = ["points", "point_data/pressure"]


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the other processes, if torchrun started us, and give the device of this one."""
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if has_gpu else None
    if device is not None:
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield device or CPU
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def is_first_rank() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def make_loader(url: str, arguments: argparse.Namespace) -> dp.DataLoader[dict[str, torch.Tensor]]:
    """Make the loader: rank and world size are asked for when it is iterated over."""
    dataset = dp.Dataset(url, arrays=ARRAYS, cache=arguments.cache_dir)
    return dp.DataLoader(
        dataset,
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=arguments.num_workers,
        pin_memory=torch.cuda.is_available(),
        seed=arguments.seed,  # the same on all ranks, which share one order
    )


def step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict, device: torch.device
) -> float:
    """Fit the pressure at every point of every mesh of the batch.

    Meshes that differ in size come one after another: mesh `b` is rows `offsets[b]` to
    `offsets[b + 1]`. Where all meshes of a dataset have one size they come stacked, without
    offsets. A pointwise model needs no more than that.
    """
    points, pressure = (
        batch[name].to(device, non_blocking=True) for name in ("points", "point_data/pressure")
    )
    if "points.offsets" in batch:
        offsets = batch["points.offsets"].to(device, non_blocking=True)
    else:
        meshes, size, _ = points.shape
        offsets = torch.arange(0, (meshes + 1) * size, size, device=device)
        points, pressure = points.flatten(0, 1), pressure.flatten()
    meshes = torch.arange(len(offsets) - 1, device=device)
    mesh_of_point = torch.repeat_interleave(meshes, offsets.diff())
    scale = pressure.std() + 1e-6
    error = (model(points).squeeze(-1) - (pressure - pressure.mean()) / scale) ** 2
    # The mean of the meshes' means, so that a large mesh counts as much as a small one.
    per_mesh = torch.zeros(len(meshes), device=device).index_add_(0, mesh_of_point, error)
    loss = (per_mesh / offsets.diff()).mean()
    optimizer.zero_grad()
    loss.backward()  # with DistributedDataParallel, gradients are averaged over the ranks here
    optimizer.step()
    return loss.item()


def save(path: Path, state: dict) -> None:
    """Write the checkpoint at once: whoever is killed leaves the one before."""
    draft = path.with_name(f".{path.name}.tmp")
    torch.save(state, draft)
    draft.replace(path)


def train(
    arguments: argparse.Namespace, device: torch.device = CPU
) -> list[tuple[int, list[str], float]]:
    """Train, and return (epoch, keys, loss) of every batch of this rank."""
    torch.manual_seed(arguments.seed)
    loader = make_loader(arguments.url, arguments)
    layers = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))
    layers.to(device)
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    say = print if is_first_rank() else lambda *_: None
    first_epoch = 0
    # All ranks read the one file: not before the first has written what it was still to write, and
    # it stays as it is until all have, since the first step needs them all.
    if dist.is_initialized():
        dist.barrier()
    if arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, map_location=device, weights_only=True)
        layers.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        first_epoch = saved["loader"]["epoch"]
        say(f"resumed in epoch {first_epoch}, batch {saved['loader']['num_yielded']}")
    model = DistributedDataParallel(layers) if dist.is_initialized() else layers
    history: list[tuple[int, list[str], float]] = []
    for epoch in range(first_epoch, arguments.epochs):
        loss = None
        for batch in loader:
            loss = step(model, optimizer, batch, device)
            history.append((epoch, list(batch["__key__"]), loss))
            if is_first_rank():
                state = {
                    "model": layers.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(),
                }
                save(arguments.checkpoint, state)
            if len(history) == arguments.stop_after:
                say(f"stopped after {len(history)} batches")
                return history
        if loss is None:
            say(f"epoch {epoch} was finished before")
            continue
        stats = loader.stats()
        rate = stats.decoded_bytes / max(stats.elapsed_s, 1e-9) / 1e9
        say(f"epoch {epoch}: loss {loss:.4f}, {rate:.2f} GB/s, slowest part: {stats.bottleneck}")
    return history


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train on a packed dataset of surface meshes.")
    parser.add_argument("url")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4, help="of each process")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("train-checkpoint.pt"))
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--stop-after", type=int, default=None, help="batches, to try a resume")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    parsed = parse(arguments)
    with process_group() as device:
        train(parsed, device)


if __name__ == "__main__":
    main()
