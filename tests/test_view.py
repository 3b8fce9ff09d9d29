"""The pages of results: what they hold and leave out, the server's limits, and the command."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from run_files import write_run

from dlm_eval.cli import main
from dlm_eval.journal import Journal
from dlm_eval.reports.pages.index import index_page
from dlm_eval.reports.pages.samples import samples_page
from dlm_eval.reports.pages.site import SamplesPage, Site, parse_texts, read_site, restricted
from dlm_eval.reports.pages.viewer import Server, Viewer, write_pages
from dlm_eval.reports.sweep.quality_speed import aup

HOSTILE = (
    "</script><script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    "{{ 7 * 7 }} {% raw %} ${window.pwned=1} <!--",
    "\u202eabc\u2066 \u05e9\u05dc\u05d5\u05dd \u0000\u001b[31m",
    "\ud800 half",
    "javascript:window.pwned=1",
)
TRACE = {"tokens": [5, 6, -1], "text": ["a", " b", ""], "step": [1, 0, -1], "confidence": [0.5, 1.0, None], "forwards": 2}  # fmt: skip


def write_model(
    folder: Path,
    name: str,
    scores: Mapping[str, Sequence[float]],
    forwards: float = 4.0,
    config: Mapping[str, Any] | None = None,
    **more: Any,
) -> Path:
    """Writes a run of a model of this name, with costs; returns its result file."""
    cost = {
        task: {"samples": len(values), "requests": len(values), "errors": 0, "forwards": forwards * len(values), "rows": 1, "tokens": 8 * len(values), "seconds": 1.0}
        for task, values in scores.items()
    }  # fmt: skip
    model = {"family": "made", "pretrained": name, "forwards": forwards}
    block = {"label": f"{name} {forwards:g}", "settings": {"model": model}, "cost": cost}
    file = write_run(folder, scores, block=block, **more)
    document = json.loads(file.read_text())
    document["config"]["model_args"] = f"pretrained={name},forwards={forwards}"
    for task in scores:
        document["configs"][task] |= config or {}
    file.write_text(json.dumps(document))
    return file


def page_of(site: Site, label: str, task: str) -> SamplesPage:
    return next(p for p in site.pages.values() if p.label.startswith(label) and p.task == task)


class Elements(HTMLParser):
    """All elements and attributes of a page, and the text of its scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in self.inside:
            self.inside[self._open].append(data)

    @property
    def policy(self) -> str:
        (found,) = (a["content"] for t, a in self.found if a.get("http-equiv"))
        return str(found)

    @property
    def data(self) -> Any:
        return json.loads(self.inside["script"][0])


def check_page(text: str) -> Elements:
    """Checks that a page runs its own script only and loads nothing; returns its elements."""
    page = Elements(text)
    text.encode()
    assert [a for t, a in page.found if t == "script"] == [{"type": "application/json", "id": "data"}, {}]  # fmt: skip
    assert sum(t == "style" for t, _ in page.found) == 1
    for tag, attributes in page.found:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base")
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "style", "srcset")
            if name == "href":
                assert re.fullmatch(
                    r"#|(samples/)?[0-9a-f]{16}\.html|\.\./index\.html", value or ""
                )
    for kind, source in (("script", page.inside["script"][1]), ("style", page.inside["style"][0])):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy and "unsafe" not in page.policy
    assert not re.search(
        r"\beval\(|new Function|innerHTML|document\.write", page.inside["script"][1]
    )
    return page


@pytest.fixture
def hostile(tmp_path: Path) -> Site:
    """Runs whose names, texts and errors are hostile."""
    for number, name in enumerate(HOSTILE[:3]):
        write_model(
            tmp_path / str(number), name, {"made": [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]},
            answers=HOSTILE, prompt=HOSTILE[1], errors={5: HOSTILE[0]},
            extra={"target": HOSTILE[0], "exit": HOSTILE[:1], "steps": [3], "trajectory": [{**TRACE, "text": HOSTILE[:3]}]},
        )  # fmt: skip
    return read_site([tmp_path])


