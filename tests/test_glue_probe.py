"""`dlm-eval probe`: features are means of hidden states, a separable task is learnt and a random one is not, the file is a results file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import models_builders as build
import numpy as np
import pytest
import test_models_ddlm
import torch

from dlm_eval.cli import main
from dlm_eval.errors import UserError
from dlm_eval.harness.glue_probe import TASKS, Reader, probe
from dlm_eval.harness.lm_eval_patches import local_first
from dlm_eval.models import load_model
from dlm_eval.reports.files.result_file import read_result_file


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("m")
    return load_model(
        "ddlm", pretrained=test_models_ddlm.checkpoint(folder, test_models_ddlm.network())
    )


def data(home: Path, config: str, rows: dict[str, list[dict[str, Any]]]) -> Path:
    folder = home / "nyu-mll" / "glue"
    card = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, docs in rows.items():
        file = folder / config / f"{split}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        card += [f"  - {{split: {split}, path: {config}/{split}.jsonl}}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return home


def sentences(count: int, seed: int, shuffled: bool) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        label = rng.randrange(2)
        words = rng.choices(["the", "hen", "ten", "rat"], k=5) + ["zz" if label else "qq"]
        rng.shuffle(words)
        rows.append({"sentence": " ".join(words), "label": rng.randrange(2) if shuffled else label})
    return rows


def test_features_are_means_of_hidden_states(loaded: Any) -> None:
    texts = ["the hen", "a rat and the hen", "x"]
    found = Reader(loaded, batch_size=2).read(texts)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([loaded.encode(text)])
        truth = loaded.hidden(ids, None)[0].mean(0)
        assert np.allclose(row, truth.numpy(), atol=1e-5)
        # the head reads the same states
        head = loaded.read(loaded.hidden(ids, None)[0])
        assert torch.allclose(head, loaded.logits(ids)[0], atol=1e-5)


def test_what_the_features_tell_is_learnt_and_nothing_else(loaded: Any, tmp_path: Path) -> None:
    # 200 validation examples of random labels: P(accuracy outside 0.5 +- 0.14) < 1e-4
    for shuffled, low, high in ((False, 0.95, 1.0), (True, 0.36, 0.64)):
        home = data(
            tmp_path / str(shuffled),
            "sst2",
            {"train": sentences(300, 1, shuffled), "validation": sentences(200, 2, shuffled)},
        )
        with local_first(home):
            found = probe(loaded, "sst2")
        assert low <= found.scores["acc"] <= high
        assert (found.trained_on, found.n, found.truncated) == (300, 200, 0)
        assert found.majority is not None and 0.3 < found.majority < 0.7


def test_the_command_writes_a_results_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(0)
    pairs = [
        {"sentence1": "a " * n, "sentence2": "b " * n, "label": float(n)}
        for n in (rng.randrange(1, 6) for _ in range(40))
    ]
    home = data(tmp_path / "data", "stsb", {"train": pairs[:30], "validation": pairs[30:]})
    folder = test_models_ddlm.checkpoint(tmp_path / "m", test_models_ddlm.network())
    model = ["--model", "ddlm", "--model_args", f"pretrained={folder}"]
    options = ["--tasks", "stsb", "--data_dir", str(home), "-o", str(tmp_path / "out")]
    assert main(["probe", *model, *options]) == 0
    shown = capsys.readouterr().out
    assert "glue_probe_stsb" in shown and "pearson" in shown
    (file,) = (tmp_path / "out").rglob("results_*.json")
    rows = read_result_file(file, "x").rows
    assert {row.metric for row in rows} == {"pearson", "spearman"} and rows[0].n == 10
    assert rows[0].fingerprint and str(tmp_path) not in file.read_text()
    assert main(["probe", *model, "--tasks", "sst3"]) == 2
    assert "sst2" in capsys.readouterr().err


def test_a_model_without_states_is_refused() -> None:
    with pytest.raises(UserError, match="toy .* has no hidden states"):
        Reader(load_model("toy"), 4)
    assert len(TASKS) == 9


def test_any_network_of_transformers_can_be_probed(tmp_path: Path) -> None:
    model = build.llama()
    folder = build.write(
        tmp_path / "m", build.llada_config(), build.llada_names(model.state_dict())
    )
    loaded = load_model("llada", pretrained=folder)
    ids = torch.tensor([loaded.encode("the hen")])
    with torch.inference_mode():
        truth = model.model(input_ids=ids).last_hidden_state[0].mean(0)
    assert np.allclose(Reader(loaded, 4).read(["the hen"])[0], truth.numpy(), atol=1e-4)
