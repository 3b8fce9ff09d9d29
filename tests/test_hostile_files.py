"""A checkpoint is data: whatever its files say is bounded and never run. A task is code: what takes for ever costs one sample."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import models_builders as build
import pytest
import torch
from harness_tasks import DOCUMENTS, write_tasks
from safetensors.torch import load_file, save_file

from dlm_eval.errors import SampleError, UserError
from dlm_eval.harness import sample_errors
from dlm_eval.harness.run import evaluate
from dlm_eval.models import config_tables, load_model
from dlm_eval.models.chat import render_chat
from dlm_eval.models.loading import locate
from dlm_eval.models.regular_expressions import explodes

TALK = [
    {"role": "system", "content": "Be  brief.\n"},
    {"role": "user", "content": "What is <2 + 2>? \u00e4\u4e2d 'q' \"d\" \U0001f600"},
    {
        "role": "assistant",
        "content": "<think>two and two</think>\n\nFour",
        "reasoning_content": "two and two",
    },
    {"role": "user", "content": " And 3 + 3?"},
]
PARTS = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "Look:"}, {"type": "text", "text": "there"}],
    }
]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "of a city <now>", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "enum": ["Bern", "K\u00f6ln"]}}, "required": ["city"]}}},
]  # fmt: skip
CALLS = [
    {"role": "user", "content": "Weather in Bern?"},
    {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {
        "name": "weather", "arguments": {"city": "Bern", "days": 2, "deep": [1.5, None, True]}}}]},
    {"role": "tool", "name": "weather", "content": "snow"},
]  # fmt: skip
# In the forms of today's checkpoints, written by us.
TEMPLATES = {
    "chatml": "{%- for m in messages %}\n{{- '<|im_start|>' + m.role + '\\n' + m['content'] | string + '<|im_end|>' + '\\n' }}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n{{- '<|im_start|>assistant\\n' }}\n{%- endif %}",
    "headers": "{{ bos_token }}{% for m in messages %}{% set c = '<|start|>' + m['role'] + '<|end|>\n\n' + (m['content'] | string | trim) + eos_token %}"
    "{% if loop.index0 == 0 %}{% set c = '!' + c %}{% endif %}{{ c }}{% endfor %}",
    "blocks": "  {% for m in messages %}\n    {% if m.role == 'user' %}\n  U: {{ m.content }}\n    {% elif m.role == 'system' %}\nS\n    {% endif %}\n  {% endfor %}\nend\n",
    "alternate": "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{{ m['content'] }}{% endfor %}",
    "thinking": "{%- set ns = namespace(last=messages|length - 1, found=false) %}{%- for m in messages[::-1] %}{%- set index = messages|length - 1 - loop.index0 %}"
    "{%- if not ns.found and m.role == 'user' %}{%- set ns.last = index %}{%- set ns.found = true %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' and m.content is string and '</think>' in m.content %}"
    "{{- m.content.split('</think>')[-1].lstrip('\\n') }}{%- else %}{{- m.role ~ ':' ~ m.content }}{%- endif %}{%- endfor %}{{ ns.last }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{%- endif %}",
    "tools": "{% if tools %}# Tools\n{% for tool in tools %}{{ tool | tojson }}\n{{ tool.function | tojson(indent=2) }}\n{% endfor %}{% endif %}"
    "{% for m in messages %}{% if m.tool_calls %}{% for call in m.tool_calls %}{%- if call.function %}{% set call = call.function %}{% endif %}"
    "<tool_call>{\"name\": {{ call.name | tojson }}, \"arguments\": {{ call.arguments | tojson }}}</tool_call>{% endfor %}"
    "{% else %}{{ m.role }}: {{ m.content }}{% endif %}{% endfor %}",
    "parts": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% elif m.content is iterable and m.content is not mapping %}"
    "{% for part in m.content | selectattr('type', 'equalto', 'text') %}[{{ part['text'] }}]{% endfor %}{% endif %}{% endfor %}",
    "loops": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role | upper }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "macros": "{%- macro show(value, depth=0) -%}{%- if value is mapping -%}{% for k, v in value | dictsort %}{{ '  ' * depth }}{{ k }}={{ show(v, depth + 1) }};{% endfor %}"
    "{%- elif value is iterable and value is not string -%}{{ value | join(', ') }}{%- else -%}{{ value }}{%- endif -%}{%- endmacro -%}"
    "{% for m in messages %}{{ show(m) }}\n{% endfor %}",
    "filters": "{% for m in messages %}{{ m | items | list | length }} {{ m.content | default('', true) | string | replace('a', 'b') | indent(2) }} "
    "{{ '%s|%03d' | format(m.role, loop.index) }} {{ [1, 2, 3] | sum ** 2 }} {{ 7 * 6 }} {{ 'ab' * 3 }} {{ range(3) | list }}\n{% endfor %}",
    "date": "{{ strftime_now('%Y') }} {{ '\\u4e2d' }} {{ messages | length }} {%- set x %}kept{% endset %}{{ x }}",
    "undefined": "{{ nothing }}{{ messages[0].nothing }}{{ bos_token }}{{ 'x' if nothing is defined else 'y' }}",
}  # fmt: skip


def outcome(render: Any) -> tuple[str, str]:
    try:
        return "text", render()
    except Exception as error:
        return "error", type(error).__name__ if not isinstance(error, SampleError) else "refused"


def compare(tokenizer: Any, conversation: Any, **options: Any) -> str:
    """Asserts that our rendering is transformers' own; returns the kind of outcome."""
    theirs = outcome(lambda: tokenizer.apply_chat_template(conversation, tokenize=False, **options))
    ours = outcome(lambda: render_chat(tokenizer, conversation, "x", **options))
    assert ours == (theirs if theirs[0] == "text" else ("error", "refused"))
    return ours[0]