def test_hostile_texts_are_texts(hostile: Site) -> None:
    index = check_page(index_page(hostile))
    assert "connect-src" not in index.policy
    assert len(hostile.pages) == 3 and "pytest-of" not in index_page(hostile)
    for page in hostile.pages.values():
        text = samples_page(hostile, page)
        assert "pytest-of" not in text  # no folders of this machine
        data = check_page(text).data
        rows = data["documents"]
        assert [row["a"][0] for row in rows[:4]] == [*HOSTILE[:4]]
        assert rows[4]["a"] == ["\\ud800 half"] and rows[0]["t"] == HOSTILE[0]
        assert rows[5]["e"] == HOSTILE[0] and data["traces"]["0"][0]["x"] == list(HOSTILE[:3])


def test_a_huge_text_is_cut_and_a_huge_name_wraps(tmp_path: Path) -> None:
    write_model(tmp_path, "n" * 5000, {"made": [1.0, 0.0]}, answers=["x" * 3_000_000, "y"])
    site = read_site([tmp_path])
    assert len(index_page(site)) < 60_000
    (page,) = site.pages.values()
    text = samples_page(site, page)
    assert len(text) < 100_000
    assert check_page(text).data["documents"][0]["a"][0].endswith("… (2980000 more characters)")


def test_a_page_holds_what_the_samples_file_has(tmp_path: Path) -> None:
    write_model(
        tmp_path, "m", {"made": [1.0, 0.0]}, answers=["yes", "no"], prompt="Q",
        extra={"exit": ["full"], "steps": [7], "tokens": 9, "seconds": 0.5, "trajectory": [TRACE], "filtered_resps": ["y"]},
    )  # fmt: skip
    site = read_site([tmp_path])
    (page,) = site.pages.values()
    data = check_page(samples_page(site, page)).data
    first = data["documents"][0]
    assert data["top"] == 1.0 and data["generated"]
    assert {k: v for k, v in first.items() if k != "k"} == {
        "n": 0, "v": 1.0, "f": 4.0, "tok": 9.0, "sec": 0.5, "x": ["full"], "st": [7],
        "p": "Q0", "q": "", "t": "t", "a": ["yes"], "r": "y",
    }  # fmt: skip
    assert data["traces"]["0"] == [{"x": ["a", " b", ""], "s": [1, 0, -1], "c": [0.5, 1.0, None]}]


@pytest.mark.parametrize(
    "broken",
    [
        None, 7, "text", {}, {"text": ["a"]}, {**TRACE, "step": [1]}, {**TRACE, "text": [1, 2, 3]},
        {**TRACE, "step": ["1", "2", "3"]}, {"text": [], "step": [], "confidence": []},
    ],
)  # fmt: skip
def test_a_trajectory_of_another_form_is_left_out(tmp_path: Path, broken: Any) -> None:
    write_model(tmp_path, "m", {"made": [1.0]}, extra={"trajectory": [broken]})
    site = read_site([tmp_path])
    (page,) = site.pages.values()
    assert check_page(samples_page(site, page)).data["traces"] == {}


def test_a_trajectory_spells_out_no_secret(tmp_path: Path) -> None:
    secret = "hf_" + "aBcDeFgHiJ" * 4
    trace = {**TRACE, "text": [secret[:9], secret[9:20], secret[20:]]}
    write_model(tmp_path, "m", {"made": [1.0]}, answers=[secret], extra={"trajectory": [trace]})
    site = read_site([tmp_path])
    (page,) = site.pages.values()
    text = samples_page(site, page)
    data = check_page(text).data
    assert secret[:9] not in text and data["documents"][0]["a"] == ["[redacted]"]
    assert data["traces"]["0"][0]["x"] is None and data["traces"]["0"][0]["s"] == TRACE["step"]


