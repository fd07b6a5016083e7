"""Memory that `convert` takes for a checkpoint of the released size.

    python benchmarks/convert_memory.py [--folder DIR]

Writes one as an fp32 pickle (7.4 GB, seeded values) and converts it to fp16 (Linux). Anonymous
memory is what the system cannot drop; resident memory includes the mapped files, which it drops
where other programs need memory. --folder: for the files, instead of a temporary one.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from full_size import ROOT, write_full_size
from process_memory import PeakMonitor

sys.path.insert(0, str(ROOT))


def main() -> None:
    from stableviton_core.model.convert import convert

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source = Path(temporary, "full.ckpt")
        write_full_size(source, "fp32")
        start = time.perf_counter()
        with PeakMonitor("RssAnon") as anonymous, PeakMonitor("VmRSS") as resident:
            convert(source, source.with_suffix(".safetensors"), "fp16")
        seconds = time.perf_counter() - start
        print("| source GB | anonymous GB | resident GB | s |\n|---|---|---|---|")
        sizes = (source.stat().st_size, anonymous.peak, resident.peak)
        print(f"| {' | '.join(f'{size / 1e9:.2f}' for size in sizes)} | {seconds:.0f} |")


if __name__ == "__main__":
    main()
