"""A prediction as a chart: the time of each epoch by what it goes to, and where steps wait."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from dataplane.errors import ConfigError
from dataplane.extras import missing_package
from dataplane.planning.causes import CAUSES
from dataplane.planning.document import waits_by_cause
from dataplane.planning.predict import Prediction

__all__ = ["check_chart", "save_chart"]

_SUFFIXES = frozenset({".pdf", ".png", ".svg"})
_COLOURS = {
    "start": "#c9ccd1",
    "decode": "#8a5fb0",
    "bandwidth": "#4a6fa5",
    "connection": "#7a93b8",
    "first byte": "#c2703d",
    "cache": "#b03a2e",
}
_TRAINING = "#1b7f5c"
_SIZE_IN = (9.0, 6.5)
_DPI = 150


def check_chart(path: Path) -> None:
    """Check that a chart can be written to a file, before anything is computed for it.

    Raises:
        ConfigError: the suffix or the folder cannot be used.
        MissingPackage: matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"cannot draw {path}: unknown suffix", hint="name a .png, .svg or .pdf file"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"cannot draw {path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"cannot draw {path}: it cannot be written")
    if importlib.util.find_spec("matplotlib") is None:
        raise missing_package("--plot", "matplotlib")


def save_chart(prediction: Prediction, path: Path) -> None:
    """Draw a prediction.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    time_axes, step_axes = figure.subplots(2, 1)
    _draw_times(time_axes, prediction)
    _draw_waits(step_axes, prediction)
    figure.savefig(path, dpi=_DPI)


def _draw_times(axes: Any, prediction: Prediction) -> None:
    epochs = prediction.epochs
    places = range(len(epochs))
    step_s = prediction.settings.step_s
    bottom = [one.steps * step_s for one in epochs]
    axes.bar(places, bottom, color=_TRAINING, label="training")
    for cause in CAUSES:
        waits = [sum(wait.total_s for wait in waits_by_cause(one).get(cause, [])) for one in epochs]
        if any(waits):
            axes.bar(places, waits, bottom=bottom, color=_COLOURS[cause], label=f"waits: {cause}")
            bottom = [low + wait for low, wait in zip(bottom, waits, strict=True)]
    axes.set_xticks(places, [str(one.epoch) for one in epochs])
    axes.set_xlabel("epoch")
    axes.set_ylabel("s")
    axes.set_title(f"{prediction.url}: time by epoch", fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_waits(axes: Any, prediction: Prediction) -> None:
    first = 0
    for one in prediction.epochs:
        for cause, waits in waits_by_cause(one).items():
            axes.scatter(
                [first + wait.step for wait in waits],
                [wait.wait_s * 1e3 for wait in waits],
                s=6,
                color=_COLOURS[cause],
            )
        first += one.steps
    axes.set_xlim(0, max(first, 1))
    axes.set_xlabel("step, all epochs")
    axes.set_ylabel("wait, ms")
    is_sampled = prediction.scale != 1.0
    axes.set_title("steps that wait" + is_sampled * " (a sample of them)", fontsize=10)