@pytest.mark.parametrize(
    "config",
    [
        {"dataset_path": "Idavidrein/gpqa"},
        {"dataset_path": "meta-llama/Something-evals"},
        {"dataset_path": "/somewhere/LSDSem/story_cloze"},
        {"dataset_path": "nyu-mll/glue", "dataset_name": "mrpc"},
        {"metadata": {"restricted": True}},
        {"dataset_kwargs": {"token": True}},
    ],
)
def test_texts_of_restricted_sets_are_left_out(tmp_path: Path, config: Any) -> None:
    words = {"prompt": "PROMPTWORD", "answers": ["ANSWERWORD"] * 2, "errors": {1: "ERRORWORD"}}
    trace = {**TRACE, "text": ["TRACEWORD", "b", "c"]}
    extra = {"target": "TARGETWORD", "trajectory": [trace]}
    write_model(tmp_path, "m", {"made": [1.0, 0.0]}, config=config, extra=extra, **words)

    def words_of(chosen: dict[str, str]) -> set[str]:
        site = read_site([tmp_path], texts=chosen)
        (page,) = site.pages.values()
        return set(re.findall("[A-Z]+WORD", samples_page(site, page)))

    assert words_of({}) == set()
    assert words_of({"made": "own"}) == {"ANSWERWORD", "TRACEWORD"}
    every = {"PROMPTWORD", "ANSWERWORD", "ERRORWORD", "TRACEWORD", "TARGETWORD"}
    assert words_of({"made": "all"}) == words_of({"*": "none", "ma*": "all"}) == every
    assert words_of({"other": "all"}) == set()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"dataset_path": "someone/GPQA-Diamond"}, "ask not to reveal examples"),
        ({"dataset_path": "cais/hle"}, "gated"),
        ({"dataset_path": "nyu-mll/glue", "dataset_name": "mrpc"}, "news agencies"),
        ({"dataset_path": "nyu-mll/glue", "dataset_name": "cola"}, ""),
        ({"dataset_path": "glue", "dataset_name": "mrpc"}, "news agencies"),
        ({"dataset_path": "local/iwslt14_de-en"}, "TED"),
        ({"dataset_path": "IWSLT/iwslt2017", "dataset_name": "iwslt2017-ar-en"}, "TED"),
        ({"dataset_path": "skg/toxigen-data"}, "gated"),
        ({"dataset_path": "dmacres/mimiciii-hospitalcourse-meta"}, "PhysioNet"),
        ({"dataset_path": "juletxara/xstory_cloze", "dataset_name": "en"}, ""),
        ({"dataset_path": "wmt/wmt14", "dataset_name": "fr-en"}, ""),
        ({"dataset_path": "openai/gsm8k"}, ""),
        ({"dataset_path": "json"}, ""),
        ({}, ""),
    ],
)
def test_a_restricted_set_has_its_reason(config: dict[str, str], why: str) -> None:
    assert bool(restricted(config)) == bool(why) and why in restricted(config)


def test_choices_are_texts_of_the_dataset() -> None:
    demo = Path(__file__).parents[1] / "leaderboards" / "demo" / "tiny"
    for texts, shown in (("all", True), ("own", False), ("none", False)):
        site = read_site([demo], texts={"*": texts})
        page = samples_page(site, page_of(site, "tiny", "demo_choice"))
        row = check_page(page).data["documents"][0]
        assert ("guitar" in page) == shown and (row["c"][2] == " fox") == shown
        assert row["w"] == "choice 2" and row["a"][2].startswith("-0.0462") and row["v"] == 1


def test_lost_documents_are_those_of_the_scores(tmp_path: Path) -> None:
    draw = random.Random(5)
    a, b = ([float(draw.random() < 0.5) for _ in range(60)] for _ in range(2))
    write_model(tmp_path / "a", "A", {"made": a})
    write_model(tmp_path / "b", "B", {"made": b})
    site = read_site([tmp_path])
    page = page_of(site, "B", "made")
    data = check_page(samples_page(site, page)).data
    (peer,) = data["peers"]
    assert peer["id"] == page_of(site, "A", "made").id
    assert peer["values"] == a and [row["v"] for row in data["documents"]] == b


def test_a_higher_log_likelihood_is_better_although_perplexities_are_not() -> None:
    demo = Path(__file__).parents[1] / "leaderboards" / "demo"
    site = read_site([demo])
    page = page_of(site, "tiny", "demo_last_word")
    assert page.row.metric == "perplexity" and page.row.higher_is_better is False
    text = samples_page(site, page)
    data = check_page(text).data
    assert data["sign"] == 1 and data["top"] is None and "log-likelihoods in nats" in text
    assert all(row["v"] == pytest.approx(row["m"], rel=1e-4) for row in data["documents"])