def test_06_honest_templates_render_as_in_transformers() -> None:
    tokenizer, texts = build.tokenizer(), 0
    for template in TEMPLATES.values():
        tokenizer.chat_template = template
        for talk in (TALK, TALK[1:], TALK[1:2], PARTS, CALLS):
            for options in (
                {},
                {"add_generation_prompt": True},
                {"tools": TOOLS},
                {"enable_thinking": False},
            ):
                texts += compare(tokenizer, talk, **options) == "text"
    assert texts > 200
    tokenizer.chat_template = TEMPLATES["chatml"]
    assert compare(tokenizer, TALK[:3], continue_final_message=True) == "text"
    tokenizer.chat_template = {"default": TEMPLATES["chatml"], "tool_use": TEMPLATES["tools"]}
    assert compare(tokenizer, TALK, tools=TOOLS) == compare(tokenizer, TALK) == "text"


def test_06_recorded_templates_render_as_in_transformers(shared: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    rendered = 0
    for file in sorted((shared / "goldens").glob("*/tokenizer.json")):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent)
        if tokenizer.chat_template:
            for talk in (TALK, TALK[1:2]):
                rendered += compare(tokenizer, talk, add_generation_prompt=True) == "text"
    if not rendered:
        pytest.skip("no recorded checkpoint has a chat template")


GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x }}"
HOSTILE = {
    "{{ 10**(10**8) }}": "too much",
    "{% for i in range(10**9) %}{% endfor %}": "too much",
    "{{ 'x' * 10**10 }}{{ [1] * 10**10 }}": "too much",
    "{{ '%99999999999d'|format(1) }}": "MiB",
    "{{ '{:>99999999999}'.format(1) }}": "MiB",
    "{{ 'x'|center(10**10) }}": "MiB",
    "{{ 'x'.ljust(10**10) }}": "MiB",
    "{{ 'x\nx'|indent(10**10) }}": "MiB",
    "{{ range(9)|batch(10**10, 1)|list }}": "MiB",
    "{{ ('x' * 999999).replace('x', 'y' * 99999) }}": "MiB",
    "{{ range(99999)|join('y' * 99999) }}": "MiB",
    GROW.replace("START", "'x'").replace("STEP", "ns.x ~ ns.x"): "MiB",
    "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}": "MiB",
    "{% macro f(n) %}{{ f(n) ~ f(n) }}{% endmacro %}{{ f(1) }}": "deeply",
    "{{ " + "[" * 20_000 + "]" * 20_000 + " }}": "deeply",
    "{{ 1 }}" + " " * 2**20: "characters",
}


