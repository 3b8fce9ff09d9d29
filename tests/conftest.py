"""What every test stands on: no network, no data directory from the outside, real data where it is at hand."""

from __future__ import annotations

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import that reads it
os.environ["OMP_NUM_THREADS"] = (
    "1"  # equal bits for any batch hold on one thread; several round differently with the shape
)
os.environ["DISABLE_MULTIPROC"] = "1"  # lm-eval's bootstrap would fork a pool of all cores per metric
os.environ.pop("DLM_EVAL_DATA", None)

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the tests marked `full` unless `-m` names them."""
    if "full" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; pytest -m full runs it"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real benchmark data and recorded outputs of the authors' code, which no repository may hold."""
    folder = Path(os.environ.get("DLM_EVAL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data: {folder} is absent (the variable DLM_EVAL_SHARED names another folder)")
    return folder


@pytest.fixture(scope="session")
def own_data() -> Path:
    """Small documents that we wrote, in the layout of the hub."""
    return ROOT / "tests" / "data"


@pytest.fixture(autouse=True)
def log_level_as_before() -> Iterator[None]:
    """Undoes --verbosity, which sets the level of the whole process: other tests look for warnings."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
