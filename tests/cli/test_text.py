"""Tables and lines of text that lose nothing in a narrow terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dataplane.cli.text import Column, print_fitted, print_pieces


def console(width: int, *, is_terminal: bool = True) -> tuple[Console, io.StringIO]:
    sink = io.StringIO()
    return Console(file=sink, width=width, force_terminal=is_terminal, color_system=None), sink


_COLUMNS = [
    Column("name", ["a_name_of_thirty_characters_xy", "b"], is_text=True),
    Column("first figure", ["1,234", "9"]),
    Column("what it is", ["a sentence of some words", ""], is_text=True, drop=1),
]


@pytest.mark.parametrize("width", [10, 30, 40, 200])
def test_a_cell_that_must_be_shown_is_never_cut(width: int) -> None:
    terminal, sink = console(width)
    print_fitted(terminal, _COLUMNS)
    text = sink.getvalue()
    assert "a_name_of_thirty_characters_xy" in text
    assert "1,234" in text
    assert "…" not in text
    assert ("no room for: what it is" in " ".join(text.split())) == (width < 200)


def test_numbers_end_and_texts_begin_below_their_heading() -> None:
    terminal, sink = console(200)
    print_fitted(terminal, _COLUMNS[:2], title="of two")
    assert sink.getvalue().splitlines() == [
        "of two",
        "name                            first figure",
        "a_name_of_thirty_characters_xy         1,234",
        "b                                          9",
    ]


def test_control_characters_and_wide_characters_keep_columns_in_line() -> None:
    terminal, sink = console(200)
    print_fitted(
        terminal, [Column("k", ["\x1b[2J", "速度"], is_text=True), Column("n", ["1", "2"])]
    )
    heading, hostile, wide = sink.getvalue().splitlines()
    assert heading.index("n") == hostile.index("1") == wide.index("2") + 2
    assert "\x1b" not in hostile


def test_pieces_stay_whole_and_long_ones_break_between_words() -> None:
    terminal, sink = console(24)
    print_pieces(
        terminal, ["ratio 110.95", "", "10 samples", "a text of several longer words"], indent=2
    )
    assert sink.getvalue().splitlines() == [
        "  ratio 110.95",
        "  10 samples",
        "  a text of several",
        "  longer words",
    ]


def test_pieces_are_one_line_in_a_pipe() -> None:
    pipe, sink = console(24, is_terminal=False)
    print_pieces(pipe, ["ratio 110.95", "10 samples", "a text of several longer words"])
    assert sink.getvalue() == "ratio 110.95  10 samples  a text of several longer words\n"