def test_06_a_template_that_refuses_at_length_is_cut() -> None:
    tokenizer = build.tokenizer()
    tokenizer.chat_template = "{{ raise_exception('x' * 10000000) }}"
    with pytest.raises(SampleError, match="refuses the conversation: xxx") as caught:
        render_chat(tokenizer, TALK, "org/model")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("template", HOSTILE)
def test_06_a_template_that_asks_for_too_much_is_one_line(template: str) -> None:
    tokenizer = build.tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(UserError) as caught:
        render_chat(tokenizer, TALK, "org/model")
    line = str(caught.value)
    assert (
        "the chat template of 'org/model'" in line
        and HOSTILE[template] in line
        and "\n" not in line
    )


@pytest.mark.parametrize(
    "template",
    [
        # each takes the 5 s that it is allowed; the other one is a single call, which is harder to end
        pytest.param(
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            marks=pytest.mark.full,
        ),
        GROW.replace("START", "[1]").replace("STEP", "[ns.x, ns.x]").replace("{{ ns.x }}", "{{ ns.x == ns.x }}{{ ns.x }}"),
    ],
)  # fmt: skip
def test_06_an_endless_template_is_ended_in_any_thread(template: str) -> None:
    model = build.tokenizer()
    model.chat_template = template
    said: list[str] = []

    def render() -> None:
        try:
            render_chat(model, TALK, "org/model")
        except UserError as error:
            said.append(str(error))

    thread = threading.Thread(target=render)
    thread.start()
    thread.join(120)
    assert said == [
        "the chat template of 'org/model' takes more than 5 s of processor time; it was ended: mend its chat_template"
    ]
    model.chat_template = build.CHAT  # the next one starts anew
    assert render_chat(model, TALK[:1], "x") == "<|bos|>[system] Be  brief.\n\n"


def test_a_renderer_that_was_killed_between_two_conversations_is_no_templates_fault() -> None:
    model = build.tokenizer(chat=True)
    before = render_chat(model, TALK, "x")
    (renderer,) = (
        pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if b"\0dlm_eval.models.chat\0" in _command_line(pid) and _parent(pid) == os.getpid()
    )  # fmt: skip
    os.kill(renderer, signal.SIGKILL)
    os.waitid(os.P_PID, renderer, os.WEXITED | os.WNOWAIT)
    assert render_chat(model, TALK, "x") == before


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return b""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.full  # half a minute or more
def test_06_a_run_over_workers_ends_with_one_line(tmp_path: Path) -> None:
    folder = build.llada(tmp_path / "llada", chat=True)[0]
    (folder / "chat_template.jinja").write_text("{{ 10**(10**8) }}")
    arguments = [
        "--model",
        "llada",
        "--model_args",
        f"pretrained={folder}",
        "--tasks",
        "t_write",
        "--devices",
        "cpu:2",
    ]
    (tmp_path / "tasks").mkdir()
    command = [sys.executable, "-m", "dlm_eval", *arguments, "--apply_chat_template"]
    done = subprocess.run(
        [*command, "--include_path", str(write_tasks(tmp_path / "tasks"))],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the chat template of 'llada' asks for too much" in done.stderr.strip().splitlines()[-1]


def test_06_models_of_lm_eval_render_bounded_too() -> None:
    from types import SimpleNamespace

    from jinja2 import TemplateError

    from dlm_eval.harness.lm_eval_patches import bounded_chat_template

    lm = SimpleNamespace(tokenizer=build.tokenizer(chat=True))
    expected = lm.tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    bounded_chat_template(lm, "org/model")
    options = {"tokenize": False, "add_generation_prompt": True, "continue_final_message": False}
    assert lm.tokenizer.apply_chat_template(TALK, **options) == expected
    lm.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    # for which lm-eval leaves the system message out
    with pytest.raises(TemplateError, match="System role not supported"):
        lm.tokenizer.apply_chat_template(TALK, **options)
    lm.tokenizer.chat_template = "{{ 10**(10**8) }}"
    with pytest.raises(UserError, match="the chat template of 'org/model' asks for too much"):
        lm.tokenizer.apply_chat_template(TALK, **options)
    lm.tokenizer.chat_template = {"other": "x"}
    with pytest.raises(UserError, match="'org/model': This model has multiple chat templates"):
        lm.tokenizer.apply_chat_template(TALK, **options)
    bounded_chat_template(SimpleNamespace(), "an API has no tokenizer of transformers'")


# -- weights ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build.llada(tmp_path / "llada")[0]


def refusal(name: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        load_model(name, device="cpu", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def write_header(
    file: Path, header: Any, data: bytes = b"\0" * 64, length: int | None = None
) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64], **changes}}


