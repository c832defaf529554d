"""A real ComfyUI with the micro family, and a real Chromium that drives it."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright
from ui import Ui

from microworld.demo import MODELS, save_sprites
from microworld.server import Server

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the templates open over everything
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Workflow.Persist": False,  # no draft comes back over what a test loads
}
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.exit("There is no Chromium: install Debian's, or name one by CHROMIUM.", 1)
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("server")
    shutil.copytree(MODELS, base / "models")
    save_sprites(base / "input")
    (base / "user" / "default").mkdir(parents=True)
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(SETTINGS))
    host = Path(os.environ.get("COMFYUI_PATH", ROOT / ".host" / "ComfyUI")).resolve()
    with Server(host, base) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="session", params=["classic", "nodes2"])
def page_of_mode(request: pytest.FixtureRequest, browser: Browser, server: Server) -> Iterator[Ui]:
    """One page a rendering, open for all tests of it."""
    ui = Ui(browser, server, mode=request.param)
    yield ui
    ui.close()


@pytest.fixture
def ui(page_of_mode: Ui) -> Iterator[Ui]:
    """The page with the example workflow freshly loaded; no error of ours may come up in it."""
    page_of_mode.reset()
    yield page_of_mode
    assert page_of_mode.errors == []
