"""`dataplane plan`: its report, JSON, chart and check, and errors in one line."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import dataplane as dp
from dataplane.cli.plan import plan
from dataplane.cli.selection_text import parse_arrays
from dataplane.errors import ConfigError
from tests.datasets.packed import pack_numbered

NETWORK = ("--bandwidth", "100MB/s", "--ttfb", "1ms", "--step-ms", "1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a packed dataset `ds` of twelve samples."""
    monkeypatch.chdir(tmp_path)
    pack_numbered(tmp_path / "ds", 12)
    return tmp_path


def planned(*arguments: str, decode: tuple[str, ...] = ("--decode-rate", "1GB/s")) -> Result:
    given = ["ds", *NETWORK, *decode, "--cache-dir", str(Path("cache").absolute()), *arguments]
    return CliRunner().invoke(plan, given)


def document(*arguments: str) -> dict[str, Any]:
    done = planned("--json", *arguments)
    assert done.exit_code == 0, done.output + repr(done.exception)
    return json.loads(done.output)


def test_a_report_says_what_each_epoch_comes_to(folder: Path):
    done = planned("--batch-size", "4", "--price", "0.09", "--request-price", "0.0004")
    assert done.exit_code == 0, repr(done.exception)
    for words in ("hit rate", "downloaded", "0.0%", "100.0%", "memory of a process"):
        assert words in done.output
    assert "12 samples" in done.output


@pytest.mark.parametrize(
    ("prices", "shown"),
    [
        (("--price", "0"), "cost: 0,"),
        (("--request-price", "0.0004"), "cost: 0.0000008,"),
        (("--request-price", "1"), "cost: 0.002,"),
        (("--request-price", "300000"), "cost: 600.00,"),
    ],
)
def test_a_cost_has_its_digits(folder: Path, prices: tuple[str, ...], shown: str):
    requests = document(*prices)["requests"]
    assert requests == 2
    assert shown in planned(*prices).output


def test_the_report_of_many_epochs_is_short(folder: Path):
    lines = planned("--epochs", "100").output.splitlines()
    assert len(lines) < 60
    assert any("epochs in between" in line for line in lines)


def test_json_has_all_figures(folder: Path):
    found = document("--epochs", "2", "--batch-size", "5", "--ranks", "2", "--seed", "3")
    assert [one["hit_rate"] for one in found["epochs"]] == [0.0, 1.0]
    assert [one["steps"] for one in found["epochs"]] == [2, 2]
    assert found["settings"]["ranks"] == 2
    assert found["fetched_bytes"] == found["index_bytes"] + sum(
        one["fetched_bytes"] for one in found["epochs"]
    )
    assert found["cost"] is None
    assert found["memory"]["total_bytes"] > 0
    for one in found["epochs"]:
        assert sum(one["waited_s"].values()) == pytest.approx(one["wait_s"], abs=1e-4)


def test_bandwidth_in_bits_is_an_eighth(folder: Path):
    assert document()["settings"]["bandwidth_bytes_per_s"] == 100e6
    found = document("--bandwidth", "0.8Gbit/s")
    assert found["settings"]["bandwidth_bytes_per_s"] == 100e6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("800Mbps", 100e6),
        ("0.8gbps", 100e6),
        ("800 MBIT/S", 100e6),
        ("100MB/s", 100e6),
        ("100 mB", 100e6),
        ("100MiB/s", 100 << 20),
        ("100M", 100 << 20),
        ("1", 1.0),
    ],
)
def test_rates_are_in_bits_or_bytes_as_they_say(folder: Path, text: str, expected: float):
    assert document("--bandwidth", text)["settings"]["bandwidth_bytes_per_s"] == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10Gb/s", "write 10Gbit/s or 10GB/s"),
        ("10gb", "write 10gbit/s or 10gB/s"),
        ("10Gib/s", "write 10Gbit/s or 10GiB/s"),
        ("500b/s", "write 500bit/s or 500B/s"),
        ("10MBps", "no rate"),
        ("0.5", "at least 1 byte per second"),
        ("4bit/s", "at least 1 byte per second"),
        ("9" * 400, "no rate"),
        ("9" * 400 + "Gbit/s", "no rate"),
    ],
)
def test_rates_that_may_be_another_are_usage_errors(folder: Path, text: str, words: str):
    done = planned("--bandwidth", text)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_the_settings_in_json_are_enough_to_plan_again(folder: Path):
    given = (
        "--arrays", "x=crop(4, 4)", "--arrays", "y", "--samples-per-read", "2", "--drop-last",
        "--batch-size", "5", "--shuffle", "shards", "--shuffle-window", "3", "--seed", "4",
        "--prefetch-factor", "3", "--price", "0.09", "--most-uses", "9999",
    )  # fmt: skip
    first = document(*given)
    told = first["settings"]
    assert told["arrays"] == {"x": "crop((4, 4))", "y": "whole()"}
    assert told["prices"] == {"per_gb": 0.09, "per_1000_requests": None}
    again = [word for name, one in told["arrays"].items() for word in ("--arrays", f"{name}={one}")]
    options = (
        "batch_size", "shuffle", "shuffle_window", "seed", "samples_per_read", "prefetch_factor",
        "most_uses", "ranks", "hosts", "epochs", "workers",
    )  # fmt: skip
    again += [f"--{name.replace('_', '-')}={told[name]}" for name in options]
    again += ["--drop-last"] * told["drop_last"] + ["--price", str(told["prices"]["per_gb"])]
    second = document(*again, "--cache-size", str(told["cache_bytes"]))
    assert second["settings"] == told
    assert second["requests"] == first["requests"]


