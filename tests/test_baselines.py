"""lm-eval's own models: nothing is computed or paid twice, in one process, in workers, and over an API."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import DOCUMENTS, write_tasks
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.dummy import DummyLM
from lm_eval.models.huggingface import HFLM
from requests import HTTPError, Response

from dlm_eval.answers import is_reply
from dlm_eval.cli import main
from dlm_eval.errors import RunError
from dlm_eval.harness.baseline import Baseline
from dlm_eval.harness.run_settings import run_settings
from dlm_eval.jobs import Answer, Job, Reply, TextJob
from dlm_eval.models import packaged_asset
from dlm_eval.workers.texts import TextModel, identity_of, reports_answers

TASKS = ("t_choice", "t_last", "t_write", "t_roll", "t_infill")
KEY = "sk-abcdefghij0123456789"
SAMPLED = """
task: t_sampled
include: t_write.yaml
repeats: 3
generation_kwargs: {until: ["zz"], max_gen_toks: 12, do_sample: true, temperature: 1.0}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of every kind on 12 documents with different prompts."""
    folder = tmp_path_factory.mktemp("tasks")
    documents = [{**doc, "text": doc["text"] + end} for end in ("", "e", "fa") for doc in DOCUMENTS]
    write_tasks(folder, documents[:12])
    (folder / "t_sampled.yaml").write_text(SAMPLED)
    return folder


def words(tasks: Path, home: Path, *more: str, model: str = "tiny-ar") -> list[str]:
    return ["--model", model, "--include_path", str(tasks), "--output_path", str(home), *more]


def samples(home: Path) -> dict[str, Any]:
    """Returns the samples and scores of the last run without seconds."""
    results = json.loads(sorted(home.rglob("results_*.json"))[-1].read_text())
    found: dict[str, Any] = {"results": results["results"], "config": results["config"]}
    for task in results["configs"]:
        lines = sorted(home.rglob(f"samples_{task}_*.jsonl"))[-1].read_text().splitlines()
        found[task] = [{**json.loads(line), "seconds": 0} for line in lines]
    return found


def block(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sorted(home.rglob("results_*.json"))[-1].read_text())
    return dict(found["dlm_eval"])


def stored(home: Path) -> dict[str, float]:
    """Returns key -> time of the answers on disk."""
    try:
        with closing(sqlite3.connect(f"file:{home}/journal.sqlite?mode=ro", uri=True)) as journal:
            return dict(journal.execute("SELECT key, time FROM answers").fetchall())
    except sqlite3.Error:
        return {}


# -- in this process, in workers, killed -----------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("undisturbed")
    assert main(words(tasks, home, "--tasks", ",".join(TASKS))) == 0
    return home


def start(tasks: Path, home: Path, *more: str) -> subprocess.Popen[str]:
    run = words(tasks, home, "--tasks", ",".join(TASKS), *more)
    return subprocess.Popen(
        [sys.executable, "-m", "dlm_eval", *run],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_5_the_journal_knows_every_answer_and_scores_without_weights(
    tasks: Path,
    undisturbed: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, kept = samples(undisturbed), stored(undisturbed)
    # choices, words, texts to write and to score, holes; equal requests share an answer
    assert len(kept) == 12 * (3 + 1 + 1 + 1 + 1)
    monkeypatch.setattr(HFLM, "_create_model", None)  # weights cannot be loaded
    run = words(tasks, undisturbed, "--tasks", ",".join(TASKS), "--score_only")
    capsys.readouterr()
    assert main(run) == 0
    assert "100% from journal (48)" in capsys.readouterr().err
    assert samples(undisturbed) == before and stored(undisturbed) == kept
    cost = block(undisturbed)["cost"]["t_write"]
    assert cost["requests"] == 12 and cost["seconds"] > 0 and cost["tokens"] > 0
    assert "forwards" not in cost


def test_5_two_workers_of_which_one_is_killed_give_one_process_answers(
    tasks: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        while not stored(tmp_path):
            time.sleep(0.02)
        killed.extend(workers_of(os.getpid())[:1])
        os.kill(killed[0], signal.SIGKILL)

    threading.Thread(target=kill_one, daemon=True).start()
    code = main(words(tasks, tmp_path, "--tasks", ",".join(TASKS), "--devices", "cpu:2"))
    errors = capfd.readouterr().err
    assert code == 0 and killed, errors
    assert "was ended by SIGKILL" in errors and "it/s]" not in errors
    assert samples(tmp_path) == samples(undisturbed)
    assert stored(tmp_path).keys() == stored(undisturbed).keys()
    assert "cpu:" in block(tmp_path)["environment"]["device"]


def workers_of(driver: int) -> list[int]:
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return [
        int(child)
        for child in children
        if b"dlm_eval.workers.local" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


@pytest.mark.full  # the quick suite kills a worker, and lets an API fail, above and below
def test_5_a_killed_run_goes_on_from_its_answers(
    tasks: Path, undisturbed: Path, tmp_path: Path
) -> None:
    process = start(tasks, tmp_path)
    while process.poll() is None and not stored(tmp_path):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    kept = stored(tmp_path)
    assert kept
    assert main(words(tasks, tmp_path, "--tasks", ",".join(TASKS))) == 0
    assert kept.items() <= stored(tmp_path).items()  # their times: none is written again
    assert samples(tmp_path) == samples(undisturbed)


def test_5_shards_merge_to_one_runs_result(tasks: Path, undisturbed: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        run = words(tasks, tmp_path, "--tasks", ",".join(TASKS), "--shard", f"{number}/2")
        assert main(run) == 0
    assert main(["merge", str(tmp_path), "--include_path", str(tasks)]) == 0
    assert samples(tmp_path) == samples(undisturbed)


def test_5_sampled_answers_are_drawn_for_each_repeat_and_kept(tasks: Path, tmp_path: Path) -> None:
    run = words(tasks, tmp_path, "--tasks", "t_sampled", "--limit", "3")
    assert main(run) == 0
    before = samples(tmp_path)
    answers = [tuple(sample["resps"][0]) for sample in before["t_sampled"]]
    assert len(stored(tmp_path)) == 9 and all(len(set(three)) > 1 for three in answers)
    assert main(run) == 0 and samples(tmp_path) == before
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal:
        journal.execute("DELETE FROM answers WHERE rowid % 3 = 0")
        journal.commit()
    assert main(run) == 0
    again = [tuple(sample["resps"][0]) for sample in samples(tmp_path)["t_sampled"]]
    # the answers drawn anew are not those that the first run drew from the same seed
    assert sum(a != b for one, other in zip(answers, again, strict=True) for a, b in zip(one, other, strict=True)) == 3  # fmt: skip
    assert main([*run, "--no_resume"]) == 0


def test_5_a_model_is_its_content_and_its_arguments_but_not_its_place(tmp_path: Path) -> None:
    def fingerprint(model: str = "hf", /, **given: Any) -> str:
        settings = {"model": model, "tasks": "t_write", "model_args": given}
        return Baseline.of(run_settings(settings)).fingerprint

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    one = fingerprint(pretrained=str(tmp_path / "a"))
    assert one == fingerprint(pretrained=str(tmp_path / "b"), batch_size=8, device="cpu")
    (tmp_path / "b" / "config.json").write_text('{"a": 1}')
    changed = [
        fingerprint(pretrained=str(tmp_path / "b")),
        fingerprint(pretrained=str(tmp_path / "a"), dtype="float16"),
        fingerprint("hf-audiolm-qwen", pretrained=str(tmp_path / "a")),
        fingerprint(pretrained="gpt2"),
    ]
    assert len({one, *changed}) == 5
    api = {"model": "m", "base_url": "http://localhost:1/v1/completions"}
    first = fingerprint("local-completions", auth_token=KEY, num_concurrent=4, **api)
    assert first == fingerprint("local-completions", auth_token="sk-other0123456789", **api)
    assert first != fingerprint("local-completions", **{**api, "model": "n"})


def test_5_remote_models_are_known_by_their_class() -> None:
    remote = [
        "local-completions",
        "litellm",
        "anthropic-completions",
        "gguf",
        "textsynth",
        "watsonx_llm",
    ]
    local = [
        "hf",
        "mamba_ssm",
        "steered",
        "nemo_lm",
        "megatron_lm",
        "onnxruntime",
        "trtllm",
        "sglang",
    ]
    found = {name: Baseline(name, name, {}, {}, "").is_remote for name in [*remote, *local]}
    assert found == {**dict.fromkeys(remote, True), **dict.fromkeys(local, False)}


def test_5_a_driver_of_workers_holds_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # lm-eval moves the model to a GPU
    settings = run_settings({"model": "tiny-ar", "tasks": "t_write"})
    lm = Baseline.of(settings, "cpu").load_without_weights()
    assert {parameter.device.type for parameter in lm.model.parameters()} == {"meta"}
    assert lm.tok_encode("a b") and lm.max_length == 256
    assert lm.get_model_info()["model_dtype"].is_floating_point


# -- a model's calls -------------------------------------------------------------------------------


class Counting(LM):  # type: ignore[misc]
    """Answers in the order of length, longest first; refuses some texts."""

    def __init__(self, refused: Sequence[str] = (), reports: bool = True) -> None:
        super().__init__()
        self.refused, self.reports, self.asked = refused, reports, Counter[str]()
        self.calls = 0

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.calls += 1
        found = {}
        for request in sorted(requests, key=lambda one: -len(one.args[0])):
            text = request.args[0]
            self.asked[text] += 1
            if text in self.refused:
                raise ValueError(f"no {text}")
            found[id(request)] = text.upper()
            if self.reports:
                self.cache_hook.add_partial("generate_until", request.args, text.upper())
        return [found[id(request)] for request in requests]

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError("no likelihood")

    def loglikelihood_rolling(self, requests: Any) -> Any:
        return [-float(len(request.args[0])) for request in requests]


def text_jobs(texts: Sequence[str], kind: str = "generate_until") -> list[TextJob]:
    arguments = [(text, {"until": []}) if kind == "generate_until" else (text,) for text in texts]
    return [TextJob(kind, one, identity_of(kind, one), "", len(one[0])) for one in arguments]


def answered(lm: LM, jobs: Sequence[Job], **options: Any) -> dict[int, Answer]:
    found: dict[int, Answer] = {}
    TextModel(lm, **options).drive(enumerate(jobs), found.__setitem__)
    return found


def test_5_models_that_report_are_asked_at_once_others_in_groups() -> None:
    assert reports_answers(HFLM.__new__(HFLM)) and not reports_answers(DummyLM())
    lm = Counting()
    found = answered(lm, text_jobs([f"text {n}" for n in range(20)]))
    assert lm.calls == 1 and found[7] == Answer(Reply("TEXT 7"), None, 0, found[7].seconds)
    dummy, calls = DummyLM(), []
    ask = dummy.generate_until
    dummy.generate_until = lambda requests: calls.append(len(requests)) or ask(requests)
    assert len(answered(dummy, text_jobs(["a", "b", "c", "d", "e"]), batch=2)) == 5
    assert calls == [2, 2, 1]


def test_5_a_whole_text_is_reported_by_itself() -> None:
    found = answered(Counting(), text_jobs(["a", "bb"], "loglikelihood_rolling"))
    assert [found[n].value for n in (0, 1)] == [Reply(-1.0), Reply(-2.0)]


@pytest.mark.parametrize("place", [0, 1, 21, 39])
def test_5_a_request_that_a_model_refuses_fails_alone(place: int) -> None:
    texts = ["x" * (n + 1) for n in range(40)]
    lm = Counting(refused=[texts[place]])
    found = answered(lm, text_jobs(texts))
    assert {n for n, answer in found.items() if answer.error} == {place}
    assert found[place].error == f"ValueError: no {texts[place]}"
    del lm.asked[texts[place]]
    assert set(lm.asked.values()) == {1} and lm.calls <= 15


def test_5_many_requests_that_a_server_refuses_do_not_end_the_run() -> None:
    class Server(Counting):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            try:
                return super().generate_until(requests)
            except ValueError as error:
                response = Response()
                response.status_code = 400
                raise HTTPError(str(error), response=response) from None

    texts = ["x" * (n + 1) for n in range(40)]
    found = answered(Server(refused=texts[25:]), text_jobs(texts))
    assert sorted(n for n, answer in found.items() if answer.error) == list(range(25, 40))


def test_5_a_model_that_fails_for_all_requests_ends_the_run() -> None:
    texts = ["x" * (n + 1) for n in range(40)]
    lm = Counting(refused=texts)
    with pytest.raises(RunError, match=r"fails again and again \(ValueError: no x"):
        answered(lm, text_jobs(texts))
    assert lm.calls == 6
    with pytest.raises(NotImplementedError):
        answered(lm, text_jobs(texts, "loglikelihood"))


def test_5_a_full_disk_is_not_taken_for_a_failure_of_the_model() -> None:
    class Stubborn(Counting):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            for _ in range(3):  # as tenacity does
                try:
                    return super().generate_until(requests)
                except Exception:
                    continue
            raise AssertionError

    def done(number: int, answer: Answer) -> None:
        raise RunError("the disk is full")

    lm = Stubborn()
    with pytest.raises(RunError, match="the disk is full"):
        TextModel(lm).drive(enumerate(text_jobs(["a", "b"])), done)
    assert lm.asked.total() == 1


def test_5_equal_requests_that_are_drawn_get_their_own_answers() -> None:
    class Dice(Counting):
        def generate_until(self, requests: list[Instance]) -> list[str]:
            found = [str(n) for n in range(len(requests))]
            for request, text in zip(requests, found, strict=True):
                self.cache_hook.add_partial("generate_until", request.args, text)
            return found

    (job,) = text_jobs(["a"])
    jobs = [TextJob(job.kind, job.arguments, job.identity, f"draw {n}") for n in range(3)]
    found = answered(Dice(), jobs)
    assert sorted(str(found[n].value) for n in range(3)) == [str(Reply(str(n))) for n in range(3)]


def test_5_a_likelihood_that_is_not_a_number_is_an_error(tasks: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(packaged_asset("tiny-ar"), broken)
    data = (broken / "model.safetensors").read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    weights = data[:head] + b"\xff" * (len(data) - head)  # all NaN
    (broken / "model.safetensors").write_bytes(weights)
    run = words(tasks, tmp_path / "out", "--model_args", f"pretrained={broken}", model="hf")
    assert main([*run, "--tasks", "t_choice,t_roll", "--limit", "2"]) == 1
    found = samples(tmp_path / "out")
    rows = [*found["t_choice"], *found["t_roll"]]
    assert len(rows) == 4 and all("is not a number" in row["error"] for row in rows)
    assert not stored(tmp_path / "out")
    for kind, content in (
        ("loglikelihood", (math.nan, False)),
        ("loglikelihood_rolling", math.nan),
    ):
        assert not is_reply(kind, Reply(content))  # in a journal


# -- an API ----------------------------------------------------------------------------------------


class Api:
    """A server with OpenAI's protocol. It counts what it has answered, which is what costs money.

    Attributes:
        left: number of requests until the server fails; None for no limit.
        refused: a text whose requests are refused.
        refusal: status and body of that.
        numbered: whether the texts of a batch have their numbers; some servers say 0 for each.
        paid: prompt -> number of answers.
    """

    def __init__(self) -> None:
        self.left: int | None = None
        self.refused = ""
        self.refusal: tuple[int, Any] = 400, {"error": f"refused, key {KEY}"}
        self.numbered = True
        self.paid: Counter[str] = Counter()
        self.keys: set[str | None] = set()
        self.sent = 0
        self._lock = threading.Condition()

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        """Returns status and body."""
        prompt = asked.get("prompt") or asked["messages"][-1]["content"]
        prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        with self._lock:
            if self.refused and self.refused in json.dumps(prompts):
                return self.refusal
            if self.left == 0:
                self._lock.wait_for(lambda: self.sent == len(self.paid))
                return 500, {"error": "overloaded"}
            self.left = None if self.left is None else self.left - 1
            self.paid.update(json.dumps(one) for one in prompts)
        return 200, {
            "choices": [
                self._choice(number if self.numbered else 0, one, asked)
                for number, one in enumerate(prompts)
            ]
        }

    def written(self) -> None:
        """Counts an answer whose bytes are on their way."""
        with self._lock:
            self.sent += 1
            self._lock.notify_all()

    def _choice(self, number: int, prompt: Any, asked: dict[str, Any]) -> dict[str, Any]:
        text = "ab"[len(json.dumps(prompt)) % 2] * asked["max_tokens"]
        if "messages" in asked:
            return {"index": number, "message": {"content": text}}
        if not asked.get("echo"):
            return {"index": number, "text": text}
        scores = [-(token % 7) / 8 for token in prompt] + [0.0]
        top = [{"x": score, "y": -0.25} for score in scores]
        return {"index": number, "text": text, "logprobs": {"token_logprobs": scores, "top_logprobs": top}}  # fmt: skip


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """Serves `api`; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            api.keys.add(self.headers.get("Authorization"))
            status, found = api.answer(self.path, json.loads(body))
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            if status == 200:
                api.written()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def api_words(tasks: Path, home: Path, address: str, chat: bool, concurrent: int) -> list[str]:
    for package in ("tenacity", "aiohttp", "requests"):
        pytest.importorskip(package, reason="pip install 'dlm_eval[api]'")
    place = "chat/completions" if chat else "completions"
    arguments = f"model=m,base_url={address}/{place},max_retries=1,num_concurrent={concurrent}"
    own = ",tokenizer_backend=huggingface" + f",tokenizer={packaged_asset('tiny-ar')}"
    model = "local-chat-completions" if chat else "local-completions"
    more = ["--apply_chat_template"] if chat else []
    given = arguments if chat else arguments + own
    return words(tasks, home, "--model_args", given, *more, model=model)


