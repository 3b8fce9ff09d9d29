"""Published settings: each is valid for its family, and `preset=authors` finds the one for checkpoint and task."""

from __future__ import annotations

from typing import Any

import pytest

from dlm_eval import evaluate
from dlm_eval.canvas import Canvas
from dlm_eval.decoding import fill, presets, resolve
from dlm_eval.decoding.presets import GROUPS, authors_preset
from dlm_eval.errors import UserError
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.requests import Length
from dlm_eval.models import checkpoints, known_families
from dlm_eval.models.families.toy import Toy, ToySettings

PRESETS = presets()
BLOCKS = {"sdar": 4, "llada2": 32, "bd3lm": 4}  # blocks of block-causal families


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_its_source_and_fits_its_family(name: str) -> None:
    preset = PRESETS[name]
    assert len(preset.source) > 10
    assert set(preset.checkpoints) <= set(checkpoints()) and set(preset.families) <= set(
        known_families()
    )
    assert (
        preset.task is None
        or preset.task in GROUPS
        or preset.fits(preset.task.replace("*", "_x")) > 0
    )
    assert not preset.task or preset.checkpoints or preset.families
    owners = {checkpoints()[checkpoint].family for checkpoint in preset.checkpoints} | set(
        preset.families
    )
    settings = resolve({"preset": name})
    for family in owners:
        assert known_families()[family].process in settings.strategy.processes
        settings.check(int(preset.settings.get("gen_length", 256)), BLOCKS.get(family))


MASKED = [name for name in PRESETS if "absorbing" in resolve({"preset": name}).strategy.processes]


@pytest.mark.parametrize("name", MASKED)
def test_a_preset_fills_a_hole(name: str) -> None:
    """The settings work together, cut to a short hole; length beams need a length head."""
    settings = resolve({"preset": name})
    if settings.length_beam or settings.identity().get("noise_scale", 1) != 1:
        pytest.skip("not for a model without a length head, or not of embeddings")
    if settings.strategy.resizes:
        pytest.skip("the length may change; test_samplers_lengths.py fills with these")
    if settings.cache.name != "exact":
        pytest.skip("the toy remembers nothing; test_decoding_cache.py fills with these")
    if not settings.align_inputs_to_blocks:
        pytest.skip("the toy is not told its prompt; test_models_e2d2.py fills so")
    if settings.strategy.name == "dmax":
        pytest.skip("the toy reads no mixtures of tokens; test_samplers_dmax.py fills with it")
    if settings.strategy.why_not(Toy(ToySettings())):
        pytest.skip("the toy does not run it; the tests of its family fill with it")
    changes = {"steps": 8} if settings.steps else {}
    # wino's rows are slow on a toy; prophet's text stands where its authors put it
    length = {"wino": 32, "d2f": 32, "prophet": 256}.get(settings.strategy.name, 128)
    filling = fill(
        Toy(ToySettings()),
        [Canvas.completion([1], length)],
        preset=name,
        early_exit=False,
        **changes,
    )[0]
    assert len(filling.tokens) == length
    assert -1 not in filling.tokens or settings.strategy.name == "d2f"  # blocks behind the end


