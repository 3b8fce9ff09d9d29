"""Packages: tasks whose imports are gone or missing, extras, the files of versions, and what is built and released."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import dlm_eval
from dlm_eval.errors import UserError
from dlm_eval.harness import requirements
from dlm_eval.harness.lm_eval_patches import missing_modules
from dlm_eval.harness.requirements import EXTRAS, OTHERWISE, check_packages, missing_package, needs
from dlm_eval.metrics.text import compute_exact, compute_f1, get_tokens, normalize_answer

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = ("constraints.txt", "constraints-newest.txt")


def pinned(file: str) -> dict[str, str]:
    """Returns the versions that a file pins, by normalised name."""
    found = {}
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line):
            found[normal(match[1])] = match[2]
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requires(package: str) -> None:
    """Skips where a distribution is not installed, with the line that installs it."""
    try:
        version(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


# -- 15: modules that are gone ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "said", "exact", "f1"),
    [
        ("The Eiffel Tower", "eiffel tower!", 1, 1.0),
        ("in 1879", "It was in 1879.", 0, 2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2)),
        # "a" is an article; words count as often as they stand
        ("a b b c", "b b b", 0, 2 * (2 / 3) * (2 / 3) / (2 / 3 + 2 / 3)),
        ("Paris", "London", 0, 0.0),
        ("", "", 1, 1.0),
        ("", "something", 0, 0.0),
        ("the", "", 1, 1.0),  # nothing is left of an article
        ("Zürich", "zürich", 1, 1.0),
        ("state-of-the-art", "stateoftheart", 1, 1.0),  # punctuation goes before articles do
    ],
)
def test_15_squads_metrics_are_what_was_published(
    gold: str, said: str, exact: int, f1: float
) -> None:
    assert compute_exact(gold, said) == exact
    assert compute_f1(gold, said) == pytest.approx(f1)


def test_15_answers_are_normalised_as_published() -> None:
    assert normalize_answer("  The  QUICK, brown -- fox. An end ") == "quick brown fox end"
    assert normalize_answer("theatre Anna a.") == "theatre anna"
    assert get_tokens("A dog's  life") == ["dogs", "life"]


def test_15_what_is_gone_stands_in_while_tasks_load_and_not_after() -> None:
    before = set(sys.modules)
    with missing_modules():
        import transformers.data.metrics.squad_metrics as squad_metrics  # noqa: PLC0415
        from transformers.data.metrics import squad_metrics as again

        assert squad_metrics is again and squad_metrics.compute_exact("a cat", "cat!") == 1
        import pkg_resources

        assert pkg_resources.get_distribution("pytest").version == version("pytest")
        # as a library asks for its own
        beside = pkg_resources.resource_filename("dlm_eval.harness.infill", "requirements.py")
        assert (
            pkg_resources.resource_string("dlm_eval.harness.infill", "requirements.py")
            == Path(beside).read_bytes()
        )
        with pkg_resources.resource_stream("dlm_eval.harness", "requirements.py") as stream:
            assert stream.readline().startswith(b'"""')
        from datasets import load_metric

        assert callable(load_metric)
    added = {name for name in requirements.stand_ins() if name in sys.modules} - before
    assert not added


# Files that no library here can import, and why.
KNOWN_FAULTS = {
    "mmlu_prox/template/utils.py": "KeyError: 'template'"  # made for copies of its folder, which are named for languages
}
# The metrics of HF evaluate are scripts on the hub; offline they cannot be had, which the run says before the model loads.
OF_THE_HUB = re.compile(r"Couldn't find a module script at \S*[/\\](bleu|rouge|code_eval)[/\\]")


@pytest.mark.full
def test_15_every_stock_tasks_python_imports_or_names_its_package() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "stock_imports.py")],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["tried"] > 300
    strange = {}
    for file, reason in said["failed"].items():
        named = re.match(r"needs the Python package '([^']+)'; (.+)", reason)
        ours = named is not None and (named[1] in EXTRAS or named[1] in OTHERWISE)
        if not (
            ours
            or OF_THE_HUB.search(reason)
            or "nltk_data" in reason
            or KNOWN_FAULTS.get(file) == reason
        ):
            strange[file] = reason
    assert not strange


# -- 16: extras ------------------------------------------------------------------------------------


def test_16_every_module_of_the_table_belongs_to_an_extra_that_exists() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(extras)
    listed = " ".join(normal(line) for name in set(EXTRAS.values()) for line in extras[name])
    names = {"bs4": "beautifulsoup4", "antlr4": "antlr4-python3-runtime", "mauve": "mauve-text"}
    assert [module for module in EXTRAS if normal(names.get(module, module)) not in listed] == []
    assert not set(EXTRAS) & set(OTHERWISE)


