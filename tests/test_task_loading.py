"""Names, globs and YAML files to tasks, and every mistake in them told in one line before a model is loaded."""

from __future__ import annotations

import logging
import re

import lm_eval.tasks
import pytest

from dlm_eval.errors import UserError
from dlm_eval.harness.code_tasks import ways
from dlm_eval.harness.tasks import check_fewshot, load_tasks
from dlm_eval.packaged import task_configs_dir

QUIZ = """\
task: quiz
dataset_path: openai/gsm8k
dataset_name: main
test_split: test
fewshot_split: train
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {until: []}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    written(folder, "group: both\ntask: [gsm8k_chat, gsm8k_cot]\n", name="both.yaml")
    written(folder, "group: odd\ntask: [gsm8k, gsm9k]\n", name="odd.yaml")
    return folder


@pytest.fixture
def no_full_index(monkeypatch):
    original = lm_eval.tasks.TaskManager

    def manager(include_path, include_defaults, metadata):
        assert not include_defaults, "the full index was read"
        return original(
            include_path=include_path, include_defaults=include_defaults, metadata=metadata
        )

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)


def names(specs, **options):
    return list(load_tasks(specs, **options)["tasks"])


def told(specs, **options):
    with pytest.raises(UserError) as error:
        load_tasks(specs, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def written(folder, text, name="quiz.yaml"):
    (folder / name).write_text(text)
    return folder


# -- what is found ---------------------------------------------------------------------------------


def test_our_names_need_no_full_index(no_full_index, own_data):
    specs = ["gsm8k,gsm8k_chat", "lambada*", "gsm8k"]
    assert names(specs, data_dir=own_data) == [
        "gsm8k",
        "gsm8k_chat",
        "lambada_bd3lm",
        "lambada_diffullama",
        "lambada_mdlm",
        "lambada_openai",
        "lambada_sedd",
    ]


def test_a_group_keeps_its_tasks_once(no_full_index, own_data):
    loaded = load_tasks(["glue*"], data_dir=own_data)
    assert len(loaded["tasks"]) == 10
    assert loaded["group_map"] == {"glue": list(loaded["tasks"])}


def test_names_of_lm_eval_are_found(own_data, groups):
    tasks = load_tasks(["gsm8k_cot", "gsm8k"], data_dir=own_data, include_path=groups)["tasks"]
    assert {name: task.config.metadata["config_source"] for name, task in tasks.items()} == {
        "gsm8k_cot": "lm_eval/tasks/gsm8k/gsm8k-cot.yaml",
        "gsm8k": "task_configs/gsm8k/gsm8k.yaml",
    }


def test_a_yaml_file_its_folder_and_a_glob(no_full_index, own_data, tmp_path):
    written(tmp_path, QUIZ)
    for spec in (tmp_path / "quiz.yaml", tmp_path, tmp_path / "q*.yaml"):
        assert names([str(spec)], data_dir=own_data) == ["quiz"]


def test_include_path_stands_before_ours(no_full_index, own_data, tmp_path, caplog):
    written(tmp_path, QUIZ.replace("task: quiz", "task: gsm8k"))
    with caplog.at_level(logging.WARNING):
        (task,) = load_tasks(["gsm8k"], include_path=str(tmp_path), data_dir=own_data)[
            "tasks"
        ].values()
    assert task.config.doc_to_text == "question"
    assert "overrides" not in caplog.text
    assert str(tmp_path) not in str(task.config.metadata)


def test_metadata_reaches_the_tasks(own_data):
    (task,) = load_tasks(["gsm8k"], data_dir=own_data, metadata={"pretrained": "x"})[
        "tasks"
    ].values()
    assert task.config.metadata["pretrained"] == "x"


def test_unsafe_tasks_are_known():
    assert list(ways(load_tasks(["demo"])["tasks"])) == ["demo_code_infill"]


def test_our_own_folder_holds_no_machine_path():
    for file in task_configs_dir().rglob("*.yaml"):
        assert not re.search(r"[\s'\"=]/\w", file.read_text()), file


# -- what is told ----------------------------------------------------------------------------------


def test_an_unknown_name_has_its_nearest(groups):
    message = told(["gsm8k,gsm8k_symbolc"], include_path=groups)
    assert "'gsm8k_symbolc' is not known; did you mean 'gsm8k_symbolic'" in message
    assert "'zzzzqqqq*' is not known; 'dlm-eval ls tasks'" in told(
        ["zzzzqqqq*"], include_path=groups
    )


@pytest.mark.parametrize("specs", [[], [""], [" , "]])
def test_no_task_at_all(specs):
    assert told(specs).startswith("--tasks is empty")


def test_a_file_that_is_not_there(tmp_path):
    assert f"'{tmp_path}/no.yaml': no such YAML file" in told([f"{tmp_path}/no.yaml"])


def test_include_path_that_is_not_there(tmp_path):
    assert (
        told(["gsm8k"], include_path=str(tmp_path / "no"))
        == f"--include_path '{tmp_path}/no' is not a directory"
    )
    assert "no' is not a directory" in told(["gsm8k"], include_path=f"{tmp_path}:{tmp_path}/no")


def test_broken_yaml_names_file_and_line(tmp_path):
    written(tmp_path, QUIZ + "metadata: [1, 2\nrepeats: 1\n")
    message = told(["gsm8k"], include_path=tmp_path)
    assert f"{tmp_path}/quiz.yaml, line 13: broken YAML" in message


def test_a_broken_included_file_is_named(tmp_path):
    written(tmp_path, "include: base\n" + QUIZ)
    written(tmp_path, "output_type: 'generate\n", name="base")
    assert f"{tmp_path}/base, line 2: broken YAML" in told(["quiz"], include_path=tmp_path)
    (tmp_path / "base").unlink()
    assert f"{tmp_path}/quiz.yaml: cannot be read" in told(["quiz"], include_path=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (QUIZ + "doc_to_txt: x\n", ["quiz.yaml: key 'doc_to_txt'", "'doc_to_text'"]),
        (QUIZ.replace("exact_match", "exact_macth"), ["metric 'exact_macth'", "'exact_match'"]),
        (QUIZ.replace("aggregation: mean", "aggregation: maen"), ["aggregation 'maen'", "'mean'"]),
        (
            QUIZ + "filter_list: [{name: a, filter: [{function: take_frist}]}]\n",
            ["filter 'take_frist'", "'take_first'"],
        ),
        (
            QUIZ.replace("  - {metric: exact_match", "  - - {metric: exact_match"),
            ["metric_list must be a list of"],
        ),
        (QUIZ.replace("task: quiz", "taks: quiz"), ["quiz.yaml: has neither 'task' nor 'group'"]),
        ("- a\n- b\n", ["quiz.yaml: cannot be read"]),
    ],
)
def test_wrong_yaml_is_told(tmp_path, wrong, words):
    message = told(["quiz"], include_path=written(tmp_path, wrong))
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (QUIZ + "process_docs: !function no.such.module\n", ["'quiz'", "ImportError", "no.such"]),
        (QUIZ.replace("test_split: test", "test_split: tset"), ["'quiz'", "no split", "'tset'"]),
        (
            QUIZ.replace("doc_to_text: question", 'doc_to_text: "{{qestion}}"'),
            ["'quiz'", "'qestion' is undefined"],
        ),
        (
            QUIZ.replace("output_type: generate_until", "output_type: generate"),
            ["quiz.yaml: output_type 'generate'", "'generate_until'"],
        ),
    ],
)
def test_a_task_that_cannot_be_built_is_told(own_data, tmp_path, wrong, words):
    message = told(["quiz"], include_path=written(tmp_path, wrong), data_dir=own_data)
    assert all(word in message for word in words)


def test_templates_that_others_include_are_no_tasks(own_data, tmp_path):
    written(tmp_path, QUIZ.replace("task: quiz\n", ""), name="common.yaml")
    written(tmp_path, "include: common.yaml\ntask: quiz\n")
    assert names(["quiz"], include_path=tmp_path, data_dir=own_data) == ["quiz"]


def test_a_task_twice_is_told(own_data, tmp_path):
    assert "Duplicate task 'glue_cola'" in told(["glue", "glue_cola"], data_dir=own_data)


def test_a_group_with_a_stranger_is_told(own_data, groups):
    assert (
        told(["odd"], include_path=groups, data_dir=own_data)
        == "group 'odd': task 'gsm9k' is not known"
    )


def test_a_group_may_name_lm_evals_tasks(own_data, groups):
    assert names(["both"], include_path=groups, data_dir=own_data) == ["gsm8k_chat", "gsm8k_cot"]


def test_missing_data_names_the_task(tmp_path):
    message = told(["glue_qqp"], data_dir=tmp_path)
    assert message.startswith(
        "task 'glue_qqp': cannot load dataset 'nyu-mll/glue' (configuration 'qqp')"
    )


# -- examples to show ------------------------------------------------------------------------------


def test_more_examples_than_there_are(own_data):
    loaded = load_tasks(["glue_cola", "gsm8k", "demo_story_infill"], data_dir=own_data)
    check_fewshot(loaded, None)
    check_fewshot(loaded, 2)
    with pytest.raises(UserError, match="--num_fewshot 3: task 'glue_cola' has only 2 examples"):
        check_fewshot(loaded, 3)
    with pytest.raises(UserError, match="--num_fewshot -1 is not allowed"):
        check_fewshot(loaded, -1)


def test_a_zero_in_the_yaml_stands():
    loaded = load_tasks(["demo_story_infill"])
    check_fewshot(loaded, 1000)
    (task,) = loaded["tasks"].values()
    task.set_config(key="num_fewshot", value=None)
    with pytest.raises(UserError, match="has only"):
        check_fewshot(loaded, 1000)


# -- no documents ----------------------------------------------------------------------------------


def test_a_task_without_documents_is_told(tmp_path):
    data = tmp_path / "data.jsonl"
    local = QUIZ.replace("openai/gsm8k\ndataset_name: main", "json").replace(
        "test_split: test\nfewshot_split: train",
        f"test_split: test\ndataset_kwargs: {{data_files: {{test: {data}}}}}",
    )
    (tmp_path / "quiz.yaml").write_text(local)
    data.write_text("")
    assert "task 'quiz' has no documents" in told(["quiz"], include_path=tmp_path)
    data.write_text('{"question": "1 + 1", "answer": "2"}\n')
    assert names(["quiz"], include_path=tmp_path) == ["quiz"]
    (tmp_path / "keep.py").write_text("def none(documents):\n    return documents.select([])\n")
    (tmp_path / "quiz.yaml").write_text(local + "process_docs: !function keep.none\n")
    assert "task 'quiz' has no documents" in told(["quiz"], include_path=tmp_path)


def test_a_metric_of_its_own_needs_an_aggregation(tmp_path):
    (tmp_path / "own.py").write_text("def own(doc, results):\n    return {'own_f1': 1.0}\n")
    text = QUIZ.replace("exact_match, aggregation: mean", "own_f1, agregation: mean")
    path = written(tmp_path, text + "process_results: !function own.own\n")
    assert "metric 'own_f1' of metric_list needs an aggregation ('agregation' is there)" in told(
        [str(path)]
    )


def test_a_task_that_names_no_data_is_told(tmp_path):
    file = tmp_path / "quiz.yaml"
    file.write_text(QUIZ.replace("dataset_path: openai/gsm8k\n", ""))
    assert "quiz.yaml': dataset_path is missing; it must be" in told(str(file))