@pytest.mark.parametrize("length", [2**62, 2**64 - 1, 10**8 + 1, 10**6])
def test_06_a_header_longer_than_its_file(folder: Path, length: int) -> None:
    write_header(folder / "model.safetensors", tensor(), length=length)
    assert "pretrained 'llada': model.safetensors is not a safetensors file: it has" in refusal(
        "llada", pretrained=folder
    )


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"{", "header is broken"),
        (b"[" * 100_000, "header is broken"),
        (b"[]", "no JSON object"),
        (b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": {}}', "is in it twice"),
        ({"a": 3}, "tensor 'a' is not in it"),
        (tensor(shape=[-1]), "tensor 'a' is not in it"),
        (tensor(shape=[2**63]), "tensor 'a' is not in it"),
        (tensor(shape=[1.5]), "tensor 'a' is not in it"),
        (tensor(data_offsets=[-8, 8]), "tensor 'a' is not in it"),
        (tensor(data_offsets=[8, 4]), "tensor 'a' is not in it"),
        (tensor(data_offsets=[0, 2**62]), "tensor 'a' is not in it"),
        (tensor(dtype=None), "tensor 'a' is not in it"),
        (tensor(dtype="F33"), "pretrained 'llada'"),
        (tensor(shape=[2**60]), "pretrained 'llada'"),
        ({**tensor(), "b": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}, "pretrained 'llada'"),
    ],
)  # fmt: skip
def test_06_a_header_that_is_wrong(folder: Path, header: Any, told: str) -> None:
    write_header(folder / "model.safetensors", header)
    assert told in refusal("llada", pretrained=folder)


