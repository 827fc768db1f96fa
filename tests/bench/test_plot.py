"""Charts: every panel is there, every word is inside, and no ceiling squeezes the bars."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import ConfigError
from dataplane_bench.model import Case, Cost, Figure, Row, figure, summarise
from dataplane_bench.plot import _distinct_names, _dpi, check_plot, draw, save_plot

pytest.importorskip("matplotlib")
_MACHINE = {
    "cpu": "a processor", "cores": 2, "kernel": "6.18", "dataplane": "0", "commit": "abc",
    "native_build": "Release",
}  # fmt: skip


class _Named:
    def __init__(self, name: str, threads: int = 2) -> None:
        self.name = name
        self.threads = threads

    def run(self) -> Cost:
        raise NotImplementedError

    def close(self) -> None: ...


def rows(ceiling_gb_per_s: float = 1.0, dataset: str = "volumes") -> list[Row]:
    """Ours at 0.5 GB/s (0.25 to 1 over the rounds), a rival, a ceiling."""
    case = Case("loader", dataset, codec="blosc-lz4", state="warm")
    systems = [_Named("dataplane"), _Named("webdataset"), _Named("ceiling:memcpy", 1)]
    costs = [
        [Cost(s, 1.0, 10**9, 8) for s in (4.0, 2.0, 1.0)],
        [Cost(s, 2.0, 10**9, 8) for s in (8.0, 4.0, 16.0)],
        [Cost(1 / ceiling_gb_per_s, 0.5, 10**9, 8)] * 3,
    ]
    return summarise(case, systems, costs, ceiling="ceiling:memcpy")


def figures(unit: Any = "s", quantity: str = "time of an operation") -> list[Figure]:
    table = ("cache", "entries of one block", quantity, "entries")
    return [
        figure(
            table, f"an operation with a rather long name, number {number}", at, unit, [0.5, 0.6]
        )
        for number in range(10)
        for at in (1000, 10_000)
    ]


def panels(chart: Any) -> list[Any]:
    return [axes for axes in chart.axes if axes.axison]


def width_of(chart: Any, name: str) -> float:
    """The share of the panel's width that the bar of a system takes."""
    [axes] = panels(chart)
    names = [label.get_text() for label in axes.get_yticklabels()]
    return axes.patches[names.index(name)].get_width() / axes.get_xlim()[1]


def test_a_ceiling_far_above_does_not_squeeze_the_bars() -> None:
    chart = draw(_MACHINE, rows(ceiling_gb_per_s=60.0))
    assert width_of(chart, "dataplane") == pytest.approx(0.5 / 1.25)  # its spread reaches 1.0
    assert width_of(chart, "ceiling: memcpy") == 1.0
    [axes] = panels(chart)
    assert "60.0, beyond this axis" in [text.get_text() for text in axes.texts]


def test_a_ceiling_that_is_near_has_its_place_on_the_axis() -> None:
    chart = draw(_MACHINE, rows(ceiling_gb_per_s=2.0))
    assert width_of(chart, "ceiling: memcpy") == pytest.approx(1 / 1.25)
    assert width_of(chart, "dataplane") == pytest.approx(0.25 / 1.25)
    [axes] = panels(chart)
    assert [text.get_text() for text in axes.texts] == ["0.500", "0.125", "2.00"]


def test_every_part_has_a_panel() -> None:
    chart = draw(_MACHINE, rows(), [*figures(), *figures("share", "hit rate")])
    titles = [axes.get_title(loc="left") for axes in panels(chart)]
    assert titles == [
        "loader · volumes · blosc-lz4 · warm",
        "cache · entries of one block · time of an operation",
        "cache · entries of one block · hit rate",
    ]
    legend = panels(chart)[1].get_legend()
    assert len(legend.get_texts()) == 10


def test_no_word_is_cut() -> None:
    words = "one object, emulated cloud: 20 ms to the first byte, 80 MB/s a connection, and more"
    machine = _MACHINE | {"cpu": "a processor with a name as long as vendors like them " * 3}
    chart = draw(machine, rows(60.0, dataset=f"{words} {words}"), figures(), smoke=True)
    chart.draw_without_rendering()
    page = chart.bbox
    texts = [chart._suptitle]
    for axes in panels(chart):
        texts += [axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        legend = axes.get_legend()
        texts += axes.get_yticklabels() if legend is None else legend.get_texts()
    shown = [text for text in texts if text.get_text()]
    assert len(shown) > 20
    for text in shown:
        box = text.get_window_extent()
        inside = page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
        assert inside, text.get_text()


def test_many_panels_stand_in_columns_and_make_a_file_that_can_be_opened() -> None:
    many = [row for number in range(34) for row in rows(dataset=f"array {number}")[:1]]
    chart = draw(_MACHINE, many)
    assert len(panels(chart)) == 34
    width, height = chart.get_size_inches()
    assert width == 27
    assert height < 30
    assert _dpi(width, height) == 150
    assert _dpi(9, 400) * 400 == 20_000


def test_a_plot_is_drawn_to_a_file(tmp_path: Path) -> None:
    save_plot(tmp_path / "rows.png", _MACHINE, rows())
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"name a \.png"):
        save_plot(tmp_path / "rows.xyz", _MACHINE, rows())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("rows.xyz", "unknown suffix"), ("rows", "unknown suffix"), ("no/rows.png", "no folder")],
)
def test_a_plot_that_cannot_be_drawn_is_refused_before_the_benchmark(
    tmp_path: Path, name: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        check_plot(tmp_path / name)


def test_a_plot_of_a_smoke_run_says_so(tmp_path: Path) -> None:
    save_plot(tmp_path / "rows.svg", _MACHINE, rows(), smoke=True)
    save_plot(tmp_path / "real.svg", _MACHINE, rows())
    assert "SMOKE RUN" in (tmp_path / "rows.svg").read_text()
    assert "SMOKE RUN" not in (tmp_path / "real.svg").read_text()


def test_systems_that_run_twice_have_bars_of_their_own() -> None:
    ours, rival, _ = rows()
    twice = [ours, rival, dataclasses.replace(rival, threads=0)]
    assert _distinct_names(twice) == ["dataplane", "webdataset, 2 workers", "webdataset, 0 workers"]
