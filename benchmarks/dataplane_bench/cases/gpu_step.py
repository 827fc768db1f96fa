"""A training step of a 3D U-Net, which the GPU benchmark runs beside loading.

It is what a step on volumes is made of: convolutions at three levels forward and backward, in
bfloat16 on a GPU, and an update by AdamW. It predicts the pressure from the velocity and is not
meant to be good at it; `examples/train_volumes.py` is the one to learn from.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn

__all__ = ["PRESSURE", "VELOCITY", "UNet", "UNetStep"]

VELOCITY: Final = "fields/velocity"
PRESSURE: Final = "fields/pressure"
LEVELS: Final = 3


def _block(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels, 3, padding=1),
        nn.GELU(),
        nn.Conv3d(channels, channels, 3, padding=1),
        nn.GELU(),
    )


class UNet(nn.Module):
    """A U-Net of three levels, for edges that are multiples of four.

    Args:
        channels: channels of the input.
        width: channels of the finest level; each coarser one has twice as many.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [width << level for level in range(LEVELS)]
        before = [channels, *widths[:-1]]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip(before, widths, strict=True))
        self.up = nn.ModuleList(
            _block(coarse + fine, fine) for fine, coarse in itertools.pairwise(widths)
        )
        self.out = nn.Conv3d(width, 1, 1)

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        """Predict: float[B,C,z,y,x] to float[B,z,y,x]."""
        levels: list[torch.Tensor] = []
        for number, block in enumerate(self.down):
            levels.append(block(nn.functional.avg_pool3d(levels[-1], 2) if number else fields))
        found = levels.pop()
        for block in reversed(self.up):
            finer = nn.functional.interpolate(found, scale_factor=2.0)
            found = block(torch.cat([finer, levels.pop()], 1))
        predicted: torch.Tensor = self.out(found)
        return predicted[:, 0]


class UNetStep:
    """Queues one training step on a batch; nothing is waited for.

    Args:
        device: device of the batches.
        width: channels of the finest level.
        seed: seed of the weights.
    """

    def __init__(self, device: torch.device, *, width: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = UNet(3, width).to(device)
        self._device = device
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Take a batch of `VELOCITY` float32[B,z,y,x,3] and `PRESSURE` float32[B,z,y,x]."""
        on_gpu = self._device.type == "cuda"
        fields = batch[VELOCITY].movedim(-1, 1)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=on_gpu):
            predicted = self.model(fields)
        loss = nn.functional.mse_loss(predicted.float(), batch[PRESSURE])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        self._optimizer.step()
        return loss.detach()
