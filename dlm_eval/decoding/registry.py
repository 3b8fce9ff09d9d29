"""The strategies by name."""

from __future__ import annotations

from dlm_eval.decoding import rewriting as re
from dlm_eval.decoding import strategies as st
from dlm_eval.decoding.strategies import Strategy
from dlm_eval.errors import unknown

STRATEGIES: dict[str, Strategy] = {
    "confidence": Strategy(
        "the most probable candidates first (LLaDA low_confidence, Dream maskgit_plus, DiffuLLaMA with rescore)",
        st.by_score,
        "probability",
        options=("alg_temp", "rescore"),
    ),
    "margin": Strategy(
        "the largest lead over the runner-up first (Dream topk_margin)",
        st.by_score,
        "margin",
        options=("alg_temp", "rescore"),
    ),
    "entropy": Strategy(
        "the lowest entropy first (Dream entropy)", st.by_score, "entropy", options=("alg_temp", "rescore")
    ),
    "random": Strategy("places drawn at random, so many each step (LLaDA random)", st.at_random, None),
    "left_to_right": Strategy("in reading order (SDAR sequential)", st.in_reading_order, None),
    "timestep": Strategy(
        "each position with probability 1 - s/t (Dream origin, MDLM ancestral; eps=0: DiffuLLaMA random keep)",
        st.by_timestep,
        None,
        None,
    ),
    "threshold": Strategy(
        "all candidates at least as probable as a threshold, at least one (Fast-dLLM, SDAR dynamic, LLaDA2)",
        st.above_threshold,
        "probability",
        None,
        ("threshold",),
    ),
    "factor": Strategy(
        "the n most probable while the n-th is at least 1 - factor / (n + 1) (Fast-dLLM)",
        st.by_factor,
        "probability",
        None,
        ("factor",),
    ),
    "entropy_bound": Strategy(
        "as many as keep the joint entropy's excess under a bound (EB-sampler)",
        st.within_entropy_bound,
        "entropy",
        None,
        ("entropy_bound",),
    ),
    "rdm": Strategy(
        "the highest scores of all positions; written tokens among the lowest are masked again (RDM, DiffusionLLM; P2)",
        re.rdm_write,
        "probability",
        "cosine",
        ("rdm_condition", "rdm_noise"),
        re.rdm_erase,
        "steps",
    ),
    "remask": Strategy(
        "by chance, and written tokens are masked again by chance (ReMDM cap, rescale, conf)",
        re.remask_write,
        None,
        None,
        ("remask", "eta"),
        re.remask_erase,
        "steps",
    ),
    "edit": Strategy(
        "as threshold, and written tokens are replaced by more probable ones (LLaDA2.1)",
        re.edit,
        "probability",
        None,
        ("threshold", "editing_threshold", "num_to_transfer", "max_post_steps"),
        None,
        "settled",
    ),
    "rewrite": Strategy(
        "every position at every step, from random tokens (SUNDAE, AR2Diff; models of process 'uniform')",
        re.rewrite_all,
        "probability",
        None,
        (),
        None,
        "steps",
        ("uniform",),
    ),
    "euler": Strategy(
        "Euler steps of an embedding diffusion by score interpolation (CDCD, DDLM; models of process 'gaussian')",
        re.rewrite_all,
        "probability",
        None,
        ("noise_scale", "score_temperature", "halt", "halt_threshold", "halt_min_steps"),
        None,
        "steps",
        ("gaussian",),
    ),
}
STRATEGY_NAMES = tuple(STRATEGIES)


def strategy(name: str) -> Strategy:
    """Returns the strategy called `name`.

    Raises:
        UserError: no such strategy; the message has the nearest name.
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return STRATEGIES[name]


def default_strategy(process: str) -> str:
    """Returns the strategy that models of `process` are decoded with where nobody names one: the first in the table."""
    return next(name for name, method in STRATEGIES.items() if process in method.processes)


def describe_strategies() -> dict[str, str]:
    """Returns name -> one line, for `dlm-eval ls strategies`."""
    return {name: method.about for name, method in STRATEGIES.items()}