def test_06_weights_that_are_no_files_or_lie_elsewhere(folder: Path) -> None:
    weights = folder / "model.safetensors"
    shutil.copy(weights, folder / "again.safetensors")
    twice = {"metadata": {}, "weight_map": {"a": "again.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(twice))
    assert "is in two files, again.safetensors and model.safetensors" in refusal(
        "llada", pretrained=folder
    )
    for name in ("again.safetensors", "model.safetensors.index.json"):
        (folder / name).unlink()
    moved = weights.rename(folder.parent / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../outside.safetensors"}}
    weights.symlink_to(moved)  # as in the hub's cache
    assert load_model("llada", pretrained=folder, device="cpu").vocab_size == build.VOCAB
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names '../outside.safetensors', which is no file beside it" in refusal(
        "llada", pretrained=folder
    )
    (folder / "model.safetensors.index.json").unlink()
    weights.unlink()
    os.mkfifo(weights)  # to open it would wait for ever
    assert "has no weights" in refusal("llada", pretrained=folder)


def test_06_a_sparse_file_of_terabytes_takes_no_memory(folder: Path) -> None:
    header = {
        "model.transformer.wte.weight": {
            "dtype": "F32",
            "shape": [2**32, 256],
            "data_offsets": [0, 2**42],
        }
    }
    write_header(folder / "model.safetensors", header, b"")
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size + 2**42)
    assert "its weights take 4096.0 GiB in float32, cpu has" in refusal("llada", pretrained=folder)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"n_layers": 10**12}, "config.json has n_layers 1000000000000; it must be a whole number from 1 to 10000"),
        ({"n_layers": 9999}, "describes a network of more than"),
        ({"vocab_size": 2**31, "embedding_size": 2**31}, "describes a network of more than"),
        ({"d_model": 2**30}, "describes a network of more than"),
        ({"mlp_hidden_size": 10**8}, "describes a network of more than"),
        ({"d_model": 64}, "does not fit its config"),
        ({"n_layers": -1}, "n_layers -1"),
        ({"n_layers": 2.0}, "n_layers 2.0"),
        ({"n_layers": "2"}, "n_layers '2'"),
        ({"n_layers": True}, "n_layers True"),
        ({"n_layers": None}, "lacks n_layers"),
        ({"d_model": float("nan")}, "d_model nan"),
        ({"d_model": 0}, "d_model 0"),
        ({"n_heads": 7}, "llada"),
        ({"max_sequence_length": 10**12}, "max_sequence_length 1000000000000"),
        ({"eos_token_id": "x"}, "eos_token_id x; it must be the number of a token"),
        ({"eos_token_id": [[1]]}, "eos_token_id [1]"),
        ({"mask_token_id": 10**12}, "mask_token_id 1000000000000"),
        ({"mask_token_id": {}}, "llada"),
        ({"dtype": 5}, "config.json has dtype 5"),
        ({"text_config": {"num_experts": -5}}, "num_experts -5"),
        ({"_attn_implementation": "org/kernel"}, "code from elsewhere"),
    ],
)  # fmt: skip
def test_06_a_config_that_no_network_has(folder: Path, entries: dict[str, Any], told: str) -> None:
    change(folder / "config.json", **entries)
    start = time.process_time()
    assert told in refusal("llada", pretrained=folder)
    assert time.process_time() - start < 60  # a bound, no timing: unbounded, it is hours


@pytest.mark.parametrize("family", ["mdlm", "sedd"])
def test_06_networks_of_ours_are_bounded_too(shared: Path, tmp_path: Path, family: str) -> None:
    copy = tmp_path / family
    shutil.copytree(shared / "goldens" / family, copy)
    config = json.loads((copy / "config.json").read_text())
    (config["model"] if family == "sedd" else config)["n_blocks"] = 5000
    (copy / "config.json").write_text(json.dumps(config))
    assert "describes a network of more than" in refusal(family, pretrained=copy)


def test_06_every_published_size_is_allowed() -> None:
    largest = {
        "num_hidden_layers": 126,
        "hidden_size": 16384,
        "vocab_size": 262144,
        "num_experts": 512,
        "head_dim": 256,
    }
    config_tables.check_config(
        {**largest, "max_position_embeddings": 10_485_760, "eos_token_id": [1, 2], "layers": ["a"]},
        "x",
    )
    for key in largest:  # and each bound is one
        with pytest.raises(UserError, match=key):
            config_tables.check_config({**largest, key: 10**6 * largest[key]}, "x")


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_06_json_that_is_deep_or_huge(folder: Path, name: str) -> None:
    (folder / name).write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "llada" in refusal("llada", pretrained=folder)
    with (folder / name).open("wb") as stream:
        stream.truncate(2**30)
    assert "more than 16 MiB" in refusal("llada", pretrained=folder)


