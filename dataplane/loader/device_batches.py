"""Batches of a pass on a device: which route they take, what happens where it cannot be taken.

A pass with a device has one `DeviceBatches`. `make` decodes read samples by the route of the pass,
`move` copies what the user's code made. The route is fixed, or, with "auto", chosen at the first
batch from its ratio and measured speeds. What the gpu route lacks is one line in the log per
process and reason, and the cpu route, unless it was asked for by name: then it is an error.

`make` and `move` are called by one thread at a time, `settled` and `handed_over` by any, `close` by
any and at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dataplane.datasets.layout import ArrayLayout
from dataplane.datasets.ragged import RaggedForm
from dataplane.datasets.samples import FetchedSample, decoded_bytes
from dataplane.errors import ConfigError, DataplaneError
from dataplane.extras import missing_package
from dataplane.gpu.device import Device, resolve
from dataplane.gpu.inflate import HostInflater, Inflater
from dataplane.gpu.route import Choice, Decode, choose
from dataplane.gpu.speeds import measured
from dataplane.gpu.transfer import Sent, Transfer
from dataplane.telemetry import logger

__all__ = ["DeviceBatches", "check_decode"]

_told: dict[str, object] = {}
"""Reasons that were logged. One dict operation tells and notes, so threads need no lock."""


def check_decode(device: torch.device | None, decode: object) -> Decode:
    """Return the loader's `decode` argument.

    Raises:
        ConfigError: it is none of the routes, or there is no device to decode for.
    """
    if decode not in {"auto", "cpu", "gpu"}:
        raise ConfigError(f'decode must be "auto", "cpu" or "gpu", got {decode!r}')
    if device is None and decode != "auto":
        raise ConfigError(
            f"decode={decode!r} says where batches for a device are decoded, and there is no "
            "device",
            hint='give device="cuda" as well',
        )
    return decode


class DeviceBatches:
    """Makes the batches of one pass on a device.

    Args:
        device: device, as the loader was told.
        decode: route, likewise.
        threads: native threads.
        needs_cpu: why batches cannot be decoded on the device, or nothing.
        ragged: what ragged arrays become on the device; None leaves them with offsets.

    Raises:
        ConfigError: there is no such device, or `decode="gpu"` cannot be.
        MissingPackage: it needs a package that is not installed.
    """

    def __init__(
        self,
        device: torch.device,
        decode: Decode,
        *,
        threads: int,
        needs_cpu: str = "",
        ragged: RaggedForm | None = None,
    ) -> None:
        self._decode = decode
        self._threads = threads
        if decode == "gpu" and needs_cpu:
            raise ConfigError(
                f'decode="gpu" decodes batches on the device, but {needs_cpu}',
                hint='use decode="auto"',
            )
        self.device: Device = resolve(device)
        self._inflater: Inflater | None = None
        self.choice: Choice | None = None
        if needs_cpu:
            self.choice = Choice("cpu", needs_cpu)
        elif decode == "cpu":
            self.choice = Choice("cpu", "as was asked for")
        elif decode == "gpu":
            self._inflater = inflater_for(self.device, threads)
            self.choice = Choice("gpu", "as was asked for")
        elif device.type == "cpu":
            self.choice = Choice("cpu", "the device is the CPU")
        else:
            self._find_inflater()
        self._transfer = Transfer(
            self.device, threads=threads, inflater=self._inflater, ragged=ragged
        )
        # With slots of its own: batches behind a damaged one hold both of the other's.
        self._again = Transfer(self.device, threads=threads, ragged=ragged)

    @property
    def name(self) -> str:
        """Name of the device."""
        return str(self.device.torch_device)

    def make(
        self,
        samples: Sequence[FetchedSample],
        layouts: Sequence[ArrayLayout],
        *,
        keys: bool = True,
    ) -> Sent:
        """Make a batch of samples, with their keys or without.

        Raises:
            DecodeError: a chunk cannot be decoded.
        """
        if self.choice is None:
            self.choice = self._choose(samples, layouts)
        if self.choice.route == "cpu":
            return self._transfer.decode_here(samples, layouts, keys=keys)
        try:
            return self._transfer.decode_there(samples, layouts, keys=keys)
        except torch.OutOfMemoryError as err:
            if self._decode == "gpu":
                raise
            self._fall_back(f"{self.name} has no memory left ({str(err).splitlines()[0]})")
            return self._transfer.decode_here(samples, layouts, keys=keys)

    def make_again(
        self,
        samples: Sequence[FetchedSample],
        layouts: Sequence[ArrayLayout],
        *,
        keys: bool = True,
    ) -> Sent:
        """Make a batch by the native decoder, whatever the route of the pass is."""
        return self._again.decode_here(samples, layouts, keys=keys)

    def distrust(self, err: DataplaneError) -> None:
        """Note that the device could not inflate what the CPU then did decode.

        Reading every batch twice would be slow, so an "auto" pass goes on by the cpu route.
        """
        why = f"{self.name} could not inflate what the CPU can ({err.message})"
        if self._decode == "auto":
            self._fall_back(why)
        else:
            _tell_once(why, "%s; the batch was decoded on the CPU", why)

    def move(self, content: Any) -> Sent:
        """Copy what is on the CPU."""
        return self._transfer.move(content)

    def handed_over(self, sent: Any) -> Any:
        """Return a batch for work that the calling thread queues from now on."""
        return sent.hand_over(self.device) if isinstance(sent, Sent) else sent

    def close(self) -> None:
        """Make no more batches. Idempotent."""
        self._transfer.close()
        self._again.close()

    def _find_inflater(self) -> None:
        try:
            self._inflater = inflater_for(self.device, self._threads)
        except DataplaneError as err:
            self._fall_back(str(err))

    def _choose(self, samples: Sequence[FetchedSample], layouts: Sequence[ArrayLayout]) -> Choice:
        """Choose the route by a first batch."""
        assert self._inflater is not None
        load = self._transfer.load_of(samples, layouts, decoded_bytes(samples))
        try:
            speeds = measured(self.device, self._inflater, threads=self._threads)
            choice = choose(load, speeds, free_bytes=_free_bytes(self.device.torch_device))
        except Exception as err:  # whatever a driver or compiler says: the other route is there
            choice = Choice("cpu", f"measuring failed: {err!r:.200}", is_fallback=True)
        if choice.is_fallback:
            self._fall_back(choice.why)
        return choice

    def _fall_back(self, why: str) -> None:
        self.choice = Choice("cpu", why, is_fallback=True)
        _tell_once(why, "batches for %s are decoded on the CPU: %s", self.name, why)


def _tell_once(reason: str, message: str, *arguments: object) -> None:
    """Log a warning, but for a reason that this process has logged."""
    if _told.setdefault(reason, mine := object()) is mine:
        logger.warning(message, *arguments)


def inflater_for(device: Device, threads: int) -> Inflater:
    """Return what inflates on a device.

    Raises:
        MissingPackage: nvCOMP or Triton is not installed.
        ConfigError: nvCOMP does not load.
    """
    if device.torch_device.type == "cpu":
        return HostInflater(threads=threads)
    try:
        import triton  # noqa: F401 - whether it is there
    except ImportError as err:
        raise missing_package("decoding on a GPU", "triton", extra="dali-cuda13") from err
    from dataplane.gpu.nvcomp import NvcompInflater

    return NvcompInflater()


def _free_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU that is free, or kept by torch for what comes; None of the CPU."""
    if device.type == "cpu":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept
