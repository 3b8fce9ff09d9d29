"""Documents of ours in the form of the data sets that lm-eval's code tasks read: every one of those tasks loads on them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HUMANEVAL = {
    "task_id": "ours/double",
    "prompt": "def double(x):\n",
    "canonical_solution": "    return x + x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate('a') == 'aa'\n",
    "entry_point": "double",
    "suffix": "",
}
PLUS = {
    **HUMANEVAL,
    "test": "import numpy as np\n\ndef check(candidate):\n    assert np.allclose(candidate(np.ones(2)), 2)\n",
}
MBPP = {
    "task_id": 1,
    "text": "Write a function that adds two numbers.",
    "prompt": "Write a function that adds two numbers.",
    "code": "def add(a, b):\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 1) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
    "test_imports": [],
}
SANITIZED = {
    **MBPP,
    "prompt": "Write a function that rounds a number up.",
    "code": "def up(x):\n    return -int(-x // 1)",
    "test_imports": ["import math"],
    "test_list": [f"assert up({x}) == math.ceil({x})" for x in (1.5, 2, -0.5, 3.25)],
}
SETUP = {  # the tests use what the set-up code makes of the answer
    **MBPP,
    "text": "Write a class Pair of two numbers, and a function that adds them.",
    "code": "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
    "def total(pair):\n    return pair.a + pair.b",
    "test_setup_code": "one = Pair(1, 2)\r\ntwo = Pair(2, 2)\r\ntwo.b = 5",
    "test_list": ["assert total(one) == 3", "assert total(two) == 7", "assert two.b == 5"],
}
MBPP_PLUS = {  # MBPP's tests do not tell `a + b` from `abs(a + b)`, EvalPlus's do
    **MBPP,
    "test": "import numpy as np\n\ndef assertion(out, exp, atol):\n"
    "    assert out == exp or np.allclose(out, exp, rtol=1e-07, atol=atol)\n\n"
    "inputs = [[1, 2], [-1, -1], [0.1, 0.2]]\nresults = [3, -2, 0.3]\n"
    "for inp, exp in zip(inputs, results):\n    assertion(add(*inp), exp, 1e-6)\n",
}
CRUXEVAL = {"id": "ours_0", "code": "def f(x):\n    return x * 2", "input": "3", "output": "6"}
LONGPROC = {
    "input_prompt": "Reach 6 from 1, 2, 3.",
    "reference_output": "1+2=3",
    "metadata": json.dumps({"nums": [1, 2, 3, 4], "target": 6, "testcases": [[["1"], ["2"]]]}),
}
LENGTHS = ("0.5k", "2k", "8k")
KINDS = (
    "countdown",
    "html_to_tsv",
    "path_traversal",
    "pseudo_to_code",
    "tom_tracking",
    "travel_planning",
)
INFILLING = (
    "MultiLineInfilling",
    "SingleLineInfilling",
    "RandomSpanInfilling",
    "RandomSpanInfillingLight",
)
DATASETS: dict[str, Mapping[str, Any]] = {
    "openai/openai_humaneval": {"openai_humaneval": HUMANEVAL},
    "evalplus/humanevalplus": {"default": PLUS},
    "google-research-datasets/mbpp": {"full": MBPP, "sanitized": SANITIZED},
    "evalplus/mbppplus": {"default": MBPP_PLUS},
    "loubnabnl/humaneval_infilling": {f"HumanEval-{name}": HUMANEVAL for name in INFILLING},
    "cruxeval-org/cruxeval": {"default": CRUXEVAL},
    "PrincetonPli/LongProc": {f"{kind}_{length}": LONGPROC for kind in KINDS for length in LENGTHS},
}


def write(
    folder: Path, datasets: Mapping[str, Mapping[str, Any]] = DATASETS, copies: int = 1
) -> Path:
    """Writes the documents below a folder in the layout of the hub; returns the folder.

    Args:
        folder: the data directory.
        datasets: documents, or lists of them, by data set and configuration.
        copies: how often each document stands there.
    """
    for path, configs in datasets.items():
        card = ["---", "configs:"]
        for config, documents in configs.items():
            rows: Sequence[Any] = documents if isinstance(documents, list) else [documents]
            card += [f'- config_name: "{config}"', "  data_files:"]
            for split in ("test", "prompt") if config == "sanitized" else ("test",):
                file = folder / path / config / f"{split}.jsonl"
                file.parent.mkdir(parents=True, exist_ok=True)
                enough = copies if split == "test" else 3  # examples
                file.write_text("".join(json.dumps(row) + "\n" for row in rows) * enough)
                card += [f"  - split: {split}\n    path: {config}/{split}.jsonl"]
        (folder / path / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder
