import os
import shutil
from pathlib import Path

import pytest

from helpers.browser import write_settings
from stableviton_core.serving.install import install_pack
from stableviton_core.serving.process import serve


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of the ComfyUI to test with."""
    if "COMFYUI_PATH" not in os.environ:
        pytest.fail("COMFYUI_PATH is not set. Run the tests with: python scripts/test.py")
    return Path(os.environ["COMFYUI_PATH"])


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    """A running ComfyUI with the pack and TestSteps: `.url`, `.base` (its folder) and `.log`."""
    base = tmp_path_factory.mktemp("comfyui")
    install_pack(base)
    write_settings(base)
    shutil.copy(Path(__file__).with_name("steps_node.py"), base / "custom_nodes")
    frontend = os.environ.get("COMFYUI_FRONTEND")  # the `static` folder of another web interface
    options = [] if frontend is None else ["--front-end-root", frontend]
    with serve(comfyui, base, cpu=True, options=options) as running:
        yield running
