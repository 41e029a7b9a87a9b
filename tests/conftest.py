"""What every test stands on: no network, one compute thread, the shared folder."""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch

from tests.sampling import quick, sampled

ROOT = Path(__file__).resolve().parents[1]

# Set before any library reads them; child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Time says nothing about a property on a shared machine; the examples are the same in every run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


def _is_local(family: int, address: Any) -> bool:
    if family == getattr(socket, "AF_UNIX", None):
        return True
    host = address[0] if isinstance(address, tuple) else address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def pytest_configure(config: pytest.Config) -> None:
    """Closes the network before any test module is imported; this machine stays reachable."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def local_connect(self: socket.socket, address: Any, /) -> None:
        if not _is_local(self.family, address):
            # An OSError, so that libraries take it for what it is like: an unplugged machine.
            raise OSError(errno.ENETUNREACH, f"tests use no network, but asked for {address!r}")
        connect(self, address)

    def local_connect_ex(self: socket.socket, address: Any, /) -> int:
        return connect_ex(self, address) if _is_local(self.family, address) else errno.ENETUNREACH

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", local_connect)
    patch.setattr(socket.socket, "connect_ex", local_connect_ex)
    config.add_cleanup(patch.undo)
    # A comparison goes on without what raises; a test that does not ask for that is to fail.
    config.addinivalue_line("filterwarnings", "error::iclgd_lens.raised.FailureWarning")


SLOW = (
    "tests/test_examples.py", "tests/test_readme.py", "tests/bench/test_ray.py",
    "tests/cli/test_app.py", "tests/cli/test_demo.py", "tests/embedded/test_model.py",
    "tests/host/test_layout.py", "tests/benchmarks/test_benchmarks.py", "tests/bench/test_run.py",
    "tests/report/test_browser.py", "tests/test_site.py", "tests/worlds/test_notebook.py",
)  # fmt: skip
"""Files of a minute and more, the slowest first."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sample` is what `make test` runs: a part of the suite that takes minutes."""
    text = "leave out slow tests, and combinations of parameters that bring no new value"
    parser.addoption("--sample", action="store_true", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts slow files first: begun last, one would keep a single process busy at the end."""
    if config.getoption("sample"):
        kept = sampled(quick(items))
        left = {id(item) for item in kept}
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in left])
        items[:] = kept
    place = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(SLOW)))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real rows, models and golden numbers that lies beside the project."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no folder ../shared beside the project (real rows, models, golden numbers)")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; tests that use it are marked `browser`."""
    api = pytest.importorskip("playwright.sync_api", reason="the browser extra is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser here (looked for {', '.join(names)})")
    # Chromium's sandbox refuses to run as root, as tests in containers often do.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """What a test draws from a global generator is the same whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
