"""Caches of decoding, one file each: which positions of a canvas run in a row, and which are read from
the cache.

A new cache is a file with a `DecodeCache` and an entry of `CACHES`. Approximate ones change tokens, so
they are used only on request.
"""

from __future__ import annotations

from dlm_eval.decoding.caches.d2_cache import D2Cache
from dlm_eval.decoding.caches.dkv_cache import DkvCache
from dlm_eval.decoding.caches.dllm_cache import DllmCache
from dlm_eval.decoding.caches.exact import Exact, NoCache
from dlm_eval.decoding.caches.fast_dllm import Dual, Prefix
from dlm_eval.decoding.caches.policy import CachePolicy, DecodeCache, visible_end
from dlm_eval.errors import unknown_name_error
from dlm_eval.options import option_names

CACHES: dict[str, type[DecodeCache]] = {
    cls.name: cls for cls in (Exact, NoCache, Prefix, Dual, DllmCache, DkvCache, D2Cache)
}
# the options of all caches, which no strategy may have
CACHE_OPTIONS = tuple(dict.fromkeys(name for cls in CACHES.values() for name in option_names(cls)))


def cache_class(name: str) -> type[DecodeCache]:
    """Returns the class of a cache.

    Raises:
        UserError: there is no such cache.
    """
    if name not in CACHES:
        raise unknown_name_error("decode cache", name, CACHES)
    return CACHES[name]


def caches_with(option: str) -> list[str]:
    """Returns the names of the caches that have `option`."""
    return [name for name, cls in CACHES.items() if option in option_names(cls)]


__all__ = [
    "CACHES",
    "CACHE_OPTIONS",
    "CachePolicy",
    "DecodeCache",
    "Exact",
    "cache_class",
    "caches_with",
    "visible_end",
]