CHOICES = [
    ("llada-8b-instruct", "gsm8k_cot", "llada_instruct_gsm8k"),
    ("llada-8b-instruct", "gsm8k_chat", "llada_instruct_gsm8k"),
    ("llada-8b-instruct", "gsm8k_llada", "llada_instruct_gsm8k"),
    ("llada-8b-instruct", "hellaswag_llada", "llada_instruct_hellaswag"),
    ("llada-8b-instruct", "mmlu_llada", "llada_instruct_mmlu"),
    ("llada-8b-instruct", "mmlu_pro_llada", "llada_instruct_mmlu_pro"),
    ("llada-1.5", "humaneval_llada", "llada15_humaneval"),
    ("llada-1.5", "gpqa_diamond_llada", "llada15_gpqa"),
    ("llada-8b-instruct", "mmlu", "llada_instruct_mmlu"),
    ("llada-8b-instruct", "mmlu_pro_math", "llada_instruct_mmlu_pro"),
    ("llada-8b-instruct", "minerva_math_algebra", "llada_instruct_math"),
    ("llada-8b-base", "anything", "llada_base"),
    ("dream-7b-base", "gsm8k_cot", "dream_base_gsm8k"),
    ("dream-7b-base", "humaneval", "dream_base_humaneval"),
    ("dream-7b-base", "humaneval_infilling_single_line_oracle_length", "dream_base"),
    ("dream-7b-instruct", "humaneval_instruct", "dream_instruct_humaneval"),
    ("dream-coder-7b-base", "mbpp_plus", "dream_coder_base_mbpp"),
    ("diffucoder-7b-cpgrpo", "mbpp", "diffucoder_instruct"),
    ("diffullama", "triviaqa_oracle_length", "diffullama_triviaqa"),
    ("diffugpt-m", "rocstories_infill", "diffugpt"),
    ("diffugpt-m", "unconditional", "diffugpt_m_unconditional"),
    ("sdar-4b-chat", "gsm8k", "sdar_eval"),
    ("llada2.1-mini", "gsm8k", "llada21"),
    ("llada2.2-flash", "gsm8k", "llada22"),
    ("llada-8b-instruct", "arc_challenge_chat", "llada_instruct_arc_challenge"),
    ("dream-7b-base", "gsm8k_platinum_cot", "dream_base_gsm8k"),
    ("wedlm-8b-instruct", "triviaqa", "wedlm"),
    ("wedlm-7b-base", "gsm8k_cot", "wedlm_gsm8k"),
    ("wedlm-7b-base", "gsm8k_wedlm", "wedlm_gsm8k"),
    ("wedlm-8b-instruct", "humaneval_plus_wedlm", "wedlm_humaneval"),
    ("wedlm-8b-instruct", "gpqa_diamond_wedlm", "wedlm_gpqa"),
    ("wedlm-8b-instruct", "mmlu_stem_generative", "wedlm_mmlu"),
    ("wedlm-8b-instruct", "arc_challenge_chat", "wedlm_arc"),
    ("nemotron-labs-diffusion-3b", "gsm8k", "nemotron"),
]


@pytest.mark.parametrize(("checkpoint", "task", "expected"), CHOICES)
def test_authors_are_chosen_by_checkpoint_and_task(
    checkpoint: str, task: str, expected: str
) -> None:
    assert authors_preset(checkpoint, task, checkpoints()[checkpoint].family) == expected


@pytest.mark.parametrize(
    ("family", "task", "expected"),
    [("mdlm", "unconditional", "mdlm"), ("bd3lm", "x", "bd3lm"), ("diffusionllm", "mmlu", "rdm_one_step"),
     ("ar2diff", "x", "ar2diff"), ("ddlm", "prefix_32", "ddlm"), ("sedd", "x", "sedd")],
)  # fmt: skip
def test_families_without_named_checkpoints_have_authors_too(
    family: str, task: str, expected: str
) -> None:
    assert authors_preset("", task, family) == expected


@pytest.mark.parametrize(
    ("checkpoint", "task", "told"),
    [
        ("illada-8b-instruct", "gsm8k", "dlm-eval ls presets"),
        ("llada-1.5", "triviaqa", "settings for gsm8k, math"),
    ],
)
def test_where_the_authors_published_nothing_it_is_one_line(
    checkpoint: str, task: str, told: str
) -> None:
    with pytest.raises(UserError, match="'authors' is not known") as error:
        authors_preset(checkpoint, task, checkpoints()[checkpoint].family)
    assert told in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 250


