"""Train a 3D U-Net that predicts the pressure of a flow from its velocity.

    python examples/train_volumes.py
    torchrun --nproc_per_node=2 examples/train_volumes.py
    python examples/train_volumes.py --data s3://bucket/runs --target fields/pressure

Without --data it generates Taylor-Green vortices, an exact flow in a periodic box whose pressure is
known in closed form: each of another speed, size, phase and orientation. The pressure at a point
depends on the velocity all around it (it solves a Poisson equation), hence the U-Net.

Interrupt it at any time and start it again with --resume: it goes on with the very next batch, also
with another number of processes. Losses are shares of the target's variance: predicting the mean
everywhere gives 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import numpy as np
import torch
from launch import Place, count, make_parser, run
from packed_data import Scale, open_dataset, scale_of, split
from torch import nn
from training_loop import Batch, Trainer

import dataplane as dp
from dataplane.shards import SourceArray, SourceSample

INPUT = "fields/velocity"
TARGET = "fields/pressure"
DENSITY = 1.2  # kg/m³
LEVELS = 3


class Block(nn.Sequential):
    """Two convolutions in a periodic box. For a box with walls, pad with zeros.

    Nothing is normalised between them: that would take away how fast the flow of a sample is, and
    its pressure goes with the square of that.
    """

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(
            nn.Conv3d(channels_in, channels, 3, padding=1, padding_mode="circular"),
            nn.GELU(),
            nn.Conv3d(channels, channels, 3, padding=1, padding_mode="circular"),
            nn.GELU(),
        )


class UNet3d(nn.Module):
    """A 3D U-Net (Çiçek et al. 2016): down by averages, up by repetition, with shortcuts.

    Args:
        channels_in: channels of the input.
        width: channels of the finest level; each coarser one has twice as many.
    """

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        self.down = nn.ModuleList(
            Block(before, after)
            for before, after in zip([channels_in, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            Block(coarse + fine, fine) for fine, coarse in itertools.pairwise(widths)
        )
        self.out = nn.Conv3d(width, 1, 1)
        self.coarsen = nn.AvgPool3d(2)
        self.refine = nn.Upsample(scale_factor=2)

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        """Predict: float[B, C, Z, Y, X] to float[B, Z, Y, X]."""
        levels = [self.down[0](fields)]
        for block in self.down[1:]:
            levels.append(block(self.coarsen(levels[-1])))
        fields = levels.pop()
        for block in reversed(self.up):
            fields = block(torch.cat([self.refine(fields), levels.pop()], 1))
        values: torch.Tensor = self.out(fields)
        return values.squeeze(1)


class VolumeLoss:
    """The mean squared error of the standardised target, from standardised inputs."""

    def __init__(self, inputs: dict[str, Scale], target: tuple[str, Scale]) -> None:
        self._inputs = inputs
        self._target, self._scale = target

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        fields = [_channels_first(scale.standardise(batch[n])) for n, scale in self._inputs.items()]
        predicted: torch.Tensor = model(torch.cat(fields, 1)).float()
        return (predicted - self._scale.standardise(batch[self._target])).square().mean()


def _channels_first(field: torch.Tensor) -> torch.Tensor:
    """Return [B, C, Z, Y, X] of [B, Z, Y, X, C], or of [B, Z, Y, X]."""
    return field.movedim(-1, 1) if field.ndim == 5 else field.unsqueeze(1)


def taylor_green(number: int, *, cells: int, seed: int) -> SourceSample:
    """Make a Taylor-Green vortex at its first moment, in a box of 1 m with `cells` along an edge.

    Speed, wave number, phases and the axis without flow are drawn from seed and number.

    Source: Taylor and Green, Mechanism of the production of small eddies from large ones, 1937.
    """
    rng = np.random.default_rng([seed, number])
    speed = rng.uniform(0.7, 1.3)  # m/s
    waves = int(rng.integers(1, 3))
    axes = rng.permutation(3)  # of the box: two with flow along them, then the one without
    centres = (np.arange(cells) + 0.5) / cells
    phases = rng.uniform(0, 2 * np.pi, 3)
    grid = np.meshgrid(centres, centres, centres, indexing="ij")  # z, y, x
    a, b, c = (2 * np.pi * waves * grid[2 - axis] + phases[axis] for axis in axes)
    velocity = np.zeros((cells, cells, cells, 3))
    velocity[..., axes[0]] = speed * np.sin(a) * np.cos(b) * np.cos(c)
    velocity[..., axes[1]] = -speed * np.cos(a) * np.sin(b) * np.cos(c)
    pressure = DENSITY * speed**2 / 16 * (np.cos(2 * a) + np.cos(2 * b)) * (np.cos(2 * c) + 2)
    arrays = {
        INPUT: SourceArray(velocity.astype("f4"), ("z", "y", "x", "c"), "m/s"),
        TARGET: SourceArray(pressure.astype("f4"), ("z", "y", "x"), "Pa"),
    }
    return SourceSample(f"vortex-{number:06d}", arrays, {"speed": speed, "waves": waves})


def channels_of(dataset: dp.Dataset, target: str) -> int:
    """Return how many channels the inputs have together.

    Raises:
        ConfigError: the arrays are not fields on one grid that the network can halve.
    """
    shapes = {layout.name: layout.shape for layout in dataset.layouts}
    grid = shapes[target]
    step = 1 << (LEVELS - 1)
    fits = len(grid) == 3 and all(extent > 0 and extent % step == 0 for extent in grid)
    if not fits or any(shape[:3] != grid or len(shape) > 4 for shape in shapes.values()):
        found = ", ".join(f"{name} {list(shape) or 'varies'}" for name, shape in shapes.items())
        raise dp.ConfigError(
            f"{dataset.url}: the network takes [z, y, x] or [z, y, x, c] of one grid, the same in "
            f"all samples, whose extents are multiples of {step}, and a target [z, y, x]; "
            f"got {found}",
            hint="choose arrays with --inputs and --target, see `dataplane info`",
        )
    return sum(
        shape[3] if len(shape) == 4 else 1 for name, shape in shapes.items() if name != target
    )


def train(arguments: argparse.Namespace, place: Place) -> int:
    cells = arguments.cells
    generate = (
        f"volumes-{arguments.samples}x{cells}",
        lambda number: taylor_green(number, cells=cells, seed=1),
    )
    dataset = open_dataset([*arguments.inputs, arguments.target], arguments, place, generate)
    channels = channels_of(dataset, arguments.target)
    loss = VolumeLoss(
        {name: scale_of(dataset, name) for name in arguments.inputs},
        (arguments.target, scale_of(dataset, arguments.target)),
    )
    trainer = Trainer(
        "train_volumes",
        UNet3d(channels, arguments.width),
        loss,
        split(dataset, arguments.holdout),
        settings={"channels": channels, "width": arguments.width},
        arguments=arguments,
        place=place,
    )
    return trainer.run()


def main(arguments: list[str] | None = None) -> int:
    description = "Predict the pressure of a flow from its velocity."
    parser = make_parser("volumes", description, samples=64)
    add = parser.add_argument
    add(
        "--cells",
        type=count,
        default=24,
        help=f"along an edge of a generated volume, a multiple of {1 << LEVELS - 1} (%(default)s)",
    )
    add("--inputs", nargs="+", default=[INPUT], help="fields to look at")
    add("--target", default=TARGET, help="field to predict, a number at each cell (%(default)s)")
    add(
        "--width",
        type=count,
        default=8,
        help="channels of the finest level (%(default)s)",
    )
    return run("train_volumes", parser.parse_args(arguments), train)


if __name__ == "__main__":
    sys.exit(main())