def test_06_a_tokenizer_that_backtracks_costs_one_sample(folder: Path) -> None:
    file = folder / "tokenizer.json"
    split = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    change(file, pre_tokenizer=split)
    model = load_model("llada", pretrained=folder, device="cpu")
    with pytest.raises(SampleError, match="the tokenizer of 'llada' gives up on the text"):
        model.encode("a" * 50 + "!b")
    with file.open("wb") as stream:
        stream.truncate(2**29)
    assert "tokenizer.json has more than 256 MiB" in refusal("llada", pretrained=folder)


# -- nothing of a checkpoint runs ------------------------------------------------------------------


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


def test_06_no_pickle_of_a_checkpoint_is_unpickled(folder: Path, tmp_path: Path) -> None:
    song = tmp_path / "sung"
    names = [
        "training_args.bin",
        "optimizer.pt",
        "vocab.pkl",
        "tokenizer.pkl",
        "model.npy",
        "scheduler.pt",
        "quant.bin",
    ]
    for name in ["added_tokens.pickle", "rng_state.pth", "adapter_model.bin", *names]:
        (folder / name).write_bytes(pickle.dumps(Canary(song)))
    assert load_model("llada", pretrained=folder, device="cpu").vocab_size == build.VOCAB
    (folder / "model.safetensors").unlink()
    for family, save in (
        ("llada", torch.save),
        ("llada", pickle.dump),
        ("smdm", torch.save),
        ("mdlm", torch.save),
    ):
        with (folder / "pytorch_model.bin").open("wb") as stream:
            save({"model.transformer.ln_f.weight": Canary(song)}, stream)
        if family != "llada":
            shutil.copytree(folder, tmp_path / family)
            more = {
                "n_layer": 1,
                "n_head": 1,
                "n_embd": 32,
                "intermediate_size": 8,
                "block_size": 8,
                "model_type": family,
            }
            sizes_of = {
                "hidden_dim": 32,
                "cond_dim": 8,
                "n_blocks": 1,
                "n_heads": 1,
                "model_length": 8,
            }
            change(tmp_path / family / "config.json", **more, **sizes_of)
        assert "pretrained" in refusal(
            family, pretrained=folder if family == "llada" else tmp_path / family
        )
    assert not song.exists()
    pickle.loads(pickle.dumps(Canary(song)))
    assert song.exists()  # the bird can sing


def test_06_no_code_of_a_checkpoint_runs(folder: Path, tmp_path: Path) -> None:
    from dlm_eval.metrics.samples import find_judge

    song = tmp_path / "sung"
    (folder / "evil.py").write_text(f"open({str(song)!r}, 'w')\nclass Evil: pass\n")
    mapped = {
        name: "evil.Evil"
        for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM")
    }
    tokens = {"AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoProcessor": "evil.Evil"}
    change(folder / "config.json", auto_map={**mapped, **tokens}, trust_remote_code=True)
    change(
        folder / "tokenizer_config.json",
        auto_map=tokens,
        tokenizer_class="Evil",
        trust_remote_code=True,
    )
    assert load_model("llada", pretrained=folder, device="cpu").vocab_size == build.VOCAB
    assert "generic" in refusal("generic", pretrained=folder) or not song.exists()
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer that can be read" in refusal("llada", pretrained=folder)
    with pytest.raises(UserError):
        find_judge(str(folder))
    assert not song.exists()


# -- adapters --------------------------------------------------------------------------------------


