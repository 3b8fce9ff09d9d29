"""Chat prompts: equal to those of lm-eval's `hf`, with the template that was asked for, and refused before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models_builders as build
import pytest
from lm_eval.models.huggingface import HFLM

from dlm_eval import evaluate, load_model
from dlm_eval.errors import UserError

# in the form of the checkpoints' own, written by us
TEMPLATES = {
    "plain": build.CHAT,
    "roles": (  # LLaDA2
        "{% for m in messages %}{% set role = {'system': 'SYSTEM', 'user': 'HUMAN', 'assistant': 'ASSISTANT'}[m['role']] %}"
        "<role>{{ role }}</role>{{ m['content'] | trim }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
    ),
    "chatml": (  # SDAR, WeDLM
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
    ),
    "chatml with a system prompt": (  # Fast-dLLM v2
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "always a header": "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] ",
}
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
USER, ASSISTANT, SYSTEM = (
    {"role": role, "content": role} for role in ("user", "assistant", "system")
)
BEGUN = {"role": "assistant", "content": "```python\ndef f(x):\n"}
HISTORIES = [
    ([USER], True),
    ([SYSTEM, USER], True),
    ([USER, ASSISTANT, USER], True),
    ([USER, BEGUN], False),
    ([SYSTEM, USER, ASSISTANT, USER, BEGUN], False),
]


def checkpoint(folder: Path, template: Any = build.CHAT) -> Path:
    model = build.llama()
    build.write(
        folder, model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}, model.state_dict()
    )
    config = json.loads((folder / "tokenizer_config.json").read_text())
    named = (
        [{"name": name, "template": text} for name, text in template.items()]
        if isinstance(template, dict)
        else template
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    return folder


def of_lm_eval(tokenizer: Any, history: list[dict[str, str]], begins: bool) -> str:
    lm = SimpleNamespace(tokenizer=tokenizer, chat_template_args={})
    return HFLM.apply_chat_template(lm, history, begins)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TEMPLATES)
def test_07_prompts_are_those_of_hf(name: str, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m", TEMPLATES[name])
    model = load_model(
        "generic", pretrained=str(folder), mask_id=build.MASK_ID, shift=False, attention="full"
    )
    for history, begins in HISTORIES:
        assert model.apply_chat_template(history, begins) == of_lm_eval(
            model.tokenizer_info.tokenizer, history, begins
        )
    begun = model.apply_chat_template([USER, BEGUN], False)
    # which trims every message
    assert begun.endswith("def f(x):" if name == "roles" else "def f(x):\n")


@pytest.mark.parametrize(
    "family", ["llada", "dream", "sdar", "llada2", "llada21", "wedlm", "lladamoe"]
)
def test_07_prompts_of_goldens_are_those_of_hf(family: str, shared: Path) -> None:
    from dlm_eval.models import load_without_weights

    model = load_without_weights(
        {"llada21": "llada2"}.get(family, family), pretrained=str(shared / "goldens" / family)
    )
    if not model.chat_templates:  # type: ignore[attr-defined]
        pytest.skip("this golden has no chat template")
    for history, begins in HISTORIES:
        assert model.apply_chat_template(history, begins) == of_lm_eval(
            model.tokenizer_info.tokenizer, history, begins
        )  # type: ignore[attr-defined]


OPTIONS = {"mask_id": build.MASK_ID, "shift": False, "attention": "full", "dtype": "float32"}


def begun_task(folder: Path, **fields: Any) -> str:
    (folder / "docs.jsonl").write_text(
        "".join(json.dumps({"q": f"the {i}", "a": "in"}) + "\n" for i in range(3))
    )
    yaml = {
        "task": "t_begun", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
        "output_type": "generate_until", "test_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        "gen_prefix": "The answer", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}], **fields,
    }  # fmt: skip
    (folder / "t_begun.yaml").write_text(json.dumps(yaml))
    return "t_begun"


def saved(folder: Path) -> dict[str, Any]:
    (file,) = folder.glob("**/results_*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_07_a_begun_answer_stays_open_in_a_run(tmp_path: Path) -> None:
    folder, task = checkpoint(tmp_path / "m", TEMPLATES["chatml"]), begun_task(tmp_path)
    run = {
        "include_path": str(tmp_path),
        "apply_chat_template": True,
        "num_fewshot": 0,
        "verbosity": "ERROR",
    }
    outs = [str(tmp_path / "ours"), str(tmp_path / "theirs")]
    own, hfs = (
        {"pretrained": str(folder), **OPTIONS},
        {"pretrained": str(folder), "dtype": "float32"},
    )
    ours = evaluate("generic", [task], model_args=own, output_path=outs[0], **run)
    theirs = evaluate("hf", [task], model_args=hfs, device="cpu", output_path=outs[1], **run)
    prompts = [
        [sample["arguments"]["gen_args_0"]["arg_0"] for sample in results["samples"][task]]
        for results in (ours, theirs)
    ]
    assert prompts[0] == prompts[1]
    assert all(prompt.endswith("<|im_start|>assistant\nThe answer") for prompt in prompts[0])
    files = [saved(Path(out)) for out in outs]
    assert files[0]["chat_template"] == TEMPLATES["chatml"]
    assert files[0]["chat_template_sha"] == files[1]["chat_template_sha"]


def test_07_a_template_by_its_name(tmp_path: Path) -> None:
    folder, task = (
        checkpoint(tmp_path / "m", {"default": build.CHAT, "roles": TEMPLATES["roles"]}),
        begun_task(tmp_path),
    )
    run = {"include_path": str(tmp_path), "verbosity": "ERROR", "limit": 1}
    run["model_args"] = {"pretrained": str(folder), **OPTIONS}
    results = evaluate(
        "generic", [task], apply_chat_template="roles", output_path=str(tmp_path / "roles"), **run
    )
    assert (
        results["samples"][task][0]["arguments"]["gen_args_0"]["arg_0"]
        == "<role>HUMAN</role>the 0<|end|><role>ASSISTANT</role>The answer"
    )
    assert saved(tmp_path / "roles")["chat_template"] == TEMPLATES["roles"]
    evaluate(
        "generic", [task], apply_chat_template=True, output_path=str(tmp_path / "default"), **run
    )
    assert saved(tmp_path / "default")["chat_template"] == build.CHAT
    with pytest.raises(
        UserError, match="--apply_chat_template 'role' is not known; did you mean 'roles'"
    ):
        evaluate("generic", [task], apply_chat_template="role", **run)


def test_07_what_a_template_refuses_is_said_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dlm_eval.harness.run.open_model", lambda *_: pytest.fail("the model was loaded")
    )
    folder, task = checkpoint(tmp_path / "m", NO_SYSTEM), begun_task(tmp_path)
    run = {"include_path": str(tmp_path), "apply_chat_template": True, "verbosity": "ERROR"}
    run["model_args"] = {"pretrained": str(folder), **OPTIONS}
    with pytest.raises(
        UserError, match="^--system_instruction: the chat template .* no system role here"
    ):
        evaluate("generic", [task], system_instruction="Be brief.", **run)
    begun_task(tmp_path, description="Answer these.")
    with pytest.raises(
        UserError,
        match="task 't_begun' has a description, which is a system message: .* no system role",
    ):
        evaluate("generic", [task], **run)
    for template, asked, told in (
        (None, True, "has no chat template"),
        (build.CHAT, "tools", "allowed: default|did you mean"),
        (
            {"a": build.CHAT, "b": build.CHAT},
            True,
            "needs a name for this checkpoint; allowed: a, b",
        ),
    ):
        checkpoint(folder, template)
        with pytest.raises(UserError, match=told):
            evaluate("generic", [task], **{**run, "apply_chat_template": asked})