@pytest.mark.parametrize(
    ("chat", "concurrent", "names"),
    [
        (False, 1, "t_write,t_last"),
        (False, 4, "t_write,t_roll"),
        pytest.param(True, 1, "t_write", marks=pytest.mark.full),
        (True, 4, "t_write"),
    ],
)
def test_5_an_api_that_fails_in_the_middle_is_paid_once(
    tasks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    chat: bool,
    concurrent: int,
    names: str,
) -> None:
    api = Api()
    api.left = 4
    with serving(api) as address:
        run = [*api_words(tasks, tmp_path, address, chat, concurrent), "--tasks", names]
        assert main(run) == 1
        said = capsys.readouterr().err
        assert "fails again and again" in said.strip().splitlines()[-1] and "%|" not in said
        kept = stored(tmp_path)
        assert len(kept) == api.paid.total() == 4
        api.left = None
        assert main(run) == 0
        assert f"from journal ({len(kept)})" in capsys.readouterr().err
        total = 12 * len(names.split(","))
        assert len(stored(tmp_path)) == api.paid.total() == total
        assert set(api.paid.values()) == {1}
        before = samples(tmp_path)
        assert main(run) == 0 and api.paid.total() == total and samples(tmp_path) == before
        assert main([*run, "--score_only"]) == 0 and samples(tmp_path) == before
        environment = block(tmp_path)["environment"]
        assert environment["device"] == environment["device_name"] == "remote"
        gc.collect()  # of forgotten tasks
        assert "never retrieved" not in caplog.text
        board = (tmp_path / "leaderboard.csv").read_text()
        assert ",remote," in board


