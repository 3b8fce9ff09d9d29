"""Decode settings that a model cannot use, texts typed in a shell, presets and the tasks that they are for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import test_models_ar2diff
import test_models_ddlm
from strategy_options import NEEDED
from test_metrics_samples import pages  # noqa: F401  (a fixture)

from dlm_eval import Canvas, evaluate
from dlm_eval.decoding import STRATEGIES, fill, presets, resolve
from dlm_eval.decoding.presets import GROUPS, authors_preset
from dlm_eval.errors import UserError
from dlm_eval.harness.decode_config import DecodeOptions
from dlm_eval.harness.decode_layers import user_layer
from dlm_eval.harness.infill import InfillSpec
from dlm_eval.harness.task_files import _config, _manager, list_tasks
from dlm_eval.models.families.toy import Toy, ToySettings
from dlm_eval.settings import parse_pairs

SAMPLES = ["unconditional", "prefix_32", "enclosed_32"]
JUDGE = {"judge": "asset:tiny-ar", "n_samples": 2}


@pytest.mark.parametrize(
    ("family", "strategy", "steps"),
    [("ddlm", "euler", {200, 201}), ("ar2diff", "rewrite", set(range(1, 11)))],
)
def test_12_samples_of_every_process_by_default(
    family: str,
    strategy: str,
    steps: set[int],
    pages: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    if family == "ddlm":
        folder = test_models_ddlm.checkpoint(tmp_path / "m", test_models_ddlm.network())
    else:
        folder = test_models_ar2diff.checkpoint(tmp_path / "m")
    results = evaluate(
        family, SAMPLES, model_args={"pretrained": str(folder)}, metadata=JUDGE, decode={"gen_length": 8},
        data_dir=str(pages), verbosity="ERROR", bootstrap_iters=2,
    )  # fmt: skip
    for task in SAMPLES:
        told = results["dlm_eval"]["tasks"][task]
        assert results["dlm_eval"]["cost"][task]["errors"] == 0
        assert told["strategy"] == strategy and told["replaced"]["strategy"] == "random"
        assert all(set(sample["steps"]) <= steps for sample in results["samples"][task])


@pytest.fixture(scope="module")
def generating() -> dict[str, dict[str, Any]]:
    """The YAMLs of our tasks that generate; lm-eval's index of them is read once."""
    index = _manager(None, everything=False).task_index
    names = [name for name, kind, _ in list_tasks() if kind == "generate_until"]
    return {name: _config(index[name]) for name in names}


@pytest.mark.parametrize("process", ["absorbing", "canvas", "gaussian", "uniform"])
def test_12_a_task_of_ours_runs_on_every_process(
    process: str, generating: dict[str, dict[str, Any]]
) -> None:
    """Its settings, by what is left of them."""
    yamls = generating
    assert len(yamls) > 15
    options = DecodeOptions({}, process=process)
    for name, yaml in yamls.items():
        ask = options.request(yaml.get("generation_kwargs") or {}, name)
        options.settings(ask, 16).check_process(process)


@pytest.mark.parametrize(
    ("process", "asked", "kept", "replaced"),
    [
        ("gaussian", {"strategy": "random", "decode_temperature": 1.0, "steps": 7}, {"steps": 7}, {"strategy", "temperature"}),
        ("uniform", {"decode_temperature": 0.5, "steps": 4}, {"temperature": 0.5, "steps": 4}, set()),
        ("uniform", {"strategy": "threshold", "threshold": 0.9, "block_length": 8}, {}, {"strategy", "threshold", "block_length"}),
        ("uniform", {"preset": "diffullama"}, {"temperature": 1.0, "logits_temp": 0.9, "steps": 32}, {"strategy", "schedule", "rescore"}),
        ("absorbing", {"strategy": "rewrite", "steps": 4}, {"steps": 4}, {"strategy"}),
        ("absorbing", {"strategy": "threshold", "threshold": 0.9}, {"strategy": "threshold", "threshold": 0.9}, set()),
        ("gaussian", {"strategy": "euler", "noise_scale": 0.5}, {"strategy": "euler", "noise_scale": 0.5}, set()),
        ("canvas", {"halt": "entropy", "halt_threshold": 0.1, "cache": "none"}, {"halt": "entropy", "halt_threshold": 0.1}, {"cache"}),
    ],
)  # fmt: skip
def test_12_what_a_process_cannot_use_gives_way(
    process: str, asked: dict[str, Any], kept: dict[str, Any], replaced: set[str]
) -> None:
    ask = DecodeOptions({}, process=process).request(asked)
    assert (dict(ask.layers[1]), set(ask.replaced)) == (kept, replaced)
    assert ask.preset == (None if replaced else asked.get("preset"))


