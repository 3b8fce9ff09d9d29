"""Keys and values under every name that transformers gives their argument, and what is said where they cannot be used."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from dlm_eval import Canvas, fill
from dlm_eval.budget import make_engine
from dlm_eval.engine import Engine
from dlm_eval.errors import RunError, UserError
from dlm_eval.models import load_model, packaged_asset
from dlm_eval.models.kv_cache import cache_argument
from dlm_eval.models.probes import NOT_TESTED, cache_state, cache_test, cache_tested, check_cache
from dlm_eval.workers import InProcess


def blockwise() -> Any:
    """tiny's weights under block-causal attention."""
    options = {"attention": "block", "block_length": 8, "mask_id": load_model("tiny").mask_id}
    return load_model(
        "generic", pretrained=str(packaged_asset("tiny")), probe=False, device="cpu", **options
    )


class Renamed(torch.nn.Module):
    """A network whose argument for keys and values has another name than the network inside has."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner


class Older(Renamed):
    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
    ) -> Any:
        given = cache_argument(self.inner, past_key_values)
        return self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **given,
        )


class Newer(Renamed):
    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        cache: Any = None,
    ) -> Any:
        given = cache_argument(self.inner, cache)
        return self.inner(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=False,
            **given,
        )


class Deaf(Renamed):
    """Takes the argument and does nothing with it: only the logits show it."""

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        cache: Any = None,
    ) -> Any:
        shown = attention_mask if cache is None else None
        return self.inner(
            input_ids=input_ids, attention_mask=shown, position_ids=position_ids, use_cache=False
        )


def behind(network: type[Renamed], model: Any) -> Any:
    """Puts a model's network behind another one, as if it had just been loaded so."""
    model.backbone = network(model.backbone)
    model.accepted = {"attention_mask", "position_ids"}
    model.run_tests()
    return model


@pytest.mark.parametrize("network", [Older, Newer])
def test_11_both_names_of_the_argument_work(network: type[Renamed]) -> None:
    model = behind(network, blockwise())
    assert cache_state(model) == "usable" and model.cache_test.forwards == 3
    engines = Engine(model), Engine(model)
    asked = [Canvas.completion(range(30, 40), 24)]
    one, other = (
        fill(model, asked, engine=e, cache=c, steps=24)
        for e, c in zip(engines, ("exact", "none"), strict=True)
    )
    assert one[0].tokens == other[0].tokens and engines[0].cost.tokens < engines[1].cost.tokens


def test_11_a_name_in_the_signature_is_no_proof(caplog: pytest.LogCaptureFixture) -> None:
    model = behind(Deaf, blockwise())
    with caplog.at_level(logging.WARNING):
        check_cache(model)
    assert not model.supports_kv_cache and cache_state(model).startswith("unusable: ")
    (said,) = [record.getMessage() for record in caplog.records if "cache" in record.getMessage()]
    assert model.name in said and "unusable" in said
    (facts,) = InProcess(make_engine(model)).devices()
    assert facts["cache"] == cache_state(model)  # it stands in the result


def test_11_out_of_memory_is_never_taken_for_no(monkeypatch: pytest.MonkeyPatch) -> None:
    model = blockwise()
    before = model.cache_test

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward_cached", full)
    with pytest.raises(RunError, match="out of memory while its cache is tested"):
        model.run_tests()
    assert model.cache_test is before  # nothing is known yet


def test_11_the_test_is_part_of_the_cost() -> None:
    model = load_model("tiny")
    tested, cost = cache_tested(model), make_engine(model).cost  # loading has asked
    assert tested.usable and tested.forwards == cost.forwards == cost.rows == 3
    assert (cost.tokens, cost.padded_tokens, cost.seconds) == (
        tested.tokens,
        tested.tokens,
        tested.seconds,
    )


def test_11_a_users_model_that_claims_a_cache_is_tested() -> None:
    class Claims:
        """Answers from the cache what it likes."""

        supports_kv_cache, logit_shift, exact_cache_block = True, 0, None

        def __getattr__(self, name: str) -> Any:
            if name == "cache_test":
                raise AttributeError(name)
            return getattr(tiny, name)

        def forward_cached(self, *arguments: Any) -> Any:
            logits, states = tiny.forward_cached(*arguments)
            return logits.roll(1, -1), states

    tiny = load_model("tiny")
    with pytest.raises(UserError, match="`forward_cached` does not answer as `logits` does"):
        assert cache_tested(Claims()) == NOT_TESTED  # type: ignore[arg-type]
        check_cache(Claims(), declared=True)  # type: ignore[arg-type]
    assert cache_test(tiny).usable  # type: ignore[arg-type]
