"""Every task of ours on documents of our own and on the real files: prompts, targets, counts, scores of right answers."""

from __future__ import annotations

from pathlib import Path

import lm_eval
import pytest
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from dlm_eval.harness.lm_eval_patches import local_first
from dlm_eval.harness.requests import Hole, Length
from dlm_eval.harness.tasks import load_tasks
from dlm_eval.metrics import code

STOCK = Path(lm_eval.__file__).parent / "tasks"
GLUE = ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "mnli_mismatched", "qnli", "rte", "wnli"]
OTHERS = [
    "triviaqa",
    "triviaqa_fixed_length",
    "triviaqa_oracle_length",
    "lambada_diffullama",
    "lambada_openai",
    "gsm8k",
    "gsm8k_chat",
    "gsm8k_symbolic",
    "rocstories_infill",
]


@pytest.fixture(scope="module")
def tasks(own_data):
    loaded = load_tasks(["glue", *OTHERS], data_dir=own_data)["tasks"]
    for task in loaded.values():
        build(task)
    return loaded


def build(task, shots=None, limit=None):
    task.set_config("num_fewshot", shots if shots is not None else task.config.num_fewshot or 0)
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=limit)
    return task.instances


def stock(path, data):
    with local_first(data):
        (task,) = TaskManager(include_defaults=False).load([str(STOCK / path)])["tasks"].values()
    return task


