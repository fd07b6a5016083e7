"""Runs what finds mistakes without running the project: lint, format, types, spelling.

Uses the environment of test.py (see environment.py). Names of checks run only those. Exit code 1
when one finds something.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from environment import ROOT, SetupError, prepare

CHECKS = {
    "lint": ["ruff", "check"],
    "format": ["ruff", "format", "--check"],
    "types": ["mypy"],
    "spelling": ["codespell_lib"],
}
# The nodes import the core as `..stableviton_core`, so mypy needs a name for the folder above both.
PACKAGE = "stableviton_pack"


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the code without running it.")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}")
    selection = parser.parse_args().checks or list(CHECKS)
    if unknown := set(selection) - set(CHECKS):
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    try:
        python = prepare(tests=True).python
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    failures = []
    for check in selection:
        print(f"== {check}", flush=True)
        command, env = [str(python), "-m", *CHECKS[check]], dict(os.environ)
        if check == "types" and (folder := link_as_package(ROOT / ".cache" / "types")):
            command += ["-p", f"{PACKAGE}.stableviton_core", "-p", f"{PACKAGE}.nodes"]
            env["MYPYPATH"] = str(folder)
        if subprocess.run(command, cwd=ROOT, env=env).returncode:
            failures.append(check)
    print(f"failed: {', '.join(failures)}" if failures else "nothing found")
    return 1 if failures else 0


def link_as_package(folder: Path) -> Path | None:
    """A folder in which the project is a package with a name that Python can import.

    None where links are not allowed (Windows without developer mode): mypy then checks the nodes
    without the types of the core.
    """
    link = folder / PACKAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if link.resolve() != ROOT:
            link.unlink(missing_ok=True)
            link.symlink_to(ROOT, target_is_directory=True)
    except OSError:
        return None
    return folder


if __name__ == "__main__":
    sys.exit(main())
