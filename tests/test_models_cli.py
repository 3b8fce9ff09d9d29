"""Every family through the command line: a generation task, and a multiple-choice task or the line that refuses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import test_autoregressive
import test_models_ar2diff
import test_models_blocks
import test_models_ddlm
import test_models_diffusiongemma
import test_models_diffusionllm
import test_models_e2d2
import test_models_esolm
import test_models_uniform_state
import test_samplers_dream_reasoner
import test_samplers_sdlm

from dlm_eval.cli import main
from dlm_eval.models import known_families, packaged_asset

GOLDENS = [
    "llada",
    "lladamoe",
    "llada2",
    "llada21",
    "dream",
    "diffugpt",
    "diffullama",
    "mdlm",
    "sedd",
    "bd3lm",
    "sdar",
]
GOLDENS += ["smdm", "wedlm"]
ADAPTER = {"llada21": "llada2"}
NO_LIKELIHOOD = ["ar2diff", "ddlm", "diffusiongemma"]


def generic(folder: Path) -> Path:
    model = build.llama()
    return build.write(
        folder, model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}, model.state_dict()
    )


BUILT: dict[str, Callable[[Path], Any]] = {
    "diffusionllm": lambda folder: test_models_diffusionllm.written(folder)[0],
    "ar2diff": test_models_ar2diff.checkpoint,
    "ddlm": lambda folder: test_models_ddlm.checkpoint(folder, test_models_ddlm.network()),
    "diffusiongemma": test_models_diffusiongemma.saved,
    "generic": generic,
    "nemotron": test_models_blocks.nemotron,
    "duo": test_models_uniform_state.checkpoint,
    "esolm": lambda folder: test_models_esolm.checkpoint(folder, model_length=64),
    "dreamreasoner": test_samplers_dream_reasoner.checkpoint,
    "idlm": test_autoregressive.idlm_checkpoint,
    "fastdllm": test_models_blocks.fastdllm,
    "sdlm": test_samplers_sdlm.checkpoint,
    "e2d2": test_models_e2d2.checkpoint,
    "tiny": lambda folder: packaged_asset("tiny"),
}
NAMES = [*GOLDENS, *BUILT]


def run(
    name: str, folder: Path, out: Path, shared: Path, *arguments: str
) -> tuple[int, dict[str, Any]]:
    """Exit code of `dlm-eval` on a family's folder, and its results ({} where it wrote none)."""
    code = main(
        [
            *(
                "--model",
                ADAPTER.get(name, name),
                "--model_args",
                f"pretrained={folder},dtype=float32",
            ),
            *(
                "--data_dir",
                str(shared / "data"),
                "--output_path",
                str(out),
                "--verbosity",
                "ERROR",
                *arguments,
            ),
        ]
    )
    files = list(out.glob("**/results_*.json"))
    return code, json.loads(files[0].read_text()) if files else {}


@pytest.fixture
def folder(request: pytest.FixtureRequest, shared: Path, tmp_path: Path) -> Path:
    name = request.param
    return shared / "goldens" / name if name in GOLDENS else BUILT[name](tmp_path / name)


def test_no_family_is_left_out() -> None:
    assert {ADAPTER.get(name, name) for name in NAMES} == set(known_families()) - {"toy"}


@pytest.mark.parametrize(("name", "folder"), [(name, name) for name in NAMES], indirect=["folder"])
def test_a_generation_task(name: str, folder: Path, shared: Path, tmp_path: Path) -> None:
    """The prompt is longer than some of these networks: it is cut from the left."""
    arguments = [
        "--tasks",
        "gsm8k",
        "--limit",
        "1",
        "--num_fewshot",
        "0",
        "--gen_kwargs",
        "max_gen_toks=4",
    ]
    code, results = run(name, folder, tmp_path / "out", shared, *arguments)
    cost = results["dlm_eval"]["cost"]["gsm8k"]
    assert code == 0 and cost["samples"] == 1 and cost["errors"] == 0 and cost["forwards"] > 0


def test_a_prompt_that_does_not_fit_is_that_samples_error(shared: Path, tmp_path: Path) -> None:
    arguments = [
        "--tasks",
        "gsm8k",
        "--limit",
        "1",
        "--gen_kwargs",
        "max_gen_toks=4",
        "--overlong",
        "error",
    ]
    code, results = run("mdlm", shared / "goldens" / "mdlm", tmp_path, shared, *arguments)
    assert code == 1 and results["dlm_eval"]["cost"]["gsm8k"]["errors"] == 1
    samples = next(tmp_path.glob("**/samples_gsm8k_*.jsonl")).read_text()
    assert "32" in json.loads(samples.splitlines()[0])["error"]


@pytest.mark.parametrize(("name", "folder"), [(name, name) for name in NAMES], indirect=["folder"])
def test_a_multiple_choice_task(
    name: str, folder: Path, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--tasks", "demo_choice", "--limit", "2", "--estimator", "auto,max_forwards=4"]
    code, results = run(name, folder, tmp_path / "out", shared, *arguments)
    if name in NO_LIKELIHOOD:
        told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert code == 2 and len(told) == 1 and "no likelihood estimator" in told[0]
    else:
        cost = results["dlm_eval"]["cost"]["demo_choice"]
        assert code == 0 and cost["samples"] == 2 and cost["errors"] == 0 and cost["forwards"] > 0


def test_a_chat_model_is_known_by_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its folder's name nor its files say so."""
    folder = build.llada(tmp_path / "plain", chat=True)[0]
    told = []
    for arguments in (["checkpoint=llada-8b-instruct"], ["checkpoint=llada-8b-base"]):
        given = [
            "--model_args",
            f"pretrained={folder},{arguments[0]}",
            "--output_path",
            str(tmp_path / "out"),
        ]
        asked = [
            "--model",
            "llada",
            "--tasks",
            "demo_choice",
            "--limit",
            "1",
            "--estimator",
            "auto,max_forwards=2",
        ]
        assert main([*asked, *given]) == 0
        told.append(
            [line for line in capsys.readouterr().err.splitlines() if "tuned for chat" in line]
        )
    assert len(told[0]) == 1 and "--apply_chat_template" in told[0][0] and told[1] == []