def test_5_a_request_that_an_api_refuses_is_an_error_of_its_sample_and_no_key_is_kept(
    tasks: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    api = Api()
    with serving(api) as address:
        run = [*api_words(tasks, tmp_path, address, True, 4), "--tasks", "t_write"]
        api.refused = "cabbage"
        run[run.index("--model_args") + 1] += f",auth_token={KEY}"
        assert main(run) == 1
        said = "".join(capfd.readouterr())
        failed = [sample for sample in samples(tmp_path)["t_write"] if "error" in sample]
        assert api.keys == {f"Bearer {KEY}"}
        refused = [doc for doc in DOCUMENTS if doc["text"] == "cabbage"]
        assert len(failed) == 2 * len(refused) and "400" in failed[0]["error"]
        assert len(stored(tmp_path)) == 10 and set(api.paid.values()) == {1}
        assert block(tmp_path)["cost"]["t_write"]["errors"] == 2
        api.refused = ""
        assert main(run) == 0 and api.paid.total() == 12 and set(api.paid.values()) == {1}
        said += "".join(capfd.readouterr())
    assert KEY not in said
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("body", "reason", "concurrent"),
    [
        ({"error": {"message": f"overloaded, key {KEY}"}}, "has no message", 4),
        (["no"], "has no message", 1),
        ({"choices": [{"index": 0, "finish_reason": "stop"}]}, "has no message", 4),
        ({"choices": []}, "has no message", 1),
        ({"choices": [{"index": 0, "message": {"content": None}, "finish_reason": "content_filter"}]},
         "content filter has removed", 1),
        ({"choices": [{"index": 0, "message": {}, "finish_reason": "content_filter"}]},
         "content filter has removed", 4),
    ],
)  # fmt: skip
def test_5_a_body_without_a_message_is_an_error_and_no_empty_answer(
    tasks: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    body: Any,
    reason: str,
    concurrent: int,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    api = Api()
    with serving(api) as address:
        run = [*api_words(tasks, tmp_path, address, True, concurrent), "--tasks", "t_write"]
        api.refused, api.refusal = "cabbage", (200, body)
        assert main(run) == 1
        rows = samples(tmp_path)["t_write"]
        failed = [row for row in rows if "error" in row]
        assert len(failed) == 2 and all(reason in row["error"] for row in failed)
        assert len(stored(tmp_path)) == api.paid.total() == 10
        api.refused = ""
        assert main(run) == 0 and set(api.paid.values()) == {1} and api.paid.total() == 12
    assert KEY not in "".join(capfd.readouterr())
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or KEY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("concurrent", [1, 4])
def test_5_texts_without_their_numbers_are_no_empty_answers(
    tasks: Path, tmp_path: Path, concurrent: int
) -> None:
    api, found = Api(), []
    with serving(api) as address:
        for numbered in (True, False):
            api.numbered, home = numbered, tmp_path / str(numbered)
            run = [*api_words(tasks, home, address, False, concurrent), "--tasks", "t_write"]
            assert main([*run, "--batch_size", "3"]) == 0
            found.append([row["resps"] for row in samples(home)["t_write"]])
    assert found[0] == found[1] and [[""]] not in found[0]


def test_5_a_message_without_text_is_an_answer(tasks: Path, tmp_path: Path) -> None:
    api = Api()
    thinking = {"index": 0, "message": {"content": None}, "finish_reason": "length"}
    api.refused, api.refusal = "cabbage", (200, {"choices": [thinking]})
    with serving(api) as address:
        assert main([*api_words(tasks, tmp_path, address, True, 4), "--tasks", "t_write"]) == 0
    texts = [row["resps"] for row in samples(tmp_path)["t_write"]]
    assert texts.count([[""]]) == 2


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("local-completions", ["--devices", "cpu:2"], "--devices means nothing to"),
        ("openai-chat-completions", ["--engine", "ray"], "--engine means nothing to"),
        ("anthropic-completions", ["--devices", "cpu"], "which is remote"),
        ("nemo_lm", ["--devices", "cpu:2"], "run in workers"),
    ],
)
def test_5_models_without_workers_refuse_devices_in_one_line(
    tasks: Path,
    tmp_path: Path,
    model: str,
    options: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = words(tasks, tmp_path, "--tasks", "t_write", *options, model=model)
    assert main([*run, "--model_args", "model=m"]) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert f"--model '{model}'" in said and reason in said