def test_every_option_says_what_it_is():
    for option in plan.params:
        assert not isinstance(option, click.Option) or option.help, option.name


def test_shuffles_are_those_of_the_loader(folder: Path):
    assert document("--shuffle", "none")["settings"]["shuffle"] is False
    assert document("--shuffle", "shards", "--shuffle-window", "2")["epochs"][0]["steps"] == 12


def test_a_chart_is_drawn(folder: Path):
    pytest.importorskip("matplotlib")
    assert planned("--plot", "plan.svg").exit_code == 0
    assert "<svg" in (folder / "plan.svg").read_text()


@pytest.mark.parametrize("name", ["plan.txt", "nowhere/plan.png"])
def test_a_chart_that_cannot_be_written_is_refused_beforehand(folder: Path, name: str):
    done = planned("--plot", name)
    assert isinstance(done.exception, ConfigError)
    assert "cannot draw" in str(done.exception)


def run(folder: Path) -> None:
    """A run of two epochs in batches of three, recorded in `run.json`."""
    record = dp.RunRecord()
    dataset = dp.Dataset(folder / "ds", cache=folder / "cache")
    loader = dp.DataLoader(dataset, batch_size=3, shuffle=True, seed=1, num_workers=1)
    for _ in range(2):
        list(loader)
        record.add(loader)
    record.save(folder / "run.json")


CHECK = ("--epochs", "2", "--batch-size", "3", "--seed", "1", "--check", "run.json")


def test_a_run_that_was_as_predicted_is_within_its_tolerances(folder: Path):
    run(folder)
    # Time is left out of account: that of so short a run is chance.
    done = planned(*CHECK, "--time-tolerance", "1000000")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("downloaded")]
    assert line.split()[-3:] == ["1.000", "within", "10%"]


def test_a_run_that_was_another_is_told_by_the_exit_code(folder: Path):
    run(folder)
    changed = json.loads((folder / "run.json").read_text())
    changed["epochs"][-1]["stats"]["store_get_bytes"] *= 2
    (folder / "run.json").write_text(json.dumps(changed))
    done = planned(*CHECK, "--time-tolerance", "1000000", "--json")
    assert done.exit_code == 1
    rows = {row["name"]: row for row in json.loads(done.output)["check"]}
    assert not rows["downloaded"]["is_within"]
    assert rows["requests"]["is_within"]
    assert rows["downloaded"]["ratio"] < 0.9
    assert planned(*CHECK, "--time-tolerance", "1000000", "--bytes-tolerance", "1").exit_code == 0


def test_a_run_that_downloaded_nothing_is_refused(folder: Path):
    run(folder)
    changed = json.loads((folder / "run.json").read_text())
    for epoch in changed["epochs"]:
        epoch["stats"]["store_get_bytes"] = changed["before"].get("store_get_bytes", 0)
    (folder / "run.json").write_text(json.dumps(changed))
    done = planned(*CHECK)
    assert isinstance(done.exception, ConfigError)
    assert "downloaded nothing" in str(done.exception)


def test_time_decides_as_well(folder: Path):
    run(folder)
    done = planned(*CHECK, "--step-ms", "60000")
    assert done.exit_code == 1
    assert "NOT within 15%" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--batch-size", "2"), "batches in an epoch"),
        (("--epochs", "1"), "give --epochs 2"),
        (("--check", "run.json"), "2 records of a host with 1 ranks"),
        (("--check", "other.json"), "there is no record"),
    ],
)
def test_a_record_that_does_not_go_with_the_arguments_is_refused(
    folder: Path, arguments: tuple[str, ...], words: str
):
    run(folder)
    done = planned(*CHECK, *arguments)
    assert words in str(done.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--bandwidth", "0"),
        ("--bandwidth", "fast"),
        ("--ttfb", "30"),
        ("--epochs", "0"),
        *itertools.product(
            ("--step-ms", "--price", "--request-price", "--bytes-tolerance", "--time-tolerance"),
            ("nan", "inf", "-1"),
        ),
    ],
)
def test_options_that_are_none_are_usage_errors(folder: Path, arguments: tuple[str, ...]):
    assert planned(*arguments).exit_code == 2


def test_selections_are_read_from_text():
    assert parse_arrays([]) is None
    assert parse_arrays(["u", "v=crop(4, 5, 6)", "p = points(7, short='repeat')"]) == {
        "u": dp.whole(),
        "v": dp.crop((4, 5, 6)),
        "p": dp.points(7, short="repeat"),
    }
    assert parse_arrays(["a/b=steps(4) & crop({'z': 64}, 'center')"]) == {
        "a/b": dp.steps(4) & dp.crop({"z": 64}, "center")
    }
    assert parse_arrays(["u=crop(4, 5, 'center')"]) == {"u": dp.crop((4, 5), "center")}
    assert parse_arrays(["u=crop((4, 5), (0, 1))"]) == {"u": dp.crop((4, 5), (0, 1))}


@pytest.mark.parametrize(
    "text",
    [
        "=whole()",
        "u=",
        "u=box(3)",
        "u=points",
        "u=points(",
        "u=points()",
        "u=points(n)",
        "u=points(10 ** 3)",
        "u=__import__('os').getcwd()",
        "u=whole() | whole()",
        "u=points(1, 2, 3)",
        "u=crop(8, 8, 8, **{'pad': 0})",
    ],
)
def test_what_is_no_selection_is_refused(text: str):
    with pytest.raises(ConfigError, match="--arrays"):
        parse_arrays([text])


def test_an_array_cannot_be_named_twice():
    with pytest.raises(ConfigError, match="twice"):
        parse_arrays(["u", "u=points(3)"])
