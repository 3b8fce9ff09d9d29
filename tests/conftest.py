"""What every test stands on: no network, no data directory from the outside, real data where it is at hand."""

from __future__ import annotations

import logging
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import that reads it
# equal bits for any batch hold on one thread; several round differently with the shape
os.environ["OMP_NUM_THREADS"] = "1"
# lm-eval's bootstrap would fork a pool of all cores per metric
os.environ["DISABLE_MULTIPROC"] = "1"
os.environ.pop("DLM_EVAL_DATA", None)

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from dlm_eval.sandbox import KINDS, Sandbox, Unavailable  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
MOST_PROCESSES = 8  # each holds torch and transformers: half a gigabyte


@pytest.hookimpl(optionalhook=True)  # -p no:xdist knows no such hook
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Returns how many processes `-n auto` starts: one per core for the suite, none for named files and tests, which are sooner done in this one.

    PYTEST_XDIST_AUTO_NUM_WORKERS overrides it.
    """
    given = os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", "")
    if given.isdecimal():
        return int(given)
    named = all(arg.partition("::")[0].endswith(".py") for arg in config.args)
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return 0 if named or cores == 1 else min(cores, MOST_PROCESSES)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real benchmark data and recorded outputs of the authors' code, which no repository may hold."""
    folder = Path(os.environ.get("DLM_EVAL_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(
            f"no shared data: {folder} is absent (the variable DLM_EVAL_SHARED names another folder)"
        )
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


@pytest.fixture(scope="module", params=KINDS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each kind that this machine has, its protections probed."""
    box = Sandbox(request.param)
    try:
        box.protections()
    except Unavailable as refusal:
        pytest.skip(str(refusal))
    yield box
    box.close()
