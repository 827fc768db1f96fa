"""The loader's tests once more: `dp.DataLoader` makes loaders with the device "cpu"."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import dataplane as dp
from dataplane.loader.dataloader import DataLoader


class OnDevice(DataLoader):
    """A loader with a device, where it was given none; by the gpu route where that can be."""

    route = "cpu"

    def __init__(self, dataset: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset, *args, **kwargs)
        if self._is_engine and self._device is None:
            self.__dict__["_device"] = torch.device("cpu")
            self.__dict__["_decode"] = self.route

    def _device_batches(self) -> Any:
        if self._runs_user_code or self._is_single:
            self.__dict__["_decode"] = "cpu"
        return super()._device_batches()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a module's tests by the routes that it names, or by both."""
    routes = getattr(metafunc.module, "ROUTES", ("cpu", "gpu"))
    metafunc.parametrize("_on_device", routes, indirect=True)


@pytest.fixture(autouse=True)
def _on_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnDevice, "route", request.param)
    monkeypatch.setattr(dp, "DataLoader", OnDevice)