class Oracle(LM):
    """Knows the answers: what a task scores when everything is right."""

    def loglikelihood(self, requests):
        return [(-0.1, True) if right(request) else (-9.0, False) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        return [gold(request.doc) for request in requests]


def right(request):
    label = request.doc.get("label", request.doc.get("answer"))
    return label is None or request.idx == int(label + 0.5)


def gold(doc):
    if "canonical_solution" in doc:
        return doc["canonical_solution"]
    if "cot" in doc:
        return f"{doc['cot']} #### {doc['answer']}"
    if "text" in doc:
        return " " + doc["text"].split()[-1]
    if "middle" in doc or "input_sentence_3" in doc:
        return doc.get("middle") or doc["input_sentence_3"]
    return " " + (
        doc["answer"]["aliases"][-1] if isinstance(doc["answer"], dict) else doc["answer"]
    )


def evaluate(loaded):
    for task in loaded["tasks"].values():
        task.set_config("num_fewshot", task.config.num_fewshot or 0)
        task.set_fewshot_seed(1234)
    return evaluator.evaluate(
        Oracle(), task_dict=loaded, bootstrap_iters=20, confirm_run_unsafe_code=True
    )["results"]


# -- scores ----------------------------------------------------------------------------------------


def test_right_answers_score_full_marks(own_data):
    results = evaluate(load_tasks(["glue", *OTHERS], data_dir=own_data))
    wanted = {f"glue_{name}": {"acc,none": 1.0} for name in GLUE if name not in ("cola", "stsb")}
    wanted["glue_cola"] = {"mcc,none": 1.0}
    wanted["glue_mrpc"]["f1,none"] = wanted["glue_qqp"]["f1,none"] = 1.0
    trivia = dict.fromkeys(
        (f"{name},none" for name in ("exact_match", "em_official", "alias_match", "f1")), 1.0
    )
    wanted |= {
        "triviaqa": trivia,
        "triviaqa_fixed_length": trivia,
        "triviaqa_oracle_length": trivia,
    }
    strict = {"exact_match,strict-match": 1.0, "exact_match,flexible-extract": 1.0}
    wanted |= {"gsm8k": strict, "gsm8k_chat": strict, "gsm8k_symbolic": {"exact_match,none": 1.0}}
    wanted |= {"lambada_diffullama": {"exact_match,none": 1.0}, "lambada_openai": {"acc,none": 1.0}}
    wanted["rocstories_infill"] = {"rouge1,none": 100.0, "rouge2,none": 100.0, "rougeL,none": 100.0}
    for name, metrics in wanted.items():
        assert {key: results[name][key] for key in metrics} == pytest.approx(metrics), name
    assert results["lambada_openai"]["perplexity,none"] == pytest.approx(2.718281828**0.1)
    # the expectation of a sure model is the rounded label: 4.8, 2.5, 0.0, 3.4 become 5, 3, 0, 3
    assert results["glue_stsb"]["pearson,none"] == pytest.approx(
        12.275 / (12.2275 * 12.75) ** 0.5, abs=1e-3
    )
    assert results["glue_stsb"]["spearman,none"] == pytest.approx(4.5 / (5 * 4.5) ** 0.5)


def test_standard_errors_stand_beside_the_metrics(own_data):
    results = evaluate(
        load_tasks(["glue_cola", "glue_mrpc", "gsm8k", "rocstories_infill"], data_dir=own_data)
    )
    for name, key in [
        ("glue_cola", "mcc_stderr,none"),
        ("glue_mrpc", "f1_stderr,none"),
        ("gsm8k", "exact_match_stderr,strict-match"),
        ("rocstories_infill", "rougeL_stderr,none"),
    ]:
        assert results[name][key] >= 0


def test_wrong_answers_of_gsm8k(tasks):
    for name in ("gsm8k", "gsm8k_chat"):
        task = tasks[name]
        doc = task.eval_docs[1]  # 1,200
        assert task.process_results(doc, ["1200"])["exact_match"] == 1.0
        assert task.process_results(doc, ["1,200."])["exact_match"] == 1.0
        assert task.process_results(doc, ["120"])["exact_match"] == 0.0
        assert task.process_results(doc, ["[invalid]"])["exact_match"] == 0.0


# -- prompts ---------------------------------------------------------------------------------------


def test_numbers_of_documents(tasks):
    counts = {name: len(task.eval_docs) for name, task in tasks.items()}
    expected = dict(
        zip([f"glue_{name}" for name in GLUE], [4, 3, 3, 4, 4, 2, 3, 2, 2, 2], strict=True)
    )
    assert counts == expected | dict(zip(OTHERS, [4, 4, 4, 3, 2, 3, 3, 2, 2], strict=True))


@pytest.mark.parametrize(
    ("name", "context", "choices"),
    [
        (
            "glue_qqp",
            "Question 1: How can I learn to swim?\nQuestion 2: What is a good way to learn swimming?\n"
            "Question: Do both questions ask the same thing?\nAnswer:",
            [" no", " yes"],
        ),
        (
            "glue_mnli_mismatched",
            "He walked to work because the bus did not come.\nQuestion: He took the bus. True, False or Neither?\nAnswer:",
            [" True", " Neither", " False"],
        ),
        (
            "glue_stsb",
            "Sentence 1: A dog sleeps on a mat.\nSentence 2: A dog is asleep on a mat.\n"
            "Question: How similar in meaning are both sentences, from 0 (unrelated) to 5 (the same)?\nAnswer:",
            [" 0", " 1", " 2", " 3", " 4", " 5"],
        ),
    ],
)
def test_glue_questions(tasks, name, context, choices):
    asked = [request.args for request in tasks[name].instances if request.doc_id == 0]
    assert asked == [(context, choice) for choice in choices]


def test_glue_shows_examples_when_asked(own_data):
    (task,) = load_tasks(["glue_stsb"], data_dir=own_data)["tasks"].values()
    context = build(task, shots=2)[0].args[0]
    assert context.count("\n\n") == 2
    assert (
        "A boy runs.\nQuestion: How similar in meaning are both sentences, from 0 (unrelated) to 5 (the same)?"
        in context
    )
    assert "\nAnswer: 5\n\n" in context and "\nAnswer: 0\n\n" in context  # 0.2 is shown as 0


@pytest.mark.parametrize(
    ("name", "context", "arguments"),
    [
        (
            "triviaqa_oracle_length",
            "Question: Which metal has the symbol Fe??\nAnswer: ",
            {
                "until": [],
                "preset": "diffullama",
                "steps": "length",
                "hole": Hole(
                    Length(None, 10),
                    references=("Iron", "Fe", "Iron (element)"),
                    special_tokens="tokenizer",
                ),
            },
        ),
        (
            "triviaqa",
            "Question: Which metal has the symbol Fe??\nAnswer:",
            {"until": ["\n", ".", ","], "max_gen_toks": 32, "do_sample": False},
        ),
        (
            "lambada_diffullama",
            "nora had lost her ring in the garden . she looked under every rose , and behind the last one she found the",
            {
                "until": [],
                "preset": "diffullama",
                "steps": "length",
                "decode_temperature": 1.0,
                "hole": Hole(
                    Length(), references=(" ring",), measure="in_place", special_tokens="tokenizer"
                ),
            },
        ),
        (
            "gsm8k_symbolic",
            "Jon saves $15 a week. How much does he save in 8 weeks?========",
            {
                "until": [],
                "preset": "diffullama",
                "steps": 64,
                "decode_temperature": 0.0,
                "hole": Hole(Length(256), measure="canvas"),
            },
        ),
        (
            "gsm8k_chat",
            "Jon saves $15 a week. How much does he save in 8 weeks?\nReason step by step. Then write the final answer on"
            " a line of its own as #### followed by the number.",
            {"until": [], "do_sample": False},
        ),
        (
            "rocstories_infill",
            "Mia found a kitten. It was cold and wet.",
            {
                "until": [],
                "preset": "diffullama",
                "steps": 32,
                "hole": Hole(
                    Length(),
                    "Her mother called the neighbours. The kitten was theirs.",
                    ("She dried it with a towel.",),
                    special_tokens="none",
                ),
            },
        ),
    ],
)
def test_generation_requests(tasks, name, context, arguments):
    assert tasks[name].instances[0].args == (context, arguments)


def test_second_story_ends_with_its_right_ending(tasks):
    arguments = tasks["rocstories_infill"].instances[1].args[1]
    assert arguments["hole"].suffix == "He waited for three hours. The bread was hard as stone."


def test_doubled_spaces_are_single_in_lambadas_prefix(tasks):
    context, arguments = tasks["lambada_diffullama"].instances[1].args
    assert context.endswith("door opened and in came") and arguments["hole"].references == (" ben",)


# -- equal to lm-eval's own tasks ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (f"glue_{name}", f"glue/{name}/default.yaml")
        for name in GLUE
        if name not in ("stsb", "mnli_mismatched")
    ]
    + [
        ("glue_mnli_mismatched", "glue/mnli/mismatch.yaml"),
        ("lambada_openai", "lambada/lambada_openai.yaml"),
        ("triviaqa_fixed_length", "triviaqa/default.yaml"),
        ("gsm8k", "gsm8k/gsm8k.yaml"),
    ],
)
@pytest.mark.parametrize("shots", [0, 2])
def test_prompts_are_those_of_lm_eval(own_data, name, path, shots):
    if shots and name == "lambada_openai":
        pytest.skip("lm-eval's own lambada_openai shows the document itself among its examples")
    (ours,) = load_tasks([name], data_dir=own_data)["tasks"].values()
    theirs = stock(path, own_data)
    assert [request.args[0] for request in build(ours, shots)] == [
        request.args[0] for request in build(theirs, shots)
    ]
    if ours.OUTPUT_TYPE != "generate_until":
        assert [request.args[1] for request in ours.instances] == [
            request.args[1] for request in theirs.instances
        ]
    assert [ours.doc_to_target(doc) for doc in ours.eval_docs] == [
        theirs.doc_to_target(doc) for doc in theirs.eval_docs
    ]


