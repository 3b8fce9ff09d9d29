"""Settings that are checked before a model is loaded, and against what the model can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_models_ar2diff
import test_models_uniform_state
import test_samplers_sdlm

from dlm_eval import Canvas, UserError, load_model
from dlm_eval.cli import main
from dlm_eval.decoding import default_strategy, resolve
from dlm_eval.decoding.filling import most_forwards, refuse_settings
from dlm_eval.models.catalog import own_families, strategy_of

OWN_DEFAULT = {"duo": "ancestral", "sdlm": "longest_prefix"}
BUILDERS = {
    "duo": test_models_uniform_state.checkpoint,
    "sdlm": test_samplers_sdlm.checkpoint,
    "ar2diff": test_models_ar2diff.checkpoint,
}


@pytest.mark.parametrize("family", BUILDERS)
def test_the_table_names_the_default_strategy(tmp_path: Path, family: str) -> None:
    model = load_model(family, pretrained=BUILDERS[family](tmp_path / family), device="cpu")
    found = default_strategy(model.process, model)
    assert found == (strategy_of(family) or default_strategy(own_families()[family].process))
    assert strategy_of(family) == OWN_DEFAULT.get(family, "")


@pytest.mark.parametrize(
    ("family", "own", "others"),
    [("sdlm", "threshold=0.5", "alg_temp=0.5"), ("duo", "kappa=0.5", "halt_threshold=0.5")],
)
def test_an_option_of_the_models_default_strategy_needs_no_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, own: str, others: str
) -> None:
    folder = BUILDERS[family](tmp_path / family)
    run = ["run", "--model", family, "--model_args", f"pretrained={folder}", "--device", "cpu"]
    run += ["--tasks", "demo_word_problem", "--limit", "1", "--dry_run", "--decode"]
    assert main([*run, f"gen_length=4,{own}"]) == 0
    capsys.readouterr()
    assert main([*run, f"gen_length=4,{others}"]) == 2
    assert f"is not used by strategy '{OWN_DEFAULT[family]}'" in capsys.readouterr().err


@pytest.mark.parametrize("settings", [{"length_beam": 2}])
def test_a_model_without_a_length_head_is_refused_before_anything_runs(
    settings: dict[str, Any],
) -> None:
    model = load_model("toy")
    for refused in (
        lambda: refuse_settings(model, resolve(settings)),
        lambda: most_forwards(model, Canvas.completion([1], 4), resolve(settings)),
    ):
        with pytest.raises(UserError, match="length_beam '2' is not possible: .* no length head"):
            refused()