def test_lower_is_better_is_known(tmp_path: Path) -> None:
    file = write_model(tmp_path, "m", {"made": [0.25, 0.75]})
    document = json.loads(file.read_text())
    document["higher_is_better"]["made"]["exact_match"] = False
    document["configs"]["made"]["metric_list"][0]["higher_is_better"] = False
    file.write_text(json.dumps(document))
    site = read_site([tmp_path])
    (page,) = site.pages.values()
    data = check_page(samples_page(site, page)).data
    assert data["sign"] == -1 and data["top"] is None


def test_charts_have_the_front_and_aup(tmp_path: Path) -> None:
    shares = {8.0: 0.75, 4.0: 0.7, 2.0: 0.75, 1.0: 0.25}  # forwards per document -> accuracy
    for forwards, share in shares.items():
        scores = [float(k < 20 * share) for k in range(20)]
        write_model(tmp_path / str(forwards), "M", {"made": scores}, forwards=forwards)
    text = index_page(read_site([tmp_path]))
    check_page(text)
    points = [(8 / forwards, 100 * share) for forwards, share in shares.items()]
    assert f"AUP {aup(points, 75.0):.1f}, 4 points" in text
    on = re.findall(r"(\S+) forwards per token, on the front", text)
    assert sorted(on) == ["0.125", "0.25"]  # 8 and 4 forwards are dominated by 2
    heights = re.findall(r'class="point k0[^"]*" transform="translate\((\S+) (\S+)\)"', text)
    assert len({y for _, y in heights}) == 3


def test_the_histogram_counts_right_and_wrong(tmp_path: Path) -> None:
    file = write_model(tmp_path, "m", {"made": [1.0, 0.0, 1.0, 1.0]})
    samples = next(tmp_path.glob("samples_*"))
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row, forwards in zip(rows, (2, 2, 2, 9), strict=True):
        row["forwards"] = forwards
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    site = read_site([file])
    (page,) = site.pages.values()
    text = samples_page(site, page)
    assert "<title>2 forwards: 2 right, 1 wrong</title>" in text
    assert "<title>9 forwards: 1 right, 0 wrong</title>" in text


# -- the server ------------------------------------------------------------------------------------


