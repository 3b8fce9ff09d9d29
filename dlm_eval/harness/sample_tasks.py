"""Tasks whose samples a judge model scores (metrics/samples.py).

A YAML names one of the two classes; its metadata names the judge. `--metadata
judge=ID_OR_DIR,judge_device=cuda:1,n_samples=256` on the command line overrides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from dlm_eval.harness.infill import InfillTask
from dlm_eval.metrics.judge import find_judge

JUDGE = "gpt2-large"  # of DiffuGPT, SEDD and MDLM


class SampleTask(ConfigurableTask):  # type: ignore[misc]
    """An lm-eval ``generate_until`` task whose samples a judge scores.

    The judge is the third argument of its ``process_results``.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, **_: Any) -> None:
        settings = {key: value for key, value in dict(config or {}).items() if key != "class"}
        said = dict(settings.get("metadata") or {})
        self.judge = find_judge(str(said.get("judge") or JUDGE), str(said.get("judge_device") or "auto"))
        shown = {
            "judge": self.judge.folder.name,
            "judge_commit": self.judge.folder.commit,
        }  # no folder of this machine in results
        super().__init__(config={**settings, "metadata": {**said, **shown}})

    def process_results(self, doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
        """Returns the result of the YAML's function for one sample."""
        found: dict[str, Any] = self.config.process_results(doc, results, self.judge)
        return found


class InfillSampleTask(SampleTask, InfillTask):
    """The same with text after the hole."""
