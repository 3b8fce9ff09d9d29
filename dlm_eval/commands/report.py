"""What `dlm-eval run` prints at its end: the table, why samples erred, where the files are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm_eval.errors import DlmEvalError, RunError
from dlm_eval.output import one_line
from dlm_eval.printable import counted
from dlm_eval.stopping import drop_output

if TYPE_CHECKING:
    from dlm_eval.harness.run import Finished


def report(finished: Finished, output_path: str | None, show_config: bool) -> tuple[list[str], list[str]]:
    """Updates the board; returns what to print, and what is missing of all that the run should have left behind."""
    from dlm_eval.harness.run_settings import output_directory
    from dlm_eval.harness.saving import plain
    from dlm_eval.harness.table import render

    results, lines, missing = finished.results, [], list(finished.missing)
    if show_config:
        import json

        lines.append(json.dumps(plain({k: v for k, v in results.items() if k != "samples"}), indent=2))
    total = results["dlm_eval"]["cost"]["total"]
    took = f"{total['wall_seconds']:.1f} s, fingerprint {results['dlm_eval']['fingerprint'][:12]}"
    try:
        lines += [render(results), ""]
    except (ValueError, TypeError, OverflowError) as error:  # of numbers that a task made up
        missing.append(f"the table ({type(error).__name__}: {error})")
    lines.append(took)
    if finished.errors:
        lines.append(f"{counted(finished.errors, 'sample')} could not be answered or scored:\n{_reasons(results)}")
    if cut := sum(cost.get("truncated", 0) for name, cost in results["dlm_eval"]["cost"].items() if name != "total"):
        lines.append(
            f"{counted(cut, 'prompt')} did not fit the model: cut from the left (--overlong error refuses them)"
        )
    if finished.file is not None and output_path is not None:
        home = output_directory(output_path)
        lines.append(f"results: {one_line(str(finished.file))}")
        if any("," in key and not key.startswith("bypass") for scores in results["results"].values() for key in scores):
            try:
                lines.append(f"board:   {one_line(str(_update_board(home)))}")
            except DlmEvalError as error:
                missing.append(f"the board ({error})")
    return lines, missing


def _update_board(home: Path) -> Path:
    from dlm_eval.boards.leaderboard import leaderboard, write

    board = home / "leaderboard.csv"
    write(leaderboard([home]), board)
    return board


def say(lines: list[str]) -> None:
    """Prints a finished run's table.

    Raises:
        RunError: it could not be written, otherwise than because its reader has gone.
    """
    try:
        print("\n".join(lines), flush=True)
    except OSError as error:
        drop_output()
        if not isinstance(error, BrokenPipeError):
            raise RunError(f"the table could not be printed ({error.strerror}); the results are saved") from error


def _reasons(results: dict[str, Any], most: int = 3) -> str:
    """Returns the commonest reasons of the samples that erred, a line each."""
    from dlm_eval.harness.results import erred

    counts = Counter(one_line(reason) for reason in erred(results).values())
    lines = [f"  {count:5} {reason}" for reason, count in counts.most_common(most)]
    return "\n".join([*lines, *(["        others: see the samples files"] if len(counts) > most else [])])