def test_12_what_the_user_asks_for_is_refused_instead(tmp_path: Path) -> None:
    folder = test_models_ddlm.checkpoint(tmp_path / "m", test_models_ddlm.network())
    for decode, told in (
        ({"strategy": "random"}, "allowed: euler"),
        ({"temperature": 1}, "means nothing"),
        ({"eps": 0.1}, "means nothing"),
    ):
        with pytest.raises(UserError, match=told):
            evaluate(
                "ddlm",
                ["demo_word_problem"],
                model_args={"pretrained": str(folder)},
                decode=decode,
                limit=1,
            )
    with pytest.raises(
        UserError, match="strategy 'confidance' is not known; did you mean 'confidence'"
    ):
        DecodeOptions({}, process="gaussian").settings(
            DecodeOptions({}, process="gaussian").request({"strategy": "confidance"}), 4
        )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"""["A","\n"]""", ("A", "\n")),
        (r"""['A', '\n\n']""", ("A", "\n\n")),
        (r"[A,\n]", ("A", "\n")),
        (r"\n\n", ("\n\n",)),
        (r"""["a,b",")","]","it's"]""", ("a,b", ")", "]", "it's")),
        ("[don't,can't]", ("don't", "can't")),
        (r"\boxed", (r"\boxed",)),
        (r"\\n", (r"\n",)),
        (r"""["\u00e9","\\begin"]""", ("é", r"\begin")),
        (["\\n", "[x]"], ("\\n", "[x]")),
        ("[]", ()),
        ("\n", ("\n",)),
    ],
)
def test_13_stop_strings_typed_in_a_shell(typed: Any, meant: tuple[str, ...]) -> None:
    assert DecodeOptions({"until": typed}).request({"until": ["Q:"]}).until == meant
    assert DecodeOptions({"stop": typed}).request({"until": ["Q:"]}).until == meant
    assert resolve({"until": typed}).until == meant
    if isinstance(typed, str):
        pairs = parse_pairs(f"steps=4,until={typed},top_k=2", "--decode")
        assert (
            pairs["steps"] == "4"
            and DecodeOptions(pairs).request({}).until == meant
            or typed != typed.strip()
        )


def test_13_a_yamls_stop_string_is_literal() -> None:
    assert DecodeOptions().request({"until": "[a,b]"}).until == ("[a,b]",)
    assert DecodeOptions().request({"stop": [r"\n"]}).until == (r"\n",)
    spec = InfillSpec.from_metadata("t", {"infill": {"length": "oracle", "reference": "gap"}})
    hole = DecodeOptions().request({"hole": spec.hole("t", {"gap": "[1, 2]"})}).hole
    assert hole.references == ("[1, 2]",)  # a document's text


