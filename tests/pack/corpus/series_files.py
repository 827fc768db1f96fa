"""Files that list others, made from a seed: `.pvd`, `.series`, `.vtm`, and their readers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from tests.pack.corpus.archive_files import moved, sound_case
from tests.pack.corpus.legacy_files import legacy_case
from tests.pack.corpus.model import Case, Refused, Sample
from tests.pack.corpus.numbers import parse_text
from tests.pack.corpus.parallel_files import parallel_case, parse_header, resolve
from tests.pack.corpus.xml_files import xml_case
from tests.pack.corpus.xml_oracle import need

__all__ = ["blocks_case", "series_case"]

_NO_TIME = -math.inf
"""Entries without a time come before all others."""
_BLOCK_NAMES = ("internal", "inlet", "outlet", "wall 1", "é", "a-b")


def series_case(rng: np.random.Generator) -> Case:
    """A `.pvd` or `.series` of one to three files at times of their own, in any order."""
    steps = {}
    for number in range(int(rng.integers(1, 4))):
        time = float(rng.choice([number, rng.standard_normal(), 10.0 ** rng.integers(-12, 12)]))
        steps[time] = (f"step_{number}", sound_case(rng, [xml_case, legacy_case, parallel_case]))
    files: dict[str, bytes] = {}
    listed = []
    for at in rng.permutation(len(steps)):
        time = [*steps][at]
        folder, case = steps[time]
        files |= moved(case, folder)
        listed.append((time, f"{folder}/{case.entry}"))
    is_json = bool(rng.random() < 0.4)
    entry = "case.vtu.series" if is_json else "case.pvd"
    files = {entry: (_json if is_json else _collection)(listed), **files}
    places = {f"{folder}/{case.entry}": case for folder, case in steps.values()}
    expected = [
        replace(sample, attributes={**sample.attributes, "time": time})
        for time in sorted(steps)
        for sample in steps[time][1].expected or ()
    ]

    def oracle(path: Path) -> list[Sample]:
        found = (_read_json if is_json else _read_collection)(path)
        return _read_steps(path, found, places, is_json=is_json)

    return Case(f"{entry} of {len(steps)}", entry, files, expected, oracle)


def _collection(listed) -> bytes:
    text = '<VTKFile type="Collection" version="0.1" byte_order="LittleEndian">\n<Collection>\n'
    for time, place in listed:
        text += f'<DataSet timestep="{time!r}" group="" part="0" file="{place}"/>\n'
    return f"{text}</Collection>\n</VTKFile>\n".encode()


def _json(listed) -> bytes:
    files = [{"name": place, "time": time} for time, place in listed]
    return json.dumps({"file-series-version": "1.0", "files": files}, indent=1).encode()


def _read_collection(path: Path) -> list[tuple[float, int, str]]:
    root = parse_header(path)
    need(root.get("type") == "Collection", "kind")
    collection = root.find("Collection")
    need(collection is not None, "no collection")
    found = []
    for element in collection.findall("DataSet"):
        stated = element.get("timestep")
        time = _NO_TIME if stated is None else _finite(stated)
        untimed = sum(entry[0] == _NO_TIME for entry in found)
        part = element.get("part") or str(untimed if stated is None else 0)
        need(re.fullmatch(r"\s*-?\d{1,9}\s*", part, re.ASCII), "part")
        found.append((time, int(part), element.get("file", "")))
    return found


def _read_json(path: Path) -> list[tuple[float, int, str]]:
    try:
        content = json.loads(path.read_bytes())
        return [(_stated_time(entry), 0, str(entry["name"])) for entry in content["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise Refused(f"JSON: {err}") from err


def _stated_time(entry) -> float:
    return _finite(str(entry["time"])) if "time" in entry else _NO_TIME


def _finite(text: str) -> float:
    number = float(parse_text([text.strip()], np.dtype("f8"))[0])
    need(math.isfinite(number), "time")
    return number


def _read_steps(path: Path, found, places: dict[str, Case], *, is_json: bool) -> list[Sample]:
    """Read the files of a series in the order of their times; the same entry twice is one."""
    need(found, "no steps")
    samples = []
    # A JSON list in which a time is missing goes by its own order.
    as_listed = is_json and any(entry[0] == _NO_TIME for entry in found)
    for time, _, name in found if as_listed else sorted(set(found)):
        need(name in places, f"no file {name!r}")
        own = {} if time == _NO_TIME else {"time": time}
        samples += [
            replace(sample, attributes={**sample.attributes, **own})
            for sample in places[name].oracle(resolve(path, name))
        ]
    return samples


def blocks_case(rng: np.random.Generator) -> Case:
    """A `.vtm` of one to three files, some in blocks of blocks, with or without a time."""
    cases = [sound_case(rng, [xml_case]) for _ in range(int(rng.integers(1, 4)))]
    names = [str(name) for name in rng.permutation(_BLOCK_NAMES)]
    kind = "vtkMultiBlockDataSet"
    text = f'<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian">\n<{kind}>\n'
    files: dict[str, bytes] = {}
    places: dict[str, Case] = {}
    for number, case in enumerate(cases):
        folder = f"case/part_{number}"
        files |= moved(case, folder)
        place = f"{folder}/{case.entry}"
        places[place] = case
        within = number > 0 and rng.random() < 0.5
        index = 0 if within else number
        leaf = f'<DataSet index="{index}" name={quoteattr(names[number])} file="{place}"/>'
        if within:
            leaf = f'<Block index="{number}" name="group {number}">\n{leaf}\n</Block>'
        text += f"{leaf}\n"
    text += f"</{kind}>\n"
    attributes = {}
    if rng.random() < 0.5:
        attributes["time"] = float(rng.standard_normal())
        values = f'NumberOfTuples="1" format="ascii">{attributes["time"]!r}</DataArray>'
        text += f'<FieldData><DataArray type="Float64" Name="TimeValue" {values}</FieldData>\n'
    files = {"case.vtm": f"{text}</VTKFile>\n".encode(), **files}

    def oracle(path: Path) -> list[Sample]:
        return _read_blocks(path, places)

    expected = [
        replace(sample, attributes={**sample.attributes, **attributes})
        for case in cases
        for sample in case.expected or ()
    ]
    return Case(f"vtm of {len(cases)}", "case.vtm", files, expected, oracle)


def _read_blocks(path: Path, places: dict[str, Case]) -> list[Sample]:
    root = parse_header(path)
    need(root.get("type") == "vtkMultiBlockDataSet", "kind")
    tree = root.find("vtkMultiBlockDataSet")
    need(tree is not None, "no blocks")
    attributes = {}
    time = root.find("FieldData/DataArray[@Name='TimeValue']")
    if time is not None:
        need(time.get("format") == "ascii", "time is not text")
        values = parse_text((time.text or "").split(), np.dtype("f8"))
        need(len(values) == 1 and math.isfinite(values[0]), "time")
        attributes["time"] = float(values[0])
    samples = []
    for element in tree.iter("DataSet"):
        name = element.get("file", "")
        need(name in places, f"no file {name!r}")
        samples += [
            replace(sample, attributes={**sample.attributes, **attributes})
            for sample in places[name].oracle(resolve(path, name))
        ]
    need(samples, "no blocks")
    return samples
