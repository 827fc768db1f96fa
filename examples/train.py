"""Train a small surrogate model on a packed dataset, and resume in the middle of an epoch.

    python examples/train.py URL --epochs 2 --checkpoint model.pt

`URL` is a dataset of surface meshes as `dataplane pack` or `dataplane.testing.generate_samples`
makes it, with `points` [N, 3] and `point_data/pressure` [N]. Interrupt it at any time and start it
again with the same arguments: it goes on with the very next batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import dataplane as dp

ARRAYS = ["points", "point_data/pressure"]


def make_loader(url: str, arguments: argparse.Namespace) -> dp.DataLoader[dict[str, torch.Tensor]]:
    dataset = dp.Dataset(url, arrays=ARRAYS, cache=arguments.cache_dir)
    return dp.DataLoader(
        dataset,
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=arguments.num_workers,
        seed=arguments.seed,
    )


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict) -> float:
    """Fit the pressure at every point of every mesh of the batch.

    Meshes differ in size, so they come one after another: mesh `b` is rows `offsets[b]` to
    `offsets[b + 1]`. A pointwise model needs no more than that.
    """
    points, pressure = batch["points"], batch["point_data/pressure"]
    offsets = batch["points.offsets"]
    mesh_of_point = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    scale = pressure.std() + 1e-6
    error = (model(points).squeeze(-1) - (pressure - pressure.mean()) / scale) ** 2
    # The mean of the meshes' means, so that a large mesh counts as much as a small one.
    per_mesh = torch.zeros(len(offsets) - 1).index_add_(0, mesh_of_point, error) / offsets.diff()
    loss = per_mesh.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def train(arguments: argparse.Namespace) -> list[tuple[int, list[str], float]]:
    """Train, and return (epoch, keys, loss) of every batch."""
    torch.manual_seed(arguments.seed)
    loader = make_loader(arguments.url, arguments)
    model = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.GELU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    first_epoch = 0
    if arguments.checkpoint.exists():
        saved = torch.load(arguments.checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        loader.load_state_dict(saved["loader"])
        first_epoch = saved["loader"]["epoch"]
        print(f"resumed in epoch {first_epoch}, batch {saved['loader']['num_yielded']}")
    history: list[tuple[int, list[str], float]] = []
    for epoch in range(first_epoch, arguments.epochs):
        loss = None
        for batch in loader:
            loss = step(model, optimizer, batch)
            history.append((epoch, list(batch["__key__"]), loss))
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),
            }
            torch.save(state, arguments.checkpoint)
            if len(history) == arguments.stop_after:
                print(f"stopped after {len(history)} batches")
                return history
        if loss is None:
            print(f"epoch {epoch} was finished before")
            continue
        stats = loader.stats()
        rate = stats.decoded_bytes / max(stats.elapsed_s, 1e-9) / 1e9
        print(f"epoch {epoch}: loss {loss:.4f}, {rate:.2f} GB/s, slowest part: {stats.bottleneck}")
    return history


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train on a packed dataset of surface meshes.")
    parser.add_argument("url")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=Path("train-checkpoint.pt"))
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--stop-after", type=int, default=None, help="batches, to try a resume")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    train(parse())
