"""What a model is to the package: protocols asked for in one place, families as declarations, functions as models."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models_builders as build
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

import dlm_eval
from dlm_eval import Canvas, UserError, evaluate, fill, load_model, score, wrap
from dlm_eval.cli import main
from dlm_eval.engine import Engine
from dlm_eval.harness.trajectories import pieces
from dlm_eval.models import denoiser, known_families, option_docs, option_names
from dlm_eval.models.denoiser import Denoiser

PACKAGE = Path(dlm_eval.__file__).parent
ASKED = [Canvas.completion(range(30, 30 + n), 6) for n in (3, 7, 12)]
SCORED = [Canvas.continuation(range(30, 30 + n), (60, 61, 62)) for n in (3, 7)]


# -- protocols -------------------------------------------------------------------------------------


def test_models_are_asked_for_their_members_in_one_place() -> None:
    probing = re.compile(
        r"\b(?:getattr|hasattr)\((?:self\.|engine\.|self\.engine\.|target\.)?_?model\b(?!\.\w)"
    )
    found = [
        f"{file.relative_to(PACKAGE)}:{number}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if probing.search(line)
    ]
    assert [place.partition(":")[0] for place in found] == ["models/denoiser/members.py"]


def test_the_package_of_protocols_exports_every_one() -> None:
    for info in pkgutil.iter_modules(denoiser.__path__):
        module = importlib.import_module(f"{denoiser.__name__}.{info.name}")
        own = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
        }
        assert own and own <= set(denoiser.__all__), info.name


def test_a_bare_denoiser_gets_the_defaults_of_what_is_optional() -> None:
    model: Any = SimpleNamespace(vocab_size=9)
    assert (
        denoiser.device_of(model) == torch.device("cpu")
        and denoiser.dtype_of(model) == torch.float32
    )
    assert (
        denoiser.embedding_rows(model) == 9
        and denoiser.is_batch_invariant(model)
        and denoiser.can_pad(model)
    )
    assert denoiser.caching(model) is None and denoiser.logit_shift(model) == 0
    assert denoiser.exact_cache_block(model) is None and not denoiser.bos_only_if_empty(model)
    assert denoiser.token_name(model, 3) is None
    assert "logits" in denoiser.missing_members(
        model, Denoiser
    ) and "name" in denoiser.missing_members(model, Denoiser)


def test_a_wrapper_around_a_model_offers_what_the_model_offers() -> None:
    class Proxy:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    model: Any = Proxy(load_model("tiny"))
    assert denoiser.caching(model) is model and not denoiser.missing_members(model, Denoiser)
    assert denoiser.offers(model, denoiser.ChatTemplates) and not denoiser.offers(
        model, denoiser.LengthHead
    )


def test_all_tests_run_when_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load_model("tiny")
    ran: list[int] = []
    monkeypatch.setattr(model, "hidden", lambda *_: ran.append(1))
    assert model.supports_kv_cache and model.batch_invariant and not ran
    assert Engine(model).cost.forwards == 0 and not ran


# -- families --------------------------------------------------------------------------------------

GUIDES = Path(__file__).resolve().parent.parent / "docs" / "guides"
PAGE = (GUIDES / "adding-a-model.md").read_text()
FAMILY_PAGE = (GUIDES / "adding-a-family.md").read_text()
THIRTEENTH = "# sprout.py" + FAMILY_PAGE.partition("# sprout.py")[2].partition("```")[0]
WRAPPED = (
    "import torch" + PAGE.partition("is a model:\n\n```python\nimport torch")[2].partition("```")[0]
)


def sprout(folder: Path, **changes: Any) -> Path:
    """A Llama under names of its own, with a block of 4 in its config.json."""
    model = build.llama()
    state = {
        key.replace("model.", "sprout.", 1).replace("lm_head.", "out."): value
        for key, value in model.state_dict().items()
    }
    config = {
        "model_type": "sprout", "vocab_size": build.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "patch": 4, **changes,
    }  # fmt: skip
    return build.write(folder, config, state)


def test_a_13th_family_takes_at_most_25_lines(tmp_path: Path) -> None:
    assert len([line for line in THIRTEENTH.splitlines() if line.strip()]) <= 25
    (tmp_path / "sprout.py").write_text(THIRTEENTH)
    folder, file = sprout(tmp_path / "weights"), str(tmp_path / "sprout.py")
    model: Any = load_model(file, pretrained=str(folder))
    same: Any = load_model(
        "generic", pretrained=str(build.write(tmp_path / "llama", {
            **json.loads((folder / "config.json").read_text()), "model_type": "llama", "patch": None,
        }, build.llama().state_dict())), shift=True, attention="block", block_length=4,
    )  # fmt: skip
    tokens = build.row(2, 11)
    assert torch.equal(model.logits(tokens), same.logits(tokens))
    assert (model.block_length, model.mask_id, model.needs_bos) == (4, build.MASK_ID, True)
    assert model.supports_kv_cache and model.describe()["family"] == "sprout"
    assert load_model(file, pretrained=str(folder), block_length=8).block_length == 8
    assert option_names(file) == option_names("sdar")
    with pytest.raises(
        UserError, match="is not a Sprout checkpoint: its config.json .* lacks patch"
    ):
        load_model(file, pretrained=str(sprout(tmp_path / "other", patch=None)))


def test_every_option_of_every_family_is_explained() -> None:
    for name in known_families():
        for option, said in option_docs(name).items():
            assert re.fullmatch(r".{4,} \((needed|default: .+)\)", said), (name, option, said)


# -- functions as models ---------------------------------------------------------------------------


def wrapped_tiny(**options: Any) -> Any:
    tiny: Any = load_model("tiny")
    named = {
        "mask_id": tiny.mask_id,
        "eos_ids": tiny.eos_ids,
        "max_length": tiny.max_length,
        "bos_id": tiny.bos_id,
    }
    named |= {"pad_id": tiny.pad_id, "tokenizer": tiny.tokenizer_info.tokenizer}
    return wrap(
        **{"logits": lambda tokens: tiny.model(input_ids=tokens).logits, **named, **options}
    )


def test_a_function_is_a_model() -> None:
    tiny, model = load_model("tiny"), wrapped_tiny()
    assert isinstance(model, Denoiser) and model.vocab_size == tiny.vocab_size
    for one, other in zip(fill(tiny, ASKED), fill(model, ASKED), strict=True):
        assert one.tokens == other.tokens and one.confidence == pytest.approx(
            other.confidence, abs=1e-5
        )
    for mine, theirs in zip(score(model, SCORED), score(tiny, SCORED), strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
    assert model.encode("Anna had a kite.") == tiny.encode("Anna had a kite.")
    assert model.describe() != wrapped_tiny().describe()  # another function may have other weights
    assert wrapped_tiny(fingerprint="a").describe() == wrapped_tiny(fingerprint="a").describe()


def test_the_function_of_the_docs_is_a_model() -> None:
    said: dict[str, Any] = {}
    exec(WRAPPED, said)
    assert len(fill(said["model"], [Canvas.completion([1, 2], 3)])[0].tokens) <= 3 and said[
        "model"
    ].eos_ids == (26,)


def test_evaluate_takes_an_object() -> None:
    asked = {"tasks": ["demo_choice"], "limit": 3, "samples": None, "bootstrap_iters": 0}
    named = evaluate("tiny", **asked)["results"]["demo_choice"]
    for model in (load_model("tiny"), wrapped_tiny()):
        found = evaluate(model, **asked)["results"]["demo_choice"]
        assert found["acc,none"] == named["acc,none"]
    with pytest.raises(UserError, match="devices is not possible with a model object"):
        evaluate(load_model("toy"), devices="cpu:2", **asked)
    with pytest.raises(UserError, match="'SimpleNamespace' is no Denoiser; it lacks .*mask_id"):
        evaluate(SimpleNamespace(name="x"), **asked)  # type: ignore[arg-type]


def test_a_model_without_an_end_of_text() -> None:
    model = wrapped_tiny(eos_ids=())
    assert model.eos_ids == ()
    (filling,) = fill(model, ASKED[:1])
    assert len(filling.tokens) == 6 and filling.exit == "full"
    assert score(model, SCORED)[0].logprob < 0
    found = evaluate(model, ["demo_last_word"], limit=2, bootstrap_iters=0)
    assert found["n-samples"]["demo_last_word"]["effective"] == 2


def test_rows_of_a_network_without_a_mask_are_never_padded() -> None:
    shapes: list[tuple[int, ...]] = []

    def logits(tokens: Tensor) -> Tensor:
        shapes.append(tuple(tokens.shape))
        # padding would be counted
        counts = torch.nn.functional.one_hot(tokens, 12).float().cumsum(1)
        return counts + counts.flip(1)

    model = wrap(logits=logits, mask_id=11)
    assert not denoiser.can_pad(model)
    shapes.clear()
    engine = Engine(model, equal_lengths=False)
    assert engine.equal_lengths
    asked = [Canvas.completion(given, 4) for given in ([1, 2], [3, 4], [1] * 5, [2] * 9)]
    together = fill(model, asked, engine=engine)
    assert {length for _, length in shapes} == {6, 9, 13} and max(rows for rows, _ in shapes) > 1
    assert [one.tokens for one in together] == [fill(model, [canvas])[0].tokens for canvas in asked]


def test_a_function_that_hides_padding_shares_batches() -> None:
    def logits(tokens: Tensor, valid: Tensor) -> Tensor:
        return (
            (torch.nn.functional.one_hot(tokens, 12) * valid[..., None])
            .float()
            .sum(1, keepdim=True)
            .expand(-1, tokens.shape[1], -1)
        )

    assert denoiser.can_pad(wrap(logits=logits, mask_id=11, padding=True))
    with pytest.raises(
        UserError, match="hide positions whose `valid` is false, or declare padding = False"
    ):
        wrap(
            logits=lambda tokens, valid: logits(tokens, torch.ones_like(valid)),
            mask_id=11,
            padding=True,
        )


def test_a_shifted_function_is_read_one_position_to_the_left() -> None:
    def own(tokens: Tensor) -> Tensor:
        return (
            torch.nn.functional.one_hot(tokens, 12).float().sum(1, keepdim=True)
            + torch.arange(12.0) * torch.arange(tokens.shape[1])[None, :, None]
        )

    def shifted(tokens: Tensor) -> Tensor:
        return own(tokens).roll(-1, 1)

    plain, model = (
        wrap(logits=own, mask_id=11),
        wrap(logits=shifted, mask_id=11, shift=True, bos_id=10),
    )
    tokens = torch.tensor([[10, 3, 11, 4]])
    assert torch.equal(model.logits(tokens)[:, 1:], plain.logits(tokens)[:, 1:]) and model.needs_bos


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "wrap\\(mask_id=\\) is missing"),
        (
            {"mask_id": 40},
            "mask_id 40 is outside the embedding, which has rows 0 to 11; mend the model's mask_id",
        ),
        (
            {"mask_id": 11, "shift": True},
            "needs a bos token, and it has none; give the model a bos_id",
        ),
        (
            {"mask_id": 11, "attention": "block"},
            "wrap\\(block_length=None\\) does not go with attention='block'",
        ),
        ({"mask_id": 11, "process": "gaussian"}, "wrap\\(process='gaussian'\\) is not allowed"),
        (
            {"mask_id": 11, "logits": lambda tokens: tokens},
            "wrap: logits\\(\\) failed: .* returned shape",
        ),
        (
            {"mask_id": 11, "logits": lambda t: torch.zeros(*t.shape, 12)},
            "let its logits\\(\\) see the whole row",
        ),
    ],
)
def test_what_is_wrong_with_a_function_is_said_in_its_own_words(
    options: dict[str, Any], told: str
) -> None:
    def logits(tokens: Tensor) -> Tensor:
        return (
            torch.nn.functional.one_hot(tokens, 12)
            .float()
            .sum(1, keepdim=True)
            .expand(-1, tokens.shape[1], -1)
        )

    with pytest.raises(UserError, match=told) as found:
        wrap(**{"logits": logits, **options})
    assert "config" not in str(found.value)


def test_a_model_without_a_tokenizer_says_so_when_it_is_asked_for_text() -> None:
    def logits(tokens: Tensor) -> Tensor:
        return (
            torch.nn.functional.one_hot(tokens, 12)
            .float()
            .sum(1, keepdim=True)
            .expand(-1, tokens.shape[1], -1)
        )

    with pytest.raises(UserError, match="has no tokenizer; give wrap\\(tokenizer="):
        wrap(logits=logits, mask_id=11).encode("a")
    letters = SimpleNamespace(
        encode=lambda text: [ord(c) - 97 for c in text],
        decode=lambda ids: "".join(chr(97 + i) for i in ids),
    )
    model = wrap(logits=logits, mask_id=11, eos_ids=9, tokenizer=letters)
    assert model.decode([*model.encode("abc"), 9, 11]) == "abc" and model.eos_ids == (9,)


# -- masked models of transformers -----------------------------------------------------------------


def test_a_masked_model_without_an_end_of_text_runs_by_generic(tmp_path: Path) -> None:
    words = ["[PAD]", "[MASK]", "[UNK]", *(f"w{i}" for i in range(29))]
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    build.spread(BertForMaskedLM(config)).save_pretrained(tmp_path)
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token="[MASK]", pad_token="[PAD]"
    ).save_pretrained(tmp_path)
    model = load_model("generic", pretrained=str(tmp_path))
    assert model.eos_ids == () and model.bos_id is None and model.mask_id == 1
    (filling,) = fill(model, [Canvas.completion(model.encode("w1 w2 w3"), 4)])
    assert len(filling.tokens) == 4
    assert load_model("generic", pretrained=str(tmp_path), eos_id=7).eos_ids == (7,)


# -- names and lists -------------------------------------------------------------------------------


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command; returns its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code, printed = main(arguments), capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_an_unknown_model_gives_the_nearest_three(said: Callable[..., tuple[int, str]]) -> None:
    for arguments in (("--model", "lada", "--tasks", "demo"), ("show", "lada")):
        code, told = said(*arguments)
        assert code == 2 and told.count("\n") == 1 and len(told) < 200
        assert re.search(
            r"'lada' is not known; did you mean '\w+', '\w+' or '\w+'\? `dlm-eval ls( models)?` lists them",
            told,
        )
    with pytest.raises(UserError, match="did you mean 'llada', 'llada2' or 'lladamoe'"):
        load_model("llada_")


def test_show_has_every_setting_with_meaning_and_default(
    said: Callable[..., tuple[int, str]],
) -> None:
    code, told = said("show", "tiny")
    shown = yaml.safe_load(told)["model_args"]
    assert code == 0 and shown.keys() == option_names("tiny")
    assert shown["pretrained"] == "hub id or folder (default: asset:tiny)"
    assert shown["probe"].endswith("(default: true)") and shown["mask_id"].endswith(
        "(default: none)"
    )


def test_the_packaged_baseline_is_listed_and_shown(said: Callable[..., tuple[int, str]]) -> None:
    assert "tiny-ar" in said("ls", "models")[1] and "autoregressive" in said("show", "tiny-ar")[1]


def test_a_part_of_a_character_has_a_name_in_a_trace(tmp_path: Path) -> None:
    model: Any = load_model("llada", pretrained=str(build.llada(tmp_path)[0]))
    ids = model.encode("a é")
    shown = pieces(model, [*ids, model.mask_id, *model.eos_ids])
    assert shown[ids[-1]] == ("<0xA9>", False) and shown[ids[-2]] == ("<0xC3>", False)
    assert shown[model.mask_id][0] == "[MASK]" and shown[model.eos_ids[0]][0] == "[EOS]"


def test_the_example_of_the_readme_decodes_every_id_that_its_model_can_write() -> None:
    page = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"(letters = SimpleNamespace\(.*?\n\)\n)", page, re.DOTALL)
    names: dict[str, Any] = {"SimpleNamespace": SimpleNamespace}
    exec(code, names)
    letters = names["letters"]
    assert letters.decode([*letters.encode("é a"), 256, 257, 300]) == "é a"
    assert "256 and above" in code
