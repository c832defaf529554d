"""A real ComfyUI with the micro family, and a real Chromium that drives it."""

import importlib.metadata
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from ui import Ui
from xdist.scheduler import LoadScopeScheduling

from lab.host.server import Server
from lab.microworld import MODELS
from lab.microworld.sprites import save_sprites

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the templates open over everything
    "Comfy.OnboardingCoachmarks.Seen": ["appMode"],  # else a tour of apps does
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,  # no draft comes back over what a test loads
}
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


PACKAGE = "comfyui-frontend-package"
MODES = ("classic", "nodes2")


def front_ends() -> dict[str, Path | None]:
    """Front ends to try, by version: the host's own, and the one unpacked where FRONT_END says."""
    found: dict[str, Path | None] = {importlib.metadata.version(PACKAGE): None}
    if folder := os.environ.get("FRONT_END"):
        (other,) = importlib.metadata.distributions(name=PACKAGE, path=[folder])
        found[other.version] = Path(folder, "comfyui_frontend_package", "static").resolve()
    return found


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "any_rendering: the test doesn't depend on the rendering")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test in each rendering of each front end."""
    if "front_end" in metafunc.fixturenames:
        metafunc.parametrize("front_end", list(front_ends()), scope="session")
    if "mode" in metafunc.fixturenames:
        either = metafunc.definition.get_closest_marker("any_rendering")
        metafunc.parametrize("mode", MODES[:1] if either else MODES, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """With PAIRS=two, two of the four pairs for each test: both front ends and both renderings.
    The test's name decides which."""
    if os.environ.get("PAIRS") != "two" or len(front_ends()) != 2:
        return
    first, *_ = front_ends()
    kept, left = [], []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        either = item.get_closest_marker("any_rendering") or "mode" not in params
        diagonal = (params.get("front_end") == first) == (params.get("mode") == MODES[0])
        wanted = zlib.crc32(item.originalname.encode()) % 2 == diagonal
        (kept if either or wanted else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


class FrontEndScheduling(LoadScopeScheduling):
    """All tests of a front end in one process, with one server and one page a rendering."""

    def _split_scope(self, nodeid: str) -> str:
        values = nodeid.rpartition("[")[2].rstrip("]").split("-")
        return next((version for version in front_ends() if version in values), "")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FrontEndScheduling:
    return FrontEndScheduling(config, log)


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.exit("There is no Chromium: install Debian's, or name one by CHROMIUM.", 1)
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, front_end: str) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("server")
    shutil.copytree(MODELS, base / "models")
    save_sprites(base / "input")
    (base / "user" / "default").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    host = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI")).resolve()
    root = front_ends()[front_end]
    with Server(host, base, ("--front-end-root", str(root)) if root else ()) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="session")
def page_of_mode(browser: Browser, server: Server, front_end: str, mode: str) -> Iterator[Ui]:
    """One page a rendering, open for all tests of it."""
    ui = Ui(browser, server, front_end, mode)
    yield ui
    ui.close()


@pytest.fixture
def ui(page_of_mode: Ui) -> Iterator[Ui]:
    """The page with the example workflow freshly loaded; no error of ours may come up in it."""
    page_of_mode.reset()
    yield page_of_mode
    assert page_of_mode.errors == []
