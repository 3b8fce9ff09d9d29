"""Checks whether the Hugging Face Hub is reachable, once per process, so that nothing waits for
retries.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import Any

PROBE_SECONDS = 2.0


def hub_reachable() -> bool:
    """Returns whether the Hub is reachable, by one probe per process of at most two seconds.

    False if the user has chosen to be offline.
    """
    from huggingface_hub import constants

    chosen = os.environ.get("TRANSFORMERS_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON")
    return not (constants.HF_HUB_OFFLINE or chosen) and endpoint_responds(constants.ENDPOINT)


@functools.lru_cache(maxsize=8)
def endpoint_responds(endpoint: str) -> bool:
    """Returns whether a server answers at `endpoint`, with any status."""
    from huggingface_hub import get_session

    heard: list[Any] = []

    def probe() -> None:
        with contextlib.suppress(Exception):
            heard.append(get_session().head(endpoint, timeout=PROBE_SECONDS))

    # In a thread, because the timeout of a request does not cover a slow name server.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(heard)
