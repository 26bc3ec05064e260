"""Descriptions without names of machines."""

import json
import os
import platform

from vibelite.telemetry.hardware import describe_hardware, num_usable_cpus


def test_description_names_the_machine_by_kind_only():
    description = describe_hardware()
    assert description["num_cpus"] == num_usable_cpus() >= 1
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert description["memory_bytes"] == physical
    assert platform.node() not in json.dumps(description) or len(platform.node()) < 3
