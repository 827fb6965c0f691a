"""JupyterLab and Chromium for the tests of this folder: one server, one browser, copies of the notebooks.

The server runs on this machine alone, with settings, data and outputs in a temporary folder. Screenshots go to
outputs/browser/. Chromium is Debian's, or the one that the environment variable CHROMIUM names.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from smoke_chain import run_once, shared_folder

from rrlib.lesson.copies import build_lesson

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "outputs" / "browser"
READY = 180  # seconds for server, page and kernel to come up on a busy machine


def chromium() -> str | None:
    """Where the browser is, or None."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(frozen=True)
class Lab:
    url: str
    notebooks: Path
    outputs: Path
    process: int

    def cpu_seconds(self) -> float:
        """Processor time of the server and of the kernels that it has now."""
        server = psutil.Process(self.process)
        times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
        return sum(t.user + t.system for t in times)


def begin_smoke_run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
    """Begin the smoke run, which the other notebooks read, beside what follows, where one of them is tested."""
    wanted = any("lab_after_run" in getattr(item, "fixturenames", ()) for item in request.session.items)
    if wanted and "RRLIB_SMOKE_OUTPUTS" not in os.environ:
        threading.Thread(target=run_once, args=(shared_folder(tmp_path_factory),), daemon=True).start()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab on copies of the notebooks, as a person finds them who has run nothing.

    They are student copies, in which the parameter `interactive` is True, so their widgets are shown.
    """
    home = tmp_path_factory.mktemp("lab")
    with serve(home, home / "outputs") as running:
        yield running


@pytest.fixture(scope="module")
def lab_after_run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """JupyterLab as a person finds it who has run the smoke profile.

    Every cell is executed; what a stage finds done, a training or an answer of the teacher, it takes from its folder,
    as the notebooks do for anybody who opens them again. RRLIB_SMOKE_OUTPUTS may name the outputs folder of a finished
    smoke run; it is copied.
    """
    mine = os.environ.get("RRLIB_SMOKE_OUTPUTS")
    finished = Path(mine) if mine else request.getfixturevalue("chain").outputs
    home = tmp_path_factory.mktemp("lab-after-run")
    shutil.copytree(finished / "smoke", home / "outputs" / "smoke")
    with serve(home, home / "outputs") as running:
        yield running


@contextlib.contextmanager
def serve(home: Path, outputs: Path) -> Iterator[Lab]:
    """A JupyterLab of its own in `home`, on student copies of the notebooks."""
    notebooks = home / "notebooks"
    build_lesson(notebooks)
    settings = home / "settings"
    settings.mkdir()
    # All cells in the page, not only those in view, so that a locator finds them; no news, no dialogs.
    overrides: dict[str, Any] = {
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    (settings / "overrides.json").write_text(json.dumps(overrides), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "RRLIB_OUTPUTS": str(outputs),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TQDM_DISABLE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    env.pop("MPLBACKEND", None)  # a kernel draws into its notebook
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={notebooks}", "--IdentityProvider.token="]
    command += ["--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True"]
    command += [f"--LabApp.app_settings_dir={settings}"]
    log = (home / "server.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=home)
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + READY
    try:
        while True:
            try:
                urllib.request.urlopen(url + "/api/status", timeout=1)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (home / "server.log").read_text()[-2000:]
                time.sleep(0.3)
        yield Lab(url, notebooks, outputs, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


@pytest.fixture(scope="module")  # while it is open, its event loop is in the way of other tests
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        running = play.chromium.launch(executable_path=chromium(), args=options)
        yield running
        running.close()


class Sheet:
    """One notebook in one page of the browser."""

    def __init__(self, lab: Lab, browser: Any, name: str) -> None:
        self.name, self.begun, self.seconds, self.cpu_seconds = name, 0.0, 0.0, 0.0
        self.errors: list[str] = []
        self.page = browser.new_page(viewport={"width": 1280, "height": 960})
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{lab.url}/lab/workspaces/{name}/tree/{name}.ipynb?reset")
        # Running before the kernel is idle opens a dialog and hangs.
        self.page.get_by_text("| Idle").first.wait_for(timeout=1000 * READY)

    def cells(self) -> list[dict[str, Any]]:
        """The notebook's cells as they are now, outputs included."""
        script = "() => window.jupyterapp.shell.currentWidget.content.model.toJSON()"
        cells: list[dict[str, Any]] = self.page.evaluate(script)["cells"]
        return cells

    def start(self) -> None:
        """Run > Run All Cells, from the menu."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.begun = time.monotonic()

    def ended(self) -> list[dict[str, Any]] | None:
        """The code cells once the last has run, else None. Fails at the first error."""
        cells = [cell for cell in self.cells() if cell["cell_type"] == "code"]
        found = [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
        if found:
            self.shot("error")
            pytest.fail(f"{self.name}: {found[0]['ename']}: {found[0]['evalue'][:500]}")
        status = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status"
        if any(cell["execution_count"] is None for cell in cells) or self.page.evaluate(status) != "idle":
            return None
        self.seconds = time.monotonic() - self.begun
        return cells

    def run_all(self, seconds: float) -> list[dict[str, Any]]:
        """Run all cells from the menu, and wait; the code cells as they are then. Fails at the first error."""
        self.start()
        return self.wait(seconds)

    def wait(self, seconds: float) -> list[dict[str, Any]]:
        """The code cells when the last has run."""
        end = time.monotonic() + seconds
        while (cells := self.ended()) is None:
            assert time.monotonic() < end, f"{self.name} did not end in {seconds:.0f} s"
            self.page.wait_for_timeout(250)
        return cells

    def shot(self, name: str) -> None:
        """Keep what the page shows."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{self.name}_{name}.png")

    def save(self, lab: Lab) -> Path:
        """Save the notebook, outputs and all; its file."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        saved, end = lab.notebooks / f"{self.name}.ipynb", time.monotonic() + READY
        while "image/png" not in saved.read_text(encoding="utf-8"):
            assert time.monotonic() < end, f"{self.name} was not saved"
            self.page.wait_for_timeout(200)
        return saved

    def close(self) -> None:
        """Shut the kernel down and close the page."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()