@pytest.mark.parametrize(
    ("gen_kwargs", "decode", "told"),
    [
        ({"num_beams": 4}, {}, "--gen_kwargs 'num_beams' is not known"),
        ({"stopp": "x"}, {}, "--gen_kwargs 'stopp' is not known; did you mean 'stop'"),
        ({}, {"stepps": 4}, "--decode 'stepps' is not known; did you mean 'steps'"),
        ({"until": "x", "stop": "y"}, {}, "until and stop are two names of one setting; give one"),
        (
            {"until": {"a": 1}},
            {},
            "until '{'a': 1}' is not allowed; it must be a text or a list of texts",
        ),
        ({"steps": "many"}, {}, "decode steps 'many' is not allowed"),
    ],
)
def test_13_the_option_that_is_wrong_is_named(
    gen_kwargs: dict[str, Any], decode: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as error:
        resolve(*DecodeOptions(user_layer(gen_kwargs, decode)).request({}).layers)
    assert str(error.value).startswith(told)


def test_13_decode_stands_above_gen_kwargs_by_either_name() -> None:
    assert DecodeOptions(user_layer({"stop": "a"}, {"until": "b"})).request({}).until == ("b",)
    named = user_layer({"gen_length": 9}, {"max_gen_toks": 5})
    assert DecodeOptions(named).request({}).hole.length.tokens == 5


@pytest.mark.parametrize("name", ["gen_length", "max_gen_toks", "max_new_tokens", "max_tokens"])
def test_a_length_beside_a_preset_replaces_the_preset_s_by_any_name(name: str) -> None:
    preset = {"preset": "dream_base_sudoku"}
    assert DecodeOptions(preset).request({}).hole.length.tokens == 24
    assert DecodeOptions({**preset, name: 5}).request({}).hole.length.tokens == 5
    assert DecodeOptions().request({**preset, name: 5}).hole.length.tokens == 5


def answers(strategy: str, seed: int, samples: int = 1, process: str = "absorbing") -> Any:
    model = Toy(ToySettings())
    canvases = [Canvas.completion([1, i], 8) for i in range(4)]
    return fill(model, canvases, strategy, seed=seed, samples=samples, **NEEDED.get(strategy, {}))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in STRATEGIES.names()
        if "absorbing" in STRATEGIES.find(name).processes
        # not for a toy, which has no blocks, mixtures of tokens or order of writing, and is not causal
        and name not in ("joint_threshold_indel", "dmax", "esolm", "block_n", "linear_spec")
    ],
)
def test_13_which_strategies_depend_on_the_seed_at_temperature_0(name: str) -> None:
    one = answers(name, 0)
    steps = [[filling.step for filling in answers(name, seed)] for seed in range(6)]
    by_chance = resolve({"strategy": name, **NEEDED.get(name, {})}).is_random
    assert (len({str(each) for each in steps}) > 1) == by_chance
    several = answers(name, 0, samples=3)
    ratio = sum(f.forwards for f in several) / sum(f.forwards for f in one)
    assert ratio > 2 if by_chance else ratio == 1
    if not by_chance:
        assert [f.tokens for f in several] == [f.tokens for f in one]


def test_13_samples_that_would_be_equal_are_written_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run(**settings: Any) -> dict[str, Any]:
        return evaluate("toy", ["demo_word_problem"], limit=3, bootstrap_iters=0, **settings)

    one = run(decode={"gen_length": 6})
    eight = run(decode={"gen_length": 6, "samples": 8})
    assert (
        eight["dlm_eval"]["cost"]["total"]["device_rows"]
        == one["dlm_eval"]["cost"]["total"]["device_rows"]
    )
    assert "samples=8 has no effect at temperature 0" in caplog.text
    drawn = run(decode={"gen_length": 6, "samples": 8, "temperature": 1})
    assert (
        drawn["dlm_eval"]["cost"]["total"]["device_rows"]
        > 6 * one["dlm_eval"]["cost"]["total"]["device_rows"]
    )