def test_16_the_package_behind_an_error_is_named_with_the_pip_line() -> None:
    try:
        try:
            raise ModuleNotFoundError("No module named 'math_verify'", name="math_verify")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("install it via pip install lm-eval[math]") from error
    except ModuleNotFoundError as error:
        assert (
            missing_package(error)
            == "needs the Python package 'math_verify'; pip install \"dlm_eval[math]\""
        )
    assert missing_package(PackageNotFoundError("antlr4-python3-runtime")) == needs("antlr4")
    old = AssertionError("`antlr4-python3-runtime==4.11` is required; pip install lm-eval[math]")
    assert missing_package(old) == 'needs other versions of packages; pip install "dlm_eval[math]"'
    assert missing_package(ValueError("lm-eval[math]")) is None  # says of no package
    # it is there
    assert (
        missing_package(ImportError("cannot import name 'x' from 'datasets'", name="datasets"))
        is None
    )


TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: question
doc_to_target: answer
process_results: !function {name}.process_results
generation_kwargs: {{until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.mark.parametrize("where", ["top", "inside"])
def test_16_a_task_that_lacks_a_package_is_one_line_before_the_model_loads(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dlm_eval.cli import main

    monkeypatch.setitem(EXTRAS, "absent_module_of_dlm_eval", "tasks")
    code = "def process_results(doc, results):\n    return {'exact_match': 1.0}\n"
    lack = "import absent_module_of_dlm_eval\n"
    body = lack + code if where == "top" else code.replace("    return", f"    {lack}    return")
    (tmp_path / "lacking.py").write_text(body)
    (tmp_path / "data.jsonl").write_text('{"question": "1?", "answer": "1"}\n')
    (tmp_path / "lacking.yaml").write_text(
        TASK.format(name="lacking", data=tmp_path / "data.jsonl")
    )
    monkeypatch.setattr(
        "dlm_eval.models.load_model", lambda *_, **__: pytest.fail("the model was loaded")
    )
    assert (
        main(
            [
                "--model",
                "tiny",
                "--tasks",
                str(tmp_path / "lacking.yaml"),
                "--output_path",
                str(tmp_path / "o"),
            ]
        )
        == 2
    )
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        "' needs the Python package 'absent_module_of_dlm_eval'; pip install \"dlm_eval[tasks]\""
        in said
    )


def test_16_nltks_files_are_never_downloaded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(
        nltk, "download", lambda *_, **__: pytest.fail("nltk was asked to download")
    )
    monkeypatch.setattr(nltk.data, "path", [])
    where = tmp_path / "nltk_data" / "tokenizers" / "punkt_tab"
    with (
        missing_modules(tmp_path),
        pytest.raises(UserError, match=r"nltk's 'punkt_tab' .* DIR/nltk_data/tokenizers/punkt_tab"),
    ):
        nltk.download("punkt_tab")
    where.mkdir(parents=True)
    with missing_modules(tmp_path):
        assert nltk.download("punkt_tab") and nltk.download("punkt")
        assert nltk.data.find("tokenizers/punkt_tab") == str(where)


def failure_of(code: str) -> str:
    """Runs code with the stand-ins in place in a process of its own; returns the end of what it says if it fails."""
    program = f"from dlm_eval.harness.lm_eval_patches import missing_modules\nwith missing_modules():\n    {code}\n"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    return ran.stderr[-500:] or "no reason" if ran.returncode else ""


@pytest.mark.full
def test_16_ifeval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its instructions, one of which splits sentences with nltk's files: four of our own, that know one abbreviation."""
    for package in ("langdetect", "immutabledict", "nltk"):
        requires(package)
    monkeypatch.setenv("DLM_EVAL_DATA", str(ROOT / "tests" / "suite_data"))
    assert not failure_of(
        "from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT as known\n"
        "    task = known['punctuation:no_comma']('x')\n"
        "    task.build_description()\n"
        "    assert task.check_following('no such sign') and not task.check_following('one, two')\n"
        "    task = known['length_constraints:number_sentences']('x')\n"
        "    task.build_description(num_sentences=2, relation='less than')\n"
        "    assert task.check_following('Only Dr. Low knows.') and not task.check_following('One. Two. Three.')"
    )


@pytest.mark.full
def test_16_math() -> None:
    for package in ("sympy", "math-verify", "antlr4-python3-runtime"):
        requires(package)
    assert not failure_of(
        "from lm_eval.tasks.minerva_math.utils import is_equiv\n"
        r"    assert is_equiv('\\frac{1}{2}', '0.5') and not is_equiv('\\frac{1}{2}', '2')"
    )


@pytest.mark.full
def test_16_api() -> None:
    for package in ("tenacity", "tiktoken", "aiohttp", "requests"):
        requires(package)
    assert not failure_of(
        "from lm_eval.api.registry import get_model\n"
        "    model = get_model('local-completions').create_from_arg_string("
        "'model=m,base_url=http://127.0.0.1:9,tokenizer_backend=None')\n"
        "    assert model.model == 'm'"
    )


@pytest.mark.full
def test_16_mauve() -> None:
    requires("mauve-text")
    assert not failure_of(
        "import numpy as np, mauve\n"
        "    draw = np.random.default_rng(0)\n"
        "    one, other = draw.normal(size=(200, 8)), draw.normal(size=(200, 8)) + 4\n"
        "    score = lambda p, q: mauve.compute_mauve(p_features=p, q_features=q, num_buckets=10, verbose=False).mauve\n"
        "    assert score(one, one) > 0.95 > 0.2 > score(one, other)"
    )


OF_TASKS = {
    "jieba fuzzywuzzy rouge": "from lm_eval.tasks.longbench.metrics import qa_f1_zh_score as score\n"
    "    assert score('北京大学', '北京大学') == 1.0 > score('北京大学在北京', '北京大学') > 0.0 == score('上海', '北京')",
    "wonderwords": "from lm_eval.tasks.ruler.cwe_utils import get_example\n"
    "    text, common = get_example(20, 5, 1, 3)\n"
    "    assert len(common) == 3 and [text.split().count(word) for word in common] == [5, 5, 5]",
    "statsmodels": "from lm_eval.tasks.discrim_eval.utils import agg_demographic_bias_regression as slope\n"
    "    people = [(race, 'male', 50 + i % 7, i) for race in ('white', 'black') for i in range(20)]\n"
    "    rows = [(who, 'black_bias', 1.5 * (who[0] == 'black') + 0.01 * (who[3] % 3)) for who in people]\n"
    "    assert abs(slope(rows) - 1.5) < 0.1",
}


@pytest.mark.full
@pytest.mark.parametrize("packages", OF_TASKS)
def test_16_tasks(packages: str) -> None:
    for package in packages.split():
        requires(package)
    assert not failure_of(OF_TASKS[packages])


# -- 8 (issue 10), 11: files of versions -----------------------------------------------------------


def test_16_the_packages_of_extras_are_pinned() -> None:
    for file in PINS:
        pins = pinned(file)
        lines = [
            line
            for extra in (
                "ifeval", "math", "api", "mauve", "translation", "docs", "notebooks", "dev", "peft", "ray",
            )
            for line in PROJECT["optional-dependencies"][extra]
            if not line.startswith("dlm_eval[")  # an extra that holds another
        ]  # fmt: skip
        wanted = {normal(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in lines}  # type: ignore[index]
        assert wanted <= set(pins), (file, wanted - set(pins))


def test_08_the_lock_has_the_versions_of_the_constraints_and_a_hash_for_every_file() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked, pins = pinned("requirements.lock"), pinned("constraints.txt")
    assert "torch" not in locked and not [
        name for name in locked if name.startswith(("nvidia-", "cuda-", "triton"))
    ]
    elsewhere = {"httpx2-jsfetch", "tzdata"}  # other platforms need these too
    assert {name: pins.get(name) for name in set(locked) - elsewhere} == {
        n: locked[n] for n in set(locked) - elsewhere
    }
    needed = {normal(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in PROJECT["dependencies"]}  # type: ignore[index]
    assert needed - {"torch"} <= set(locked)
    blocks = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text).strip())
    assert len(blocks) == len(locked) and all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"https?://|index-url|find-links|file:", text)


def test_19_the_torch_that_pages_install_is_the_one_of_the_constraints() -> None:
    # Another one would be replaced by the next command, with the CUDA build of gigabytes.
    found = {}
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for pin in re.findall(r"pip install torch(\S*)", page.read_text(encoding="utf-8")):
            found[page.name] = pin
    assert set(found.values()) == {f"=={pinned('constraints.txt')['torch']}"}, found


def test_11_the_newest_set_is_newer() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)]

    older, newer = pinned(PINS[0]), pinned(PINS[1])
    assert older["torch"] == newer["torch"]  # a build of the user's choice
    assert numbers(newer["transformers"]) >= [5, 24]
    assert [
        name for name in newer if name in older and numbers(newer[name]) < numbers(older[name])
    ] == []


