"""What `--log_trajectories` costs: bytes per token in journal and samples file, and processor time.

    python benchmarks/trajectories.py [--documents 60] [--length 200]

The model is `tiny` and the texts are its own answers; every run has its own folder. `rest` is the
samples file without trajectories. Processor seconds are those of turning fillings into trajectories
and of `json.dumps`, for all documents; the forward passes are the same with and without.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from dlm_eval import Canvas, fill, load_model
from dlm_eval.answers import encode_answer
from dlm_eval.harness.trajectories import TokenTexts, trajectory
from dlm_eval.jobs import Answer


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--length", type=int, default=200)
    args = parser.parse_args()
    model = load_model("tiny")
    prompts = [model.encode(f"Question: Tom has {i} cups. Answer:") for i in range(args.documents)]
    canvases = [Canvas.completion(prompt, args.length, str(i)) for i, prompt in enumerate(prompts)]
    fillings = fill(model, canvases, steps=8, early_exit=False, temperature=1.0)
    tokens = sum(len(filling.tokens) for filling in fillings)

    def size(values: list[Any]) -> float:
        return sum(len(json.dumps(value)) for value in values) / tokens

    answers = [Answer(filling, None, 8, 0.1) for filling in fillings]
    plain = [{**encode_answer(answer), "value": vars(answer.value)} for answer in answers]
    short = [encode_answer(answer) for answer in answers]
    bare = [{**one, "value": {**one["value"], "confidence": [], "step": []}} for one in short]
    texts = TokenTexts(model)
    begin = time.process_time()
    logged = [trajectory(filling, texts) for filling in fillings]
    made = time.process_time() - begin
    begin = time.process_time()
    size(logged)
    written = time.process_time() - begin
    print(f"{tokens} tokens of {args.documents} answers; bytes per token")
    print(f"journal, without step and confidence     {size(bare):6.1f}")
    print(f"journal, confidence with all digits      {size(plain):6.1f}")
    print(f"journal, confidence with four digits     {size(short):6.1f}")
    print(f"samples file, trajectory                 {size(logged):6.1f}")
    for key in ("tokens", "text", "step", "confidence"):
        print(
            f"    {key:12}                         {size([one and one[key] for one in logged]):6.1f}"
        )
    print(
        f"processor: {1e6 * made / tokens:.2f} us a token to make, {1e6 * written / tokens:.2f} to write"
    )


if __name__ == "__main__":
    main()