def test_gsm8k_is_lm_evals_task(own_data):
    (ours,) = load_tasks(["gsm8k"], data_dir=own_data)["tasks"].values()
    theirs = stock("gsm8k/gsm8k.yaml", own_data)
    for key in (
        "num_fewshot",
        "filter_list",
        "metric_list",
        "target_delimiter",
        "fewshot_delimiter",
        "repeats",
    ):
        assert ours.config[key] == theirs.config[key], key
    assert ours.config.generation_kwargs["until"] == theirs.config.generation_kwargs["until"]
    answers = [
        "#### 120",
        "so 119\n#### $120.",
        "it is 120",
        "#### 1,200 or 1200",
        "-5",
        "#### -5",
        "none",
    ]
    for doc in ours.eval_docs:
        for answer in answers:
            assert scored(ours, doc, answer) == scored(theirs, doc, answer)


def scored(task, doc, answer):
    (request,) = [r for r in build(task, 0) if r.doc == doc]
    request.resps = [answer]
    task._instances = [request]
    task.apply_filters()
    return {
        name: task.process_results(doc, [kept]) for name, kept in request.filtered_resps.items()
    }


# -- real files ------------------------------------------------------------------------------------

REAL = {
    "glue_cola": 1043,
    "glue_sst2": 872,
    "glue_mrpc": 408,
    "glue_stsb": 1500,
    "glue_mnli": 9815,
    "glue_qnli": 5463,
    "glue_rte": 277,
    "glue_wnli": 71,
    "triviaqa": 11313,
    "triviaqa_oracle_length": 2000,
    "lambada_diffullama": 5153,
    "lambada_openai": 5153,
    "gsm8k": 1319,
    "gsm8k_chat": 1319,
    "gsm8k_symbolic": 1319,
    "rocstories_infill": 1000,
}


