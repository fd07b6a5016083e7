import os
import re
import shutil
from pathlib import Path

import pytest

from helpers.browser import find_browser, open_page, write_settings
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


@pytest.fixture(scope="module")
def page(server):
    """The web interface of the server in a headless browser; `errors` has what its console says."""
    pytest.importorskip(
        "playwright.sync_api", reason="needs the package playwright: pip install playwright"
    )
    browser = find_browser()
    if browser is None:
        pytest.skip("needs a Chromium, Chrome or Edge: install one, or name it in CHROME_PATH")
    with open_page(server.url, browser, viewport={"width": 1600, "height": 1000}) as page:
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda line: is_error(line) and page.errors.append(line.text))
        yield page


def is_error(line) -> bool:
    """Whether a line of the console is an error, but for what the web interface misses offline."""
    return line.type == "error" and not re.search("net::ERR_|Content Security", line.text)
