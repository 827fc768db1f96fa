"""How far a read is, across processes."""

import math
import os
import struct

import pytest

from dataplane.pack.meter import Meter, read_fraction, say_fraction


@pytest.fixture
def handle():
    made = os.memfd_create("fraction")
    yield made
    os.close(made)


def test_what_was_said_is_read(handle):
    assert read_fraction(handle) == 0.0, "before anything was"
    for fraction in (0.0, 0.25, 1.0):
        say_fraction(handle, fraction)
        assert read_fraction(handle) == fraction


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.5, 1.5])
def test_what_is_no_fraction_counts_as_nothing(handle, wrong):
    os.pwrite(handle, struct.pack("<d", wrong), 0)
    assert read_fraction(handle) == 0.0


def test_a_meter_tells_nothing_until_it_is_told():
    meter = Meter()
    assert meter.fraction() == 0.0
    meter.finish()
    assert meter.fraction() == 1.0


def test_a_meter_never_falls():
    meter = Meter()
    found = []
    for step in (0.5, 0.1, 0.6):
        meter.measure = lambda step=step: step
        found.append(meter.fraction())
    assert found == [0.5, 0.5, 0.6]