def test_real_files(shared):
    tasks = load_tasks(list(REAL), data_dir=shared / "data")["tasks"]
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == REAL
    first = {name: build(task, 0, limit=1)[0].args[0] for name, task in tasks.items()}
    assert first["glue_cola"].startswith(
        "The sailors rode the breeze clear of the rocks.\nQuestion:"
    )
    assert (
        first["triviaqa_oracle_length"]
        == "Question: Who was the man behind The Chipmunks??\nAnswer: "
    )
    assert first["lambada_diffullama"].endswith("a confident grin , i do n't care about")
    assert first["rocstories_infill"].startswith("Rick grew up in a troubled household. He never")
    assert (
        tasks["rocstories_infill"].instances[0].args[1]["hole"].suffix.endswith(" He is happy now.")
    )


def test_gsm8k_prompts_on_the_real_file_are_lm_evals(shared):
    (ours,) = load_tasks(["gsm8k"], data_dir=shared / "data")["tasks"].values()
    theirs = stock("gsm8k/gsm8k.yaml", shared / "data")
    assert [r.args[0] for r in build(ours, limit=20)] == [
        r.args[0] for r in build(theirs, limit=20)
    ]
    assert ours.instances[0].args[0].count("Question:") == 6


def test_gold_answers_of_the_real_files_are_right(shared):
    names = ["triviaqa_oracle_length", "lambada_diffullama", "gsm8k_symbolic", "rocstories_infill"]
    tasks = load_tasks(names, data_dir=shared / "data")["tasks"]
    keys = dict(zip(names, ["exact_match", "exact_match", "exact_match", "rougeL"], strict=True))
    for name, task in tasks.items():
        scores = [task.process_results(doc, [gold(doc)])[keys[name]] for doc in task.eval_docs]
        assert min(scores) == (pytest.approx(100.0) if name == "rocstories_infill" else 1.0), name


# -- demo ------------------------------------------------------------------------------------------


def test_demo_tasks_stand_beside_their_documents():
    loaded = load_tasks(["demo"])
    counts = {name: len(task.eval_docs) for name, task in loaded["tasks"].items()}
    assert list(counts) == loaded["group_map"]["demo"]
    assert counts == {
        "demo_choice": 100,
        "demo_last_word": 100,
        "demo_word_problem": 60,
        "demo_story_infill": 60,
        "demo_code_infill": 30,
    }


def test_demo_with_right_answers():
    results = evaluate(load_tasks(["demo"]))
    assert results["demo_choice"]["acc,none"] == results["demo_last_word"]["acc,none"] == 1.0
    assert results["demo_choice"]["acc_norm,none"] == 1.0
    assert results["demo_word_problem"]["exact_match,strict-match"] == 1.0
    assert results["demo_story_infill"]["rougeL,none"] == pytest.approx(100.0)
    failures = [verdict.reason for verdict in code.METRIC._verdicts.values() if not verdict.passed]
    assert results["demo_code_infill"]["pass@1,none"] == 1.0, failures


def test_demo_requests_join_to_the_texts_that_tiny_learned():
    tasks = load_tasks(["demo_choice", "demo_last_word", "demo_story_infill"])["tasks"]
    requests = {name: build(task, 0)[0] for name, task in tasks.items()}
    word, story = requests["demo_last_word"], requests["demo_story_infill"]
    assert "".join(word.args) == word.doc["text"]
    context, choice = requests["demo_choice"].args
    assert not context.endswith(" ") and choice.startswith(" ") and not choice.startswith("  ")
    whole = story.args[0] + story.args[1]["hole"].references[0] + story.args[1]["hole"].suffix
    assert "  " not in whole and whole.count(".") == 5
