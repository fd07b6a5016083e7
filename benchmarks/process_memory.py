"""Memory of this process, in bytes."""

import sys
import threading
import time
from pathlib import Path

STATUS = Path("/proc/self/status")  # Linux


def read_memory(field: str = "VmRSS") -> float:
    """A field of Linux's process status: VmRSS (resident), VmHWM (its peak), RssAnon (without
    mapped files). NaN on other systems."""
    if not STATUS.is_file():
        return float("nan")
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024.0


def read_peak_memory() -> float:
    """Peak resident memory, on Linux or macOS."""
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return read_memory("VmHWM")


class PeakMonitor:
    """Samples a field of `read_memory` while its block runs: start and peak."""

    def __init__(self, field: str):
        self.field = field

    def __enter__(self) -> "PeakMonitor":
        self.start = self.peak = read_memory(self.field)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.is_set():
            self.peak = max(self.peak, read_memory(self.field))
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, read_memory(self.field))