@pytest.fixture
def adapter(folder: Path, tmp_path: Path) -> Path:
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    peft.get_peft_model(build.llama(), lora).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_06_adapters_are_weights_alone(folder: Path, adapter: Path, tmp_path: Path) -> None:
    config, song = adapter / "adapter_config.json", tmp_path / "sung"
    change(
        config,
        base_model_name_or_path="/nowhere/at/all",
        auto_mapping={"base_model_class": "E", "parent_library": "e"},
    )
    assert (
        load_model("llada", pretrained=folder, peft=str(adapter), device="cpu").describe()["peft"]
        == "adapter"
    )
    original = config.read_text()
    for entries, told in [
        (
            {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
            "only LORA can be merged",
        ),
        (
            {"megatron_config": {"a": 1}, "megatron_core": "evil"},
            "has megatron_config, which is not run",
        ),
        ({"target_modules": "(a+)+$"}, "can run for ever"),
        ({"rank_pattern": {"(x|x)*y": 2}}, "can run for ever"),
        ({"target_modules": "("}, "can run for ever"),
        ({"r": 10**9}, "rank 1000000000 is not possible"),
        ({"r": 60_000, "target_modules": ["q_proj"] * 3}, "model_args peft 'adapter'"),
        ({"r": "2"}, "rank 2 is not possible"),
        ({"target_modules": ["nothing"]}, "model_args peft 'adapter'"),
        ({"target_modules": ["k_proj"]}, "model_args peft 'adapter' lacks weights"),
    ]:
        change(config, **entries)
        assert told in refusal("llada", pretrained=folder, peft=str(adapter))
        config.write_text(original)
    write_header(adapter / "adapter_model.safetensors", b"{}", length=2**62)
    assert "is not a safetensors file" in refusal("llada", pretrained=folder, peft=str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Canary(song)))
    assert "adapter_model.bin is a pickle" in refusal("llada", pretrained=folder, peft=str(adapter))
    assert not song.exists()


def test_06_patterns_that_explode() -> None:
    for bad in ("(a+)+", "(a|a)*", "(?:x*)*y", "((ab)?c*){5,}", "(?=(a+)+)b", "("):
        assert explodes(bad)
    honest = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:k_proj|v_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.up)"
    for good in ("q_proj", r".*\.(q|k|v)_proj", r"^model\.layers\.\d+\.mlp$", "all-linear", honest):
        assert not explodes(good)


# -- tasks -----------------------------------------------------------------------------------------

SLOW_FILTER = """
filter_list:
  - name: slow
    filter: [{function: custom, filter_fn: !function slow.pick}]
  - name: plain
    filter: [{function: take_first}]
"""
SLOW = """
import re

def pick(resps, docs):
    for answers, doc in zip(resps, docs):
        if doc["text"] in ("fab", "cabbage", "abcab"):
            re.search("(a+)+$", "a" * 60 + "b")
        yield answers[0]
"""
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_06_a_filter_that_backtracks_costs_its_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_errors, "FILTER_SECONDS", 0.5)
    monkeypatch.setattr(sample_errors, "MOST_SLOW", 2)
    file = write_tasks(tmp_path) / "t_write.yaml"
    file.write_text(file.read_text() + SLOW_FILTER)
    (tmp_path / "slow.py").write_text(SLOW)
    results = evaluate("toy", ["t_write"], include_path=str(tmp_path))
    errors = {
        line["doc"]["text"]: line["error"]
        for line in results["samples"]["t_write"]
        if "error" in line
    }
    assert (
        "filter 'slow' failed: TooSlow: it took more than" in errors["abcab"]
        and "was ended" in errors["fab"]
    )
    assert "it was ended on 2 answers and not tried on this one" in errors["cabbage"]
    assert results["results"]["t_write"].keys() >= {"exact_match,slow", "exact_match,plain"}


def test_06_a_prompt_that_never_ends_costs_one_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_errors, "PROMPT_SECONDS", 0.5)
    file = write_tasks(tmp_path) / "t_write.yaml"
    endless = "{% if text == 'fab' %}" + ENDLESS + "{% endif %}{{text}}"
    file.write_text(
        file.read_text().replace('doc_to_text: "{{text}}"', f'doc_to_text: "{endless}"')
    )
    assert endless in file.read_text()
    lines = evaluate("toy", ["t_write"], include_path=str(tmp_path))["samples"]["t_write"]
    assert [line["doc"]["text"] for line in lines if "error" in line] == ["fab"] and len(
        lines
    ) == len(DOCUMENTS)
    assert any("and was ended" in line.get("error", "") for line in lines)