def test_13_repeats_of_a_sure_answer_are_one_piece_of_work(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text('{"q": "a"}\n{"q": "b"}\n')
    (tmp_path / "t.yaml").write_text(
        "task: t_repeats\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'docs.jsonl'}}}}}\n"
        "output_type: generate_until\ntest_split: test\ndoc_to_text: '{{q}}'\ndoc_to_target: x\nrepeats: 5\n"
        "metric_list: [{metric: exact_match}]\ngeneration_kwargs: {until: []}\n"
    )
    rows = []
    for temperature in (0, 1):
        decode = {"gen_length": 4, "temperature": temperature, "early_exit": False}
        results = evaluate("toy", ["t_repeats"], include_path=str(tmp_path), decode=decode)
        rows.append(results["dlm_eval"]["cost"]["total"]["device_rows"])
        assert len(results["samples"]["t_repeats"][0]["resps"][0]) == 5
    assert rows[1] > 3 * rows[0]  # drawn repeats share some rows by chance


def test_17_authors_of_a_folder_need_the_checkpoints_name() -> None:
    with pytest.raises(
        UserError, match=r"add checkpoint=NAME to --model_args; allowed: diffullama$"
    ):
        authors_preset("", "triviaqa", "diffullama")
    with pytest.raises(
        UserError, match="'llada-1.5' and task 'mmlu_pro'; they have settings for gsm8k, math"
    ):
        authors_preset("llada-1.5", "mmlu_pro", "llada")


@pytest.mark.full  # reads lm-eval's whole index
def test_17_every_presets_task_exists() -> None:
    manager = _manager(None, True)
    index = {name for name, entry in manager.task_index.items() if entry.yaml_path}

    def generates(name: str) -> bool:
        config = _config(manager.task_index[name])
        return config.get("output_type") == "generate_until"

    for task in {preset.task for preset in presets().values() if preset.task}:
        patterns = GROUPS.get(task, (task,))
        names = sorted(
            name for name in index if any(fnmatchcase(name, pattern) for pattern in patterns)
        )
        assert any(generates(name) for name in names), (task, names[:5])


# -- found by recording every strategy with every option -------------------------------------------


DOUBTED = [
    {"strategy": "edit", "threshold": 0.7, "editing_threshold": 0.9},
    {"strategy": "edit", "threshold": 0.7, "editing_threshold": 0.9, "guidance": 1.0},
    {"strategy": "threshold", "threshold": 0.9},
    {
        "strategy": "threshold",
        "threshold": 0.9,
        "max_per_step": "schedule",
        "schedule": "even",
        "steps": 4,
    },
    {"strategy": "confidence", "rescore": True},
    {"strategy": "rdm"},
    {"strategy": "p2"},
    {"strategy": "window"},
    {"strategy": "factor", "factor": 1.0},
    {"strategy": "entropy_bound", "entropy_bound": 0.1},
]


@pytest.fixture
def within_a_minute() -> Iterator[None]:
    """Ends a test that never would: its loop runs no model, so that nothing else sees it."""

    def late(*_: Any) -> None:
        raise TimeoutError("decoding does not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("within_a_minute")
@pytest.mark.parametrize("settings", DOUBTED, ids=lambda s: "-".join(map(str, s.values())))
def test_10_a_doubted_end_token_is_written_all_the_same(settings: dict[str, Any]) -> None:
    """A candidate that counts as impossible loses to every written one, but an open position is not left open."""
    toy = Toy(ToySettings(vocab=2, inconsistency=0.9, seed=3))
    asked = [Canvas.completion([i % 2, i // 2], 4) for i in range(4)]
    found = fill(toy, asked, confidence_eos_eot_inf=True, early_exit=False, **settings)
    assert any(toy.eos_ids[0] in filling.tokens for filling in found)
    assert all(toy.mask_id not in filling.tokens and min(filling.step) >= 0 for filling in found)


def test_10_a_schedule_is_refused_by_what_never_reads_it() -> None:
    toy, canvas = Toy(ToySettings()), Canvas.completion([0], 6)
    with pytest.raises(UserError, match="decode schedule is not used by strategy 'edit'"):
        fill(toy, [canvas], strategy="edit", threshold=0.7, editing_threshold=0.9, schedule="even")
    own = {
        "strategy": "threshold",
        "threshold": 1.0,
        "max_per_step": "schedule",
        "schedule": "timestep",
        "steps": 2,
    }
    (filling,) = fill(toy, [canvas], **own, batch_mean_quota=(3, 6), early_exit=False)
    assert len(filling.tokens) == 6 and min(filling.step) >= 0