def ask(
    user: dict[str, Any],
    arguments: dict[str, Any],
    checkpoint: str = "dream-7b-base",
    task: str = "gsm8k_cot",
) -> Any:
    options = DecodeOptions(user, checkpoint, family=checkpoints()[checkpoint].family)
    request = options.request(arguments, task)
    return request, options.settings(request, request.hole.length.tokens or 256)


def test_authors_settings_are_theirs_and_not_a_mixture_with_the_tasks() -> None:
    task = {"preset": "diffullama", "steps": 32, "max_gen_toks": 64, "until": ["Q:"]}
    request, settings = ask({"preset": "authors"}, task)
    assert (
        request.preset == "dream_base_gsm8k"
        and request.hole.length == Length(256)
        and request.until == ("Q:",)
    )
    assert settings == resolve({"preset": "dream_base_gsm8k", "until": ("Q:",)})
    assert (settings.identity()["rescore"], settings.logits_temp, settings.steps) == (
        False,
        1.0,
        256,
    )
    request, settings = ask({"preset": "authors", "gen_length": 32, "steps": 8}, task)
    assert (
        request.hole.length == Length(32)
        and settings.steps == 8
        and settings.strategy.name == "entropy"
    )


def test_a_task_may_ask_for_a_preset_and_the_request_says_which() -> None:
    request, settings = ask({}, {"preset": "diffullama", "steps": "length"})
    assert (
        request.preset == "diffullama" and settings.steps is None and settings.identity()["rescore"]
    )
    assert ask({}, {})[0].preset is None


def test_stop_strings_can_be_turned_off() -> None:
    assert ask({"until": "[]"}, {"until": ["Q:"]})[0].until == ()
    assert ask({"until": "[a,b]"}, {})[0].until == ("a", "b")
    assert ask({"until": "Q:"}, {})[0].until == ("Q:",)


def test_as_many_steps_as_tokens_is_one_setting() -> None:
    """--decode steps=none, steps=length and the number itself are the same work, and have the same key in the journal."""
    keys = []
    for steps in ("none", "length", "64"):
        _, settings = ask({"steps": steps, "gen_length": 64}, {}, task="x")
        keys.append(settings.canonical(64, "absorbing", None))
    assert keys[0] == keys[1] == keys[2]
    kept, rewritten = resolve({"steps": 64}), resolve({"strategy": "rewrite", "steps": 64})
    assert all(
        kept.canonical(*case) == kept for case in ((64, "absorbing", 4), (65, "absorbing", None))
    )
    assert rewritten.canonical(64, "uniform", None) == rewritten
    model, canvas = Toy(ToySettings(inconsistency=0.9)), Canvas.completion([1], 12)
    for options in (
        {},
        {"block_length": 4},
        {"schedule": "linear"},
        {"strategy": "ddpm", "temperature": 1.0},
    ):
        one, other = (
            fill(model, [canvas], **{**options, **more})[0] for more in ({"steps": 12}, {})
        )  # type: ignore[arg-type]
        assert (one.tokens, one.step, one.forwards) == (other.tokens, other.step, other.forwards)


def test_results_record_which_preset_it_was(shared: Any) -> None:
    results = evaluate(
        "mdlm",
        ["demo_word_problem"],
        limit=2,
        model_args={
            "pretrained": str(shared / "goldens" / "mdlm"),
            "dtype": "float32",
            "device": "cpu",
        },
        decode={"preset": "authors", "steps": 4, "gen_length": 8},
    )
    task = results["dlm_eval"]["tasks"]["demo_word_problem"]
    assert (
        task["preset"] == "mdlm"
        and task["decode"]["strategy"] == "ddpm"
        and task["decode"]["steps"] == 4
    )


def test_a_users_preset_replaces_the_tasks_whole():
    own = {"preset": "diffullama"}  # it sets rescore, which strategy timestep does not have
    ask = DecodeOptions({"preset": "diffullama_random_keep"}).request(own, "t")
    assert resolve(*ask.layers).strategy.name == "timestep"
    assert ask.preset == "diffullama_random_keep"
