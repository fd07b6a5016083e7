"""The rules of CONTRIBUTING.md that a tool can check."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for name in ("nodes", "stableviton_core") for path in (ROOT / name).rglob("*.py")
)
TEXTS = [
    path
    for entry in sorted(ROOT.iterdir())
    if not entry.name.startswith(".") and entry.name != "CHANGELOG.md"
    for path in ([entry] if entry.is_file() else sorted(entry.rglob("*")))
    if path.suffix in (".py", ".md", ".json")
]

IRREGULAR_PARTICIPLES = re.compile(
    "bound|built|chosen|done|drawn|fed|found|given|gone|grown|held|kept|known|laid|left|lost|made|met|"
    "paid|said|seen|sent|shown|shrunk|sold|spent|taken|told|torn|understood|won|worn|written"
)
NOT_PARTICIPLES = {"embed", "feed", "need", "seed", "speed", "string", "padding"}
FORBIDDEN = re.compile(r"\bdolls?\b|\btrunk\b", re.IGNORECASE)


@pytest.mark.parametrize("tool", [["ruff", "check"], ["ruff", "format", "--check"]])
def test_tool_finds_nothing(tool):
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def is_participle(name: str) -> bool:
    word = name.strip("_")
    if "_" in word or word in NOT_PARTICIPLES:
        return False
    return bool(IRREGULAR_PARTICIPLES.fullmatch(word)) or word.endswith(("ed", "ing"))


def test_functions_are_not_named_by_a_participle_alone():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_participle(node.name)
    ]
    assert not wrong, wrong


def test_files_are_neither_fragments_nor_drawers():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    wrong = {
        str(path.relative_to(ROOT)): count
        for path, count in lines.items()
        if count > 400 or (count < 20 and path.name != "__init__.py")
    }
    assert not wrong, wrong


def test_images_are_decoded_in_one_place():
    wrong = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.name != "images.py"
        and re.search(r"\bImage\.open\(", path.read_text(encoding="utf-8"))
    ]
    assert not wrong, wrong


def test_words_are_the_fields():
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()[:80]}"
        for path in TEXTS
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if FORBIDDEN.search(line)
    ]
    assert not wrong, wrong


def test_formatting_is_rarely_skipped():
    python = [path for path in TEXTS if path.suffix == ".py"]
    skipped = sum(path.read_text(encoding="utf-8").count("# fmt: skip") for path in python)
    assert skipped < 15, skipped
