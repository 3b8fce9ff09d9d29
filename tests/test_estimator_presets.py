"""`--estimator preset=`: the authors' likelihood settings by checkpoint and task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import write_tasks
from models_builders import llada

from dlm_eval import evaluate
from dlm_eval.cli import main
from dlm_eval.decoding.presets import GROUPS
from dlm_eval.errors import UserError
from dlm_eval.likelihood.presets import Authors, estimator_presets, parse_estimators
from dlm_eval.models import checkpoints, known_families


def of(
    checkpoint: str, task: str, text: str = "preset=authors", family: str = ""
) -> dict[str, Any]:
    return parse_estimators(text).for_model(checkpoint, family).for_task(task).identity()


# eval_llada_lm_eval.sh of LLaDA b7e6c35: task -> (cfg, mc_num, batch_size)
LLADA = {
    "gpqa_main_n_shot": (0.5, 128, 8), "truthfulqa_mc2": (2.0, 128, 8), "arc_challenge": (0.5, 128, 8), "hellaswag": (0.5, 128, 8),
    "winogrande": (0.0, 128, 8), "piqa": (0.5, 128, 8), "mmlu_anatomy": (0.0, 1, 1), "cmmlu_anatomy": (0.0, 1, 1),
    "ceval-valid_law": (0.0, 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("task", LLADA)
def test_lladas_settings_are_those_of_its_script(task: str) -> None:
    found = of("llada-8b-base", task)
    assert (found["cfg_scale"], found["max_forwards"], found["batch"]) == LLADA[task]
    assert found["name"] == "llada"


def test_others() -> None:
    assert of("dream-7b-base", "mmlu_law")["max_forwards"] == 128
    assert of("dream-7b-instruct", "gpqa_main_n_shot")["max_forwards"] == 32
    assert of("diffugpt-m", "hellaswag") == {**of("diffullama", "piqa")}
    assert of("diffullama", "piqa")["steps"] == 32
    assert of("fast-dllm-v2-7b", "mmlu_fast_dllm_v2") == {"name": "fast_dllm_v2"}


def test_the_table_is_sound() -> None:
    for name, preset in estimator_presets().items():
        assert preset.source and (preset.checkpoints or preset.families), name
        assert set(preset.checkpoints) <= set(checkpoints())
        assert set(preset.families) <= set(known_families())
        assert preset.task is None or preset.task in GROUPS or "*" in preset.task
        parse_estimators(preset.estimator)
        parse_estimators(f"preset={name}")


def test_the_users_settings_override() -> None:
    assert of("llada-8b-base", "piqa", "preset=authors,max_forwards=16")["max_forwards"] == 16
    assert of("", "", "preset=llada_base_truthfulqa,max_forwards=4")["cfg_scale"] == 2.0


def test_mistakes_are_one_line() -> None:
    with pytest.raises(
        UserError, match="preset 'llada_bas' is not known; did you mean 'llada_base'"
    ):
        parse_estimators("preset=llada_bas")
    with pytest.raises(UserError, match="max_forward.*max_forwards"):
        of("llada-8b-base", "piqa", "preset=authors,max_forward=3")
    with pytest.raises(
        UserError, match="--estimator preset 'authors' is not known for checkpoint 'sdar-8b-chat'"
    ):
        of("sdar-8b-chat", "piqa", family="sdar")
    # of lm-eval's task it would read the line break of the chat template
    with pytest.raises(UserError, match="not known for checkpoint 'fast-dllm-v2-7b' and task 'mmlu_law'"):  # fmt: skip
        of("fast-dllm-v2-7b", "mmlu_law")
    with pytest.raises(
        UserError,
        match=r"needs the name of the checkpoint.*checkpoint=NAME to --model_args; allowed: llada-8b-base",
    ):
        of("", "piqa", family="llada")


def test_each_task_of_a_run_has_its_own(tmp_path: Path) -> None:
    """Two tasks under one --estimator: the numbers are those of each estimator alone."""
    folder, _ = llada(tmp_path / "model")
    tasks = write_tasks_named(tmp_path / "tasks", "piqa_t", "mmlu_t")

    def run(estimator: str, *names: str) -> dict[str, Any]:
        return evaluate(
            "llada", list(names), model_args={"pretrained": str(folder), "checkpoint": "llada-8b-base", "mask_id": 268},
            estimator=estimator, include_path=str(tasks), verbosity="ERROR",
        )  # fmt: skip

    both = run("preset=authors,max_forwards=5", "piqa_t", "mmlu_t")
    alone = run("llada,max_forwards=5,batch=8,cfg_scale=0.5", "piqa_t"), run("llada,max_forwards=5,batch=1", "mmlu_t")  # fmt: skip
    for name, one in zip(("piqa_t", "mmlu_t"), alone, strict=True):
        assert [s["resps"] for s in both["samples"][name]] == [
            s["resps"] for s in one["samples"][name]
        ]
        told = [found["dlm_eval"]["tasks"][name]["configuration"] for found in (both, one)]
        assert told[0] == told[1]  # one row of a board: the settings are equal
    presets = [both["dlm_eval"]["tasks"][name]["preset"] for name in ("piqa_t", "mmlu_t")]
    assert presets == ["llada_base_piqa", "llada_base_mmlu"]
    assert both["dlm_eval"]["settings"]["estimator"] == {"name": "authors", "max_forwards": "5"}


def write_tasks_named(folder: Path, *names: str) -> Path:
    folder.mkdir()
    write_tasks(folder)
    for name in names:
        text = (folder / "t_choice.yaml").read_text().replace("t_choice", name)
        (folder / f"{name}.yaml").write_text(text)
    return folder


def test_ls_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "presets"]) == 0
    assert "--estimator llada,max_forwards=128,batch=8,cfg_scale=2.0" in capsys.readouterr().out
    assert main(["show", "llada_base_piqa"]) == 0
    assert "estimator preset:" in capsys.readouterr().out


def test_estimators_are_read_without_torch() -> None:
    code = "import sys, dlm_eval.likelihood as l; l.parse_estimators('preset=authors'); assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_authors_are_values() -> None:
    assert Authors({"a": "1"}) == Authors({"a": "1"}) != Authors({})