def test_16_only_files_with_functions_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(requirements, "_imports", lambda file: read.append(file) or ())
    config = SimpleNamespace(
        process_docs=None, process_results=None, doc_to_text="x", doc_to_target="y", doc_to_choice=None,
        metric_list=[{"metric": "acc", "aggregation": sum}],
    )  # fmt: skip
    task: Any = SimpleNamespace(config=config)
    check_packages("plain", task)
    assert read == []  # a built-in function has no file
    config.doc_to_text = normal
    check_packages("plain", task)
    assert [Path(file).name for file in read] == [Path(__file__).name]


# -- issue 19: what is built and released ------------------------------------------------------------

MIB = 1 << 20


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of the checkout, the sdist, and the wheel of the unpacked sdist."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (it is in the extra dev)")
    folder = tmp_path_factory.mktemp("dist")

    def build(source: Path, kind: str) -> Path:
        out = folder / f"{kind} of {source.name}"
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
        ran = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        (file,) = out.iterdir()
        return file

    sdist = build(ROOT, "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    return {"sdist": sdist, "wheel": build(ROOT, "wheel"), "again": build(unpacked, "wheel")}


def contents(wheel: Path) -> dict[str, int]:
    """Returns name -> checksum of the files of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


def test_19_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(built: dict[str, Path]) -> None:
    whole, again = contents(built["wheel"]), contents(built["again"])
    assert again == whole
    for needed in (
        "dlm_eval/py.typed",
        "dlm_eval/assets/tiny/model.safetensors",
        "dlm_eval/task_configs/suites/demo.yaml",
    ):
        assert needed in whole
    # tiny and tiny-ar are 13 MiB of half-precision weights; an index takes files of 100 MiB
    assert built["wheel"].stat().st_size < 20 * MIB > built["sdist"].stat().st_size


def test_19_packages_hold_what_git_knows_and_no_caches_or_results(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        names = {one.name.partition("/")[2] for one in archive.getmembers() if one.isfile()}
    rubbish = re.compile(
        r"(^|/)(__pycache__|\.\w+_cache|dist|build|\.venv|[^/]*\.egg-info)/|\.pyc$|^results/"
    )
    every = names | set(contents(built["wheel"]))
    assert not [name for name in every if rubbish.search(name)]
    ran = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if ran.returncode:
        pytest.skip("no git checkout: nothing tells what belongs to the repository")
    known = {name for name in ran.stdout.split("\0") if (ROOT / name).is_file()}
    assert names - known == {"PKG-INFO"}
    ours = {name for name in known if name.startswith(("dlm_eval/", "task_configs/", "tests/"))}
    assert ours <= names
    packaged = {re.sub(r"^task_configs/", "dlm_eval/task_configs/", name) for name in ours}
    packaged = {name for name in packaged if not name.startswith("tests/")}
    assert {name for name in contents(built["wheel"]) if ".dist-info/" not in name} == packaged


def test_19_the_parts_of_ci_are_listed_and_run_every_night() -> None:
    full = (ROOT / ".ci" / "full").read_text(encoding="utf-8")
    parts = re.search(r"^parts='(.+)'$", full, re.MULTILINE)[1].split()  # type: ignore[index]
    assert all(re.search(rf"^{part}\(\) \{{", full, re.MULTILINE) for part in parts)
    workflows = ROOT / ".github" / "workflows"
    nightly = yaml.safe_load((workflows / "nightly.yml").read_text())["jobs"]["full"]
    assert nightly["strategy"]["matrix"]["part"] == parts
    assert nightly["steps"][-1]["run"] == ".ci/full ${{ matrix.part }}"
    ci = yaml.safe_load((workflows / "ci.yml").read_text())["jobs"]["run"]
    assert ci["steps"][-1]["run"] == ".ci/run"
    rows = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `\.ci/full (\w+)` \|", rows, re.MULTILINE)
    assert listed == parts
    unknown = subprocess.run(["bash", ROOT / ".ci" / "full", "newst"], capture_output=True, text=True)  # fmt: skip
    assert unknown.returncode == 2 and "no part 'newst': newest, long" in unknown.stderr


def test_19_the_citation_has_the_version_and_licence_of_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == dlm_eval.__version__
    assert cited["license"] == PROJECT["license"]
    assert cited["authors"] == PROJECT["authors"]


def test_19_what_the_container_file_copies_is_not_ignored() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    ignored = (ROOT / ".containerignore").read_text().split()
    assert names == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in names)
