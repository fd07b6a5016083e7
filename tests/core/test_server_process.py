"""Servers as child processes: what they are given exists where they run."""

from pathlib import Path

from stableviton_core.serving.install import FOLDER_NAME
from stableviton_core.serving.process import start_server

SERVER = """
import argparse
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("listen", "base-directory", "database-url", "extra-model-paths-config"):
    parser.add_argument("--" + name)
parser.add_argument("--port", type=int)
arguments, _ = parser.parse_known_args()
assert Path(arguments.extra_model_paths_config).is_file(), arguments.extra_model_paths_config
assert Path(arguments.base_directory, "input").is_dir()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()


HTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()
"""


def test_a_relative_folder_is_found_by_the_server(tmp_path, monkeypatch):
    comfyui = tmp_path / "comfyui"
    (comfyui / "custom_nodes" / FOLDER_NAME).mkdir(parents=True)
    (comfyui / "main.py").write_text(SERVER)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with start_server(comfyui, Path("out/.servers/0"), index=0, devices=0) as server:
        assert server.process.poll() is None
    assert (tmp_path / "work/out/.servers/0/server.log").is_file()
