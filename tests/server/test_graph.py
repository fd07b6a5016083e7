import json

import pytest

from stableviton_core.errors import StableVITONError
from stableviton_core.serving.graph import find_class, find_title, load_graph, set_image, set_input
from stableviton_core.serving.install import FOLDER_NAME, install_pack


@pytest.fixture
def graph() -> dict:
    def node(class_type: str, title: str, **inputs) -> dict:
        return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}

    return {
        "1": node("LoadImage", "Person", image="a.png"),
        "2": node("LoadImage", "Twin", image="b.png"),
        "3": node("SaveImage", "Twin", images=["2", 0]),
    }


def test_nodes_are_found_by_title_and_class(graph):
    assert find_title(graph, "Person") == "1"
    assert find_class(graph, "SaveImage") == "3"
    set_image(graph, "Person", "new.png")
    assert graph["1"]["inputs"] == {"image": "new.png"}


def test_a_title_that_is_not_one_lists_the_titles(graph):
    with pytest.raises(
        StableVITONError, match="'Result' in the graph, found 0.*Person, Twin, Twin"
    ):
        find_title(graph, "Result")
    with pytest.raises(StableVITONError, match="found 2"):
        find_title(graph, "Twin")


def test_an_input_the_node_has_not_is_an_error(graph):
    with pytest.raises(StableVITONError, match="no input 'imgae'; it has image"):
        set_input(graph, "1", "imgae", "c.png")


@pytest.mark.parametrize("content", ["", "[]", '{"nodes": [], "links": []}'])
def test_a_file_in_another_format_is_refused(tmp_path, content):
    (tmp_path / "graph.json").write_text(content)
    with pytest.raises(StableVITONError):
        load_graph(tmp_path / "graph.json")


def test_a_file_in_the_api_format_is_read(tmp_path, graph):
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    assert load_graph(tmp_path / "graph.json") == graph


@pytest.mark.parametrize("place", ["pack", "folder", "file", "checkout"])
def test_installing_deletes_nothing_of_others(tmp_path, place):
    """It emptied a checkout that was linked into custom_nodes."""
    pack, base, checkout = tmp_path / "pack", tmp_path / "base", tmp_path / "checkout"
    for folder in (pack, checkout):
        (folder / "nodes").mkdir(parents=True)
        (folder / "nodes" / "a.py").write_text(folder.name)
    (checkout / ".git").mkdir()
    target = base / "custom_nodes" / FOLDER_NAME
    target.parent.mkdir(parents=True)
    if place == "pack":
        target.symlink_to(checkout)
    elif place == "checkout":
        checkout.rename(target)
        checkout = target
    else:
        name = "nodes" if place == "folder" else "nodes/a.py"
        (target / name).parent.mkdir(parents=True)
        (target / name).symlink_to(checkout / name)
    with pytest.raises(StableVITONError, match="is a (link|checkout)"):
        install_pack(base, pack)
    assert (checkout / "nodes" / "a.py").read_text() == "checkout"
    assert (checkout / ".git").is_dir()


def test_the_installed_pack_follows_the_original(tmp_path):
    pack, base = tmp_path / "pack", tmp_path / "base"
    for name in ("__init__.py", "nodes/old.py", "nodes/same.py", "tests/test_it.py", ".git/HEAD"):
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_text("1")
    installed = install_pack(base, pack)
    assert installed == base / "custom_nodes" / FOLDER_NAME
    same = (installed / "nodes" / "same.py").stat()

    (pack / "nodes" / "old.py").unlink()
    (pack / "nodes" / "new.py").write_text("2")
    (pack / "__init__.py").write_text("22")
    install_pack(base, pack)
    files = {p.relative_to(installed).as_posix() for p in installed.rglob("*") if p.is_file()}
    assert files == {"__init__.py", "nodes/new.py", "nodes/same.py"}
    assert (installed / "__init__.py").read_text() == "22"
    assert (installed / "nodes" / "same.py").stat() == same
