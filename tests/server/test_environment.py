"""scripts/environment.py, with a fake in place of the commands that it runs."""

import importlib.util
import io
import shutil
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "environment.py"


@pytest.fixture
def environment(monkeypatch):
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "environment", module)
    spec.loader.exec_module(module)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("COMFYUI_VERSION", raising=False)
    return module


def make_sdist(path: Path, files: dict[str, str], link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc"
            tar.addfile(member)
    return path


HOST = {
    "pack-1/README.md": "not unpacked",
    "pack-1/vendor/other/file.py": "not unpacked",
    "pack-1/vendor/ComfyUI/main.py": "print('ComfyUI')",
    "pack-1/vendor/ComfyUI/requirements.txt": "aiohttp\n",
    "pack-1/vendor/ComfyUI/comfy/model.py": "",
}


class FakeCommands:
    """Records the commands and creates the files that they would have created."""

    def __init__(self, tmp_path: Path, error: type[Exception]) -> None:
        self.sdist = make_sdist(tmp_path / "pack-1.tar.gz", HOST)
        self.error = error
        self.fails_at = "nothing"
        self.python = "python3.11"
        self.commands = []

    def __call__(self, command: list[str], log: Path) -> None:
        self.commands.append(" ".join(command))
        if self.fails_at in self.commands[-1]:
            raise self.error(self.fails_at)
        if "venv" in command:
            shutil.rmtree(command[-1], ignore_errors=True)
            windows = sys.platform == "win32"
            python = Path(command[-1], "Scripts/python.exe" if windows else "bin/python")
            packages = "Lib/site-packages" if windows else f"lib/{self.python}/site-packages"
            for folder in (python.parent, Path(command[-1], packages)):
                folder.mkdir(parents=True, exist_ok=True)
            python.touch()
        if "download" in command:
            shutil.copy(self.sdist, command[-1])


@pytest.fixture
def fake(environment, tmp_path, monkeypatch):
    fake = FakeCommands(tmp_path, environment.SetupError)
    monkeypatch.setattr(environment, "run_logged", fake)
    monkeypatch.setattr(environment, "can_run_pip", lambda python: python.parent.is_dir())
    return fake


@pytest.fixture
def root(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "requirements.txt").write_text("einops\n")
    (project / "requirements-dev.txt").write_text("pytest\n")
    return project


def test_the_first_run_sets_up_everything_and_the_second_nothing(environment, fake, root):
    made = environment.prepare(tests=True, root=root)
    assert made.comfyui == root / ".cache" / "ComfyUI-0.30.0"
    assert (made.comfyui / "main.py").read_text() == "print('ComfyUI')"
    assert [command.split(" ", 1)[1] for command in fake.commands[2:]] == [
        f"-m pip --disable-pip-version-check --no-input install {arguments}"
        for arguments in (
            "torch==2.14.1 torchvision==0.29.1",
            "torchaudio==2.11.0",
            f"-r {made.comfyui / 'requirements.txt'}",
            f"-r {root / 'requirements.txt'}",
            f"-r {root / 'requirements-dev.txt'}",
        )
    ]
    fake.commands.clear()
    assert environment.prepare(tests=True, root=root) == made
    assert fake.commands == []


@pytest.mark.parametrize(
    "step, redone", [("-m venv", 7), ("download", 6), ("torch==", 5), ("ComfyUI-0.30.0/req", 3)]
)
def test_an_interrupted_step_is_redone_and_the_finished_ones_are_not(
    environment, fake, root, step, redone
):
    fake.fails_at = step.replace("/", "\\" if sys.platform == "win32" else "/")
    with pytest.raises(environment.SetupError):
        environment.prepare(tests=True, root=root)
    fake.fails_at = "nothing"
    fake.commands.clear()
    environment.prepare(tests=True, root=root)
    assert len(fake.commands) == redone


def test_a_partly_unpacked_host_is_unpacked_again(environment, fake, root, monkeypatch):
    def stopped(source, copy):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment.shutil, "copyfileobj", stopped)
        with pytest.raises(KeyboardInterrupt):
            environment.prepare(root=root)
    host = root / ".cache" / "ComfyUI-0.30.0"
    assert not host.exists()
    environment.prepare(root=root)
    assert {path.name for path in host.iterdir()} == {"main.py", "requirements.txt", "comfy"}
    assert [path.name for path in (root / ".cache").iterdir()] == [host.name]


def test_changed_requirements_are_installed_again(environment, fake, root):
    environment.prepare(root=root)
    fake.commands.clear()
    (root / "requirements.txt").write_text("einops>=0.8\n")
    environment.prepare(root=root)
    assert len(fake.commands) == 1
    assert fake.commands[0].endswith(str(root / "requirements.txt"))


def test_an_unknown_version_lists_the_known(environment, fake, root, monkeypatch):
    with pytest.raises(environment.SetupError, match="0.30.0, 0.26.0, 0.20.1, 0.16.3"):
        environment.prepare(root=root, version="0.1.0")
    monkeypatch.setenv("COMFYUI_VERSION", "0.1.0")
    with pytest.raises(environment.SetupError, match="no ComfyUI 0.1.0"):
        environment.prepare(root=root)
    assert fake.commands == [] and not (root / ".cache").exists()