@contextmanager
def serving(viewer: Viewer) -> Iterator[Server]:
    with Server(viewer, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(
    server: Server, path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, str, Mapping[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    for value in [server.hosts[0]] if host is None else host.split(",") if host else []:
        connection.putheader("Host", value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, dict(answer.getheaders())


def test_the_server_knows_its_pages_only(tmp_path: Path) -> None:
    (tmp_path / "secret.html").write_text("SECRET")
    write_model(tmp_path / "runs", "m", {"made": [1.0, 0.0]})
    with serving(Viewer([tmp_path / "runs"])) as server:
        assert server.server_address[0] == "127.0.0.1"
        status, text, headers = ask(server, "/?q=1")
        assert status == 200 and "connect-src 'self'" in check_page(text).policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        (page,) = server.viewer.site().pages.values()
        status, text, _ = ask(server, f"/samples/{page.id}.html")
        assert status == 200 and check_page(text).data["documents"][0]["v"] == 1
        status, text, _ = ask(server, "/state", method="HEAD")
        assert (status, text) == (200, "")
        for path in (
            "/../secret.html", "/samples/../../secret.html", "/samples/..%2f..%2fsecret.html",
            "/secret.html", "//etc/passwd", f"{tmp_path}/secret.html", "/samples/", "*",
            f"/samples/{'0' * 16}.html", f"/samples/{page.id}.html/..", "/favicon.ico",
        ):  # fmt: skip
            status, text, _ = ask(server, path)
            assert status == 404 and text == "no such page", path
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(server, "/", method=method)[0] == 501
        port = server.server_port
        assert ask(server, "/", host=f"localhost:{port}")[0] == 200
        for host in (
            "",
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1",
            f"127.0.0.1:{port},evil.example",
        ):
            status, text, _ = ask(server, "/", host=host)
            assert status in (400, 403) and "made" not in text, host


def test_new_results_and_a_running_run_are_seen(tmp_path: Path) -> None:
    write_model(tmp_path / "a", "first", {"made": [1.0, 0.0]})
    with serving(Viewer([tmp_path])) as server:
        before = json.loads(ask(server, "/state")[1])
        assert before["running"] == "" and "second" not in ask(server, "/")[1]
        journal = Journal(tmp_path / "b" / "journal.sqlite")
        journal.put("key", {"value": 1}, "model")
        journal.commit()
        now = json.loads(ask(server, "/state")[1])
        assert now["version"] == before["version"]
        assert now["running"].startswith("a run is going on: 1 answer in ")
        journal.close()
        write_model(tmp_path / "b", "second", {"made": [1.0, 1.0]})
        assert json.loads(ask(server, "/state")[1])["version"] != before["version"]
        assert "second" in ask(server, "/")[1]


def test_view_begins_before_the_first_result(tmp_path: Path) -> None:
    with serving(Viewer([tmp_path])) as server:
        assert "No scores yet." in ask(server, "/")[1]


def test_ctrl_c_ends_view(tmp_path: Path) -> None:
    write_model(tmp_path, "m", {"made": [1.0, 0.0]})
    command = [sys.executable, "-m", "dlm_eval", "view", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None and it.stderr is not None
        line = it.stdout.readline()
        url = re.match(r"http://127\.0\.0\.1:\d+/", line)
        assert url, line
        with urllib.request.urlopen(f"{url[0]}state", timeout=30) as answer:
            assert json.load(answer)["running"] == ""
        it.send_signal(signal.SIGINT)
        assert it.wait(30) == 0 and it.stderr.read() == ""


# -- the command -----------------------------------------------------------------------------------


def test_pages_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo = Path(__file__).parents[1] / "leaderboards" / "demo"
    board = demo.with_name("demo.yaml")
    arguments = ["view", str(demo), "-o", str(tmp_path / "site"), "--board", str(board)]
    assert main(arguments) == 0
    assert "11 pages" in capsys.readouterr().out
    index = check_page((tmp_path / "site" / "index.html").read_text())
    links = {a["href"] for t, a in index.found if t == "a" and "/" in str(a["href"])}
    assert len(links) == 10
    assert all((tmp_path / "site" / str(link)).is_file() for link in links)


def test_a_board_is_written_as_html(tmp_path: Path) -> None:
    demo = Path(__file__).parents[1] / "leaderboards" / "demo"
    file = tmp_path / "board.html"
    board = ["--board", str(demo.with_name("demo.yaml"))]
    assert main(["leaderboard", str(demo), *board, "-o", str(file)]) == 0
    page = check_page(file.read_text())
    assert not [a for t, a in page.found if "samples/" in str(a.get("href"))]


@pytest.mark.parametrize(
    "words, told",
    [
        (["nowhere"], "path 'nowhere' does not exist"),
        (["{empty}", "-o", "{empty}/site"], "hold no results_*.json"),
        (["{empty}", "--texts", "gpqa=some"], "--texts 'some'"),
        (["{empty}", "--texts", ""], "--texts ''"),
        (["{empty}", "--port", "99999"], "--port '99999' cannot be used"),
        (["{empty}", "--board", "nowhere.yaml"], "board 'nowhere.yaml'"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["view", *(word.format(empty=tmp_path) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error


def test_texts_are_parsed_in_order() -> None:
    assert parse_texts(["all,gpqa*=none", "gsm8k=own"]) == {"*": "all", "gpqa*": "none", "gsm8k": "own"}  # fmt: skip


def test_a_broken_samples_file_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, "m", {"made": [1.0]})
    samples = next(tmp_path.glob("samples_*"))
    samples.write_text("[1]\n")
    viewer = Viewer([tmp_path])
    (page,) = viewer.site().pages.values()
    status, _, text = viewer.page(f"/samples/{page.id}.html")
    assert status == 500 and "line 1 is not a JSON object" in text
    with pytest.raises(Exception, match="line 1 is not a JSON object"):
        write_pages(viewer.site(), tmp_path / "site")
