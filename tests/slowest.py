"""Write `slow.txt`, the tests that `make test` leaves to `make test-whole`.

    make test-whole TESTS=--junitxml=times.xml
    python tests/slowest.py times.xml

A test that takes more than so many times the median is listed: seconds of one machine say little.
"""

from __future__ import annotations

import statistics
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE / "slow.txt"
TIMES_THE_MEDIAN = 6


def times(report: Path) -> dict[str, float]:
    """Seconds of each test of a JUnit file, by its name for pytest."""
    found: dict[str, float] = {}
    for case in ET.parse(report).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        found[f"{file}::{case.attrib['name']}"] = float(case.attrib["time"])
    return found


def slow(seconds: dict[str, float]) -> list[str]:
    """Those that take many times what the usual test takes, in alphabetical order."""
    # Tests that only look at a name or a file say nothing about what a test takes.
    usual = statistics.median(value for value in seconds.values() if value > 0.05)
    return sorted(name for name, value in seconds.items() if value > TIMES_THE_MEDIAN * usual)


if __name__ == "__main__":
    TABLE.write_text("".join(f"{name}\n" for name in slow(times(Path(sys.argv[1])))), "utf-8")
