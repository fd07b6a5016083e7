"""Runs the tests against a real ComfyUI; arguments are pytest's, but for --host.

    python scripts/test.py [--host VERSION] [PYTEST ARGUMENT ...]

Without pytest's arguments all tests run, two files at a time. The first run creates `.venv` and
downloads ComfyUI; see environment.py.
"""

from __future__ import annotations

import argparse
import os
import sys

from environment import SetupError, prepare, run_to_end

# `python -m pytest` would put the project's root on sys.path, where the folder `nodes` hides
# ComfyUI's module of that name
PYTEST = """\
import sys
sys.path = [entry for entry in sys.path if entry]
import pytest
sys.exit(pytest.main())
"""


def parse_arguments(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """This script's options, and pytest's arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--host", metavar="VERSION")
    return parser.parse_known_args(arguments)


def main() -> int:
    options, arguments = parse_arguments(sys.argv[1:])
    try:
        environment = prepare(tests=True, version=options.host)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    arguments = arguments or ["-n", "2"]
    has_paths = any(os.path.exists(argument.split("::")[0]) for argument in arguments)
    return run_to_end(
        [
            str(environment.python),
            "-c",
            PYTEST,
            "-c",
            "tests/pytest.ini",
            *([] if has_paths else ["tests"]),
            *arguments,
        ],
        env={
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait leave the cores to other processes
            **os.environ,
            "COMFYUI_PATH": str(environment.comfyui),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