def test_06_a_prompt_with_half_of_a_surrogate_pair_costs_one_sample(tmp_path: Path) -> None:
    file = write_tasks(tmp_path) / "t_write.yaml"
    half = "{{ '\\\\ud800' if text == 'fab' else text }}"
    file.write_text(file.read_text().replace('doc_to_text: "{{text}}"', f'doc_to_text: "{half}"'))
    assert "ud800" in file.read_text()
    lines = evaluate("toy", ["t_write"], include_path=str(tmp_path))["samples"]["t_write"]
    assert [line["doc"]["text"] for line in lines if "error" in line] == ["fab"] and len(
        lines
    ) == len(DOCUMENTS)
    assert any("surrogate" in line.get("error", "") for line in lines)


def test_06_a_template_that_never_ends_while_its_task_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm_eval.harness import tasks

    monkeypatch.setattr(sample_errors, "PROMPT_SECONDS", 0.5)
    file = write_tasks(tmp_path) / "t_write.yaml"
    file.write_text(
        file.read_text().replace('doc_to_text: "{{text}}"', f'doc_to_text: "{ENDLESS}"')
    )
    with pytest.raises(UserError, match="task 't_write'.*a template took more than") as caught:
        tasks.load_tasks(["t_write"], include_path=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "documents.jsonl is nested too deeply to be read"),
        (b'{"text": \n' + b"[\n" * 100_000 + b"]\n" * 100_000 + b"}\n", "documents.jsonl is nested too deeply to be read"),
        (b'{"text": ' + b'{"a":' * 100_000, "documents.jsonl is nested too deeply to be read"),
        (b"\x00\xff" * 1000, "t_write"),
        (b"[]\n3\n", "t_write"),
    ],
)  # fmt: skip
def test_06_hostile_documents_are_one_line(tmp_path: Path, content: bytes, told: str) -> None:
    from dlm_eval.harness.tasks import load_tasks

    write_tasks(tmp_path)
    (tmp_path / "documents.jsonl").write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_tasks(["t_write"], include_path=str(tmp_path))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_06_the_limit_is_processor_time_and_leaves_no_trace() -> None:
    import re
    import signal

    def left_behind(*_: Any) -> None:
        """As scorers of lm-eval leave theirs."""

    before = signal.signal(signal.SIGALRM, left_behind)
    with (
        pytest.raises(sample_errors.TooSlow, match="it took more than 0 s"),
        sample_errors.time_limit("it", 0.3),
    ):
        re.search("(a+)+$", "a" * 60 + "b")
    with sample_errors.time_limit("it", 0.2):
        time.sleep(0.6)  # waiting is no work
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.signal(signal.SIGALRM, before) is left_behind


# -- all together ----------------------------------------------------------------------------------


def fuzz(*arguments: str) -> dict[str, int]:
    script = Path(__file__).with_name("fuzz_checkpoints.py")
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_06_damaged_checkpoints_load_or_are_refused_in_one_line() -> None:
    counts = fuzz("--count", "20", "--seed", "0")
    assert counts["surprises"] == 0 and counts["loaded"] > 0 and counts["refused"] > 5


@pytest.mark.full
def test_06_many_damaged_checkpoints(shared: Path) -> None:
    counts = fuzz("--count", "600", "--seed", "1", "--goldens", str(shared / "goldens"))
    assert counts["surprises"] == 0 and counts["loaded"] > 50 and counts["refused"] > 200


def test_06_a_local_folder_is_found_by_its_name(folder: Path) -> None:
    held = locate(str(folder)).holds()
    state = load_file(folder / "model.safetensors")
    assert (held.tensors, held.elements) == (
        len(state),
        sum(value.numel() for value in state.values()),
    )
    save_file(state, folder / "model.safetensors")
    assert locate(str(folder)).holds() == held or held.bytes > 0
