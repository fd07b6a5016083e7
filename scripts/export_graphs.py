"""Makes what belongs to the graphs in `workflows/`, after one of them or a node was changed.

    python scripts/export_graphs.py [--screenshots]

The graphs are opened in a real web interface. `workflows/api/` gets each one as it is queued.
--screenshots runs them as well, which takes some minutes: the thumbnails beside the graphs, and in
docs/graphs and web/docs/images what the canvas and its nodes show.
"""

from __future__ import annotations

import argparse
import sys

from environment import ROOT, SetupError, prepare, run_to_end


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshots", action="store_true", help="run the graphs and shoot them")
    options = parser.parse_args()
    try:
        environment = prepare(tests=True)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    command = [str(environment.python), str(ROOT / "scripts" / "web_screenshots.py")]
    command += [str(environment.comfyui), *(["--screenshots"] if options.screenshots else [])]
    return run_to_end(command)


if __name__ == "__main__":
    sys.exit(main())