def test_each_host_keeps_its_own_packages(environment, fake, root, monkeypatch):
    oldest = environment.prepare(root=root, version="0.16.3")
    default = environment.prepare(root=root)
    assert oldest.comfyui == root / ".cache" / "ComfyUI-0.16.3"
    venv = root / ".cache" / "venv-0.16.3"
    assert oldest.python.is_relative_to(venv) and default.python.is_relative_to(root / ".venv")
    installed = [
        [made.python for made in (oldest, default) if command.startswith(f"{made.python} ")]
        for version in ("0.16.3", "0.30.0")
        for command in fake.commands
        if command.endswith(f"-r {root / '.cache' / f'ComfyUI-{version}' / 'requirements.txt'}")
    ]
    assert installed == [[oldest.python], [default.python]]
    (link,) = venv.rglob("*.pth")
    assert Path(link.read_text()) == root / ".venv" / link.parent.relative_to(venv)

    fake.commands.clear()
    assert environment.prepare(root=root, version="0.16.3") == oldest
    monkeypatch.setenv("COMFYUI_VERSION", "0.16.3")
    assert environment.prepare(root=root) == oldest
    assert environment.prepare(root=root, version="0.30.0") == default
    assert fake.commands == []


@pytest.mark.skipif(sys.platform == "win32", reason="the folder has no Python version in its name")
def test_another_python_makes_the_environments_of_hosts_again(environment, fake, root):
    environment.prepare(root=root, version="0.16.3")
    shutil.rmtree(root / ".venv")
    fake.python = "python3.13"
    fake.commands.clear()
    environment.prepare(root=root, version="0.16.3")
    assert [link.parts[-3] for link in root.rglob("base.pth")][-1] == "python3.13"
    venv = root / ".cache" / "venv-0.16.3"
    assert sum(command.endswith(f"-m venv --clear {venv}") for command in fake.commands) == 1


def test_a_version_and_an_existing_comfyui_exclude_each_other(environment, root, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    with pytest.raises(environment.SetupError, match="Unset COMFYUI_PATH"):
        environment.prepare(root=root, version="0.16.3")


def test_a_failed_command_shows_the_end_of_its_output(environment, tmp_path):
    command = [sys.executable, "-c", "import sys; print('a clear reason'); sys.exit(3)"]
    with pytest.raises(environment.SetupError, match="a clear reason"):
        environment.run_logged(command, tmp_path / "setup.log")


def test_an_existing_comfyui_is_used_as_it_is(environment, fake, root, tmp_path, monkeypatch):
    host = tmp_path / "host"
    host.mkdir()
    (host / "main.py").touch()
    (host / "requirements.txt").write_text("aiohttp>=3\nPillow # images\n")
    (root / "requirements.txt").write_text("opencv-python>=4.10\n")
    # stands for a cv2 that another distribution installed
    monkeypatch.setitem(environment.MODULE_OF, "opencv-python", "json")
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    made = environment.prepare(root=root)
    assert made == environment.Environment(Path(sys.executable), host)
    assert fake.commands == []
    assert not (root / ".cache").exists()


def test_what_is_missing_in_an_existing_comfyui_is_listed(environment, root, tmp_path, monkeypatch):
    (tmp_path / "main.py").touch()
    (tmp_path / "requirements.txt").write_text(
        "no-such-thing==1.2\naiohttp\n\n#non essential dependencies:\nno-such-extra\n"
    )
    (root / "requirements.txt").write_text("no-such-other>=3\n")
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(environment.SetupError) as caught:
        environment.prepare(root=root)
    assert 'pip install "no-such-thing==1.2" "no-such-other>=3"' in str(caught.value)
    assert "no-such-extra" not in str(caught.value)


def test_a_folder_without_comfyui_is_refused(environment, root, tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(environment.SetupError, match=r"no main\.py"):
        environment.prepare(root=root)


@pytest.mark.parametrize(
    "name", ["../../escaped.py", "../../../../escaped.py", "C:/escaped.py", "..\\escaped.py"]
)
def test_a_path_out_of_the_archive_is_refused(environment, tmp_path, name):
    archive = make_sdist(tmp_path / "x.tar.gz", HOST | {f"pack-1/vendor/ComfyUI/{name}": "escaped"})
    with pytest.raises(environment.SetupError, match=r"escaped\.py"):
        environment.unpack_comfyui(archive, tmp_path / "a" / "b" / "target")
    assert not list(tmp_path.rglob("escaped.py"))


def test_a_link_in_the_archive_is_refused(environment, tmp_path):
    archive = make_sdist(tmp_path / "x.tar.gz", HOST, link="pack-1/vendor/ComfyUI/models")
    with pytest.raises(environment.SetupError, match="no plain file"):
        environment.unpack_comfyui(archive, tmp_path / "target")


def test_an_archive_without_comfyui_is_refused(environment, tmp_path):
    archive = make_sdist(tmp_path / "x.tar.gz", {"pack-1/README.md": ""})
    with pytest.raises(environment.SetupError, match="not the expected sdist"):
        environment.unpack_comfyui(archive, tmp_path / "target")
