"""The lowest versions that pyproject.toml allows: as pins for pip, and what was installed when tests ran with them.

make floors                                                # installs them into build/floors, and runs tests
python benchmarks/floors.py                                # the pins
python benchmarks/floors.py --record build/floors.xml      # the versions here, and how these tests came out
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "floors.json"
EXTRAS = ("hf", "triton", "test")
BOUND = re.compile(r"^([\w-]+)>=([\w.]+)")


def floors() -> dict[str, str]:
    """Each requirement of the package and of its tests, and its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    found = [BOUND.match(line) for line in wanted]
    missing = [line for line, bound in zip(wanted, found, strict=True) if bound is None]
    assert not missing, f"without a lower bound: {missing}"
    return {bound[1]: bound[2] for bound in found if bound}


def record(report: Path) -> None:
    """Write what is installed here, and the counts of a report of pytest (--junit-xml)."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    files = sorted({case.get("classname", "").split(".test_")[0] for case in suite.iter("testcase")})
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in floors()},
        "rooms": files,
        "pytest": counts,
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


def main() -> None:
    """Print the pins, or record what ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="REPORT")
    given = parser.parse_args()
    if given.record:
        record(given.record)
    else:
        print("\n".join(f"{name}=={floor}" for name, floor in floors().items()))


if __name__ == "__main__":
    main()
