"""docs/architecture.md names files that exist, and imports go the way it describes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATHS = sorted({name for name in re.findall(r"`([^`\s]+)`", PAGE) if "/" in name or "." in name})
# What each may import of the pack: of a relative import, the folders it can lead to.
LAYERS = ("msd_core", "nodes/sampling", "nodes")


@pytest.mark.parametrize("name", PATHS)
def test_a_path_exists(name: str) -> None:
    assert (ROOT / name).exists()


def test_it_names_every_module_of_the_core_and_of_sampling() -> None:
    named = {name for name in PATHS if name.endswith(".py")}
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in ("msd_core/adapters", "msd_core/attention", "nodes/sampling")
        for path in (ROOT / folder).glob("*.py")
        if path.name != "__init__.py"
    }
    assert modules - named == {"msd_core/adapters/ms_diffusion.py"}  # one family among others


def imported(path: Path) -> set[Path]:
    """Files of the repository that a file imports by relative imports."""
    found = set()
    for dots, module in re.findall(
        r"^from (\.+)([\w.]*) import", path.read_text(encoding="utf-8"), re.MULTILINE
    ):
        base = path.parents[len(dots) - 1].joinpath(*filter(None, module.split(".")))
        found.add(base.with_suffix(".py") if base.with_suffix(".py").is_file() else base)
    return found


@pytest.mark.parametrize("layer", range(len(LAYERS)), ids=LAYERS)
def test_imports_go_one_way(layer: int) -> None:
    nodes = {path for path in (ROOT / "nodes").rglob("*.py") if "io.ComfyNode" in path.read_text()}
    higher = [ROOT / folder for folder in LAYERS[layer + 1 :]]
    for path in (ROOT / LAYERS[layer]).rglob("*.py"):
        for target in imported(path):
            if LAYERS[layer] == "msd_core":
                assert not any(target.is_relative_to(folder) for folder in higher), path
            if LAYERS[layer] == "nodes/sampling":
                assert target not in nodes, path
        assert not re.search(r"^(from|import) (lab|tests)\b", path.read_text(), re.MULTILINE), path
