"""Small lm-eval tasks on disk, written by us: one of each request type, for the tests of the harness."""

from __future__ import annotations

import json
from pathlib import Path

CHOICE = """
task: t_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
LAST = """
task: t_last
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: " {{{{word}}}}"
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WRITE = """
task: t_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: ["zz"], max_gen_toks: 8, do_sample: false, temperature: 0.0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
ROLL = """
task: t_roll
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}}]
"""
INFILL = """
task: t_infill
class: !function dlm_eval.harness.infill.InfillTask
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: generate_until
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{word}}}}"
generation_kwargs: {{until: []}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0, infill: {{suffix: "abc", length: oracle+2, reference: word}}}}
"""
GROUP = """
group: t_all
task: [t_choice, t_last, t_write, t_roll, t_infill]
metadata: {version: 1.0}
"""

DOCUMENTS = [
    {"text": "abcab", "choices": [" ab", " cc", " d"], "answer": 1, "word": "cab"},
    {"text": "ddcbaabc", "choices": [" fed", " a", " bc"], "answer": 0, "word": "de"},
    {"text": "fab", "choices": [" dad", " cab", " fee"], "answer": 2, "word": "face"},
    {"text": "aabbccddee", "choices": [" ff", " ae", " bad"], "answer": 0, "word": "feed"},
    {"text": "cabbage", "choices": [" deaf", " b", " aa"], "answer": 1, "word": "bead"},
]


def write_tasks(folder: Path, documents: list[dict[str, object]] = DOCUMENTS) -> Path:
    """Writes the tasks t_choice, t_last, t_write, t_roll, t_infill and the group t_all into `folder`; returns it."""
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(d) + "\n" for d in documents))
    for text in (CHOICE, LAST, WRITE, ROLL, INFILL):
        name = text.split("task: ")[1].split("\n")[0]
        (folder / f"{name}.yaml").write_text(text.format(data=data))
    (folder / "t_all.yaml").write_text(GROUP)
    return folder
