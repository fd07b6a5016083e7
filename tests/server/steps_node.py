"""A custom node for the test server that runs for steps x seconds and reports progress."""

import time

from comfy.utils import ProgressBar


class TestSteps:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"steps": ("INT", {}), "seconds": ("FLOAT", {})}}

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    CATEGORY = "tests"

    @classmethod
    def IS_CHANGED(cls, steps, seconds):
        return float("nan")  # never cached

    def run(self, steps, seconds):
        bar = ProgressBar(steps)
        for _ in range(steps):
            time.sleep(seconds)
            bar.update(1)
        return {"ui": {"steps": [steps]}}


NODE_CLASS_MAPPINGS = {"TestSteps": TestSteps}
