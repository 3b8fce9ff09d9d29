"""The strategies by name."""

from __future__ import annotations

from dlm_eval.decoding import rates
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
    "random": Strategy("places drawn at random, so many each step (LLaDA random)", st.at_random, None, by_chance=True),
    "left_to_right": Strategy("in reading order (SDAR sequential)", st.in_reading_order, None),
    "timestep": Strategy(
        "each position with probability 1 - s/t, all that is left in the last step (Dream origin; eps=0: DiffuLLaMA random keep)",
        st.by_timestep,
        None,
        None,
        by_chance=True,
    ),
    "ddpm": Strategy(
        "ancestral sampling: each position with probability 1 - s/t, what is left as the most probable token (MDLM, BD3LM)",
        rates.by_chance,
        None,
        None,
        removes_noise=True,
        by_chance=True,
    ),
    "analytic": Strategy(
        "each position by its exact reverse transition, what is left drawn (SEDD analytic, Tweedie tau-leaping; MDLM analytic)",
        rates.by_chance,
        "probability",
        None,
        removes_noise=True,
        by_chance=True,
    ),
    "first_hitting": Strategy(
        "one position at random per step: the reverse process without steps that change nothing (BD3LM first_hitting)",
        st.first_hit,
        None,
        None,
        by_chance=True,
    ),
    "threshold": Strategy(
        "all candidates at least as probable as a threshold, at least one (Fast-dLLM, SDAR dynamic, LLaDA2)",
        st.above_threshold,
        "probability",
        None,
        ("threshold", "quota_is"),
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
    "window": Strategy(
        "within a window behind the first open position, all with little entropy, the nearer ones first (WeDLM)",
        st.within_window,
        "entropy",
        None,
        ("window", "entropy_threshold", "pos_penalty"),
        slides=True,
    ),
    "rdm": Strategy(
        "the highest scores of all positions; written tokens among the lowest are masked again (RDM, DiffusionLLM)",
        re.rdm_write,
        "probability",
        "cosine",
        ("rdm_condition", "rdm_noise"),
        re.rdm_erase,
        "steps",
    ),
    "p2": Strategy(
        "as rdm, the model planning with eta times a written token's log-probability (P2 self-planning)",
        re.p2_write,
        "probability",
        "linear",
        ("p2_eta",),
        re.p2_erase,
        "steps",
    ),
    "remask": Strategy(
        "by chance, and written tokens are masked again by chance (ReMDM cap, rescale, conf, loop)",
        re.remask_write,
        None,
        None,
        ("remask", "eta", "t_on", "t_off", "alpha_on"),
        re.remask_erase,
        "steps",
        removes_noise=True,
        by_chance=True,
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
    "renoise": Strategy(
        "canvas by canvas from random tokens: the surest are accepted, the others drawn anew (DiffusionGemma; process 'canvas')",
        re.rewrite_all,
        "entropy",
        None,
        ("accept_bound", "t_start", "t_end", "halt", "halt_threshold", "halt_min_steps"),
        None,
        "steps",
        ("canvas",),
    ),
    "euler": Strategy(
        "Euler steps of the reverse process: of its rates (SEDD euler), of its embeddings in models of process 'gaussian' (CDCD, DDLM)",
        rates.by_chance,
        "probability",
        None,
        ("noise_scale", "score_temperature", "halt", "halt_threshold", "halt_min_steps"),
        processes=("absorbing", "gaussian"),
        removes_noise=True,
        by_chance=True,
    ),
}
ALIASES = {"ddpm_cache": "ddpm"}  # other names of the same: forwards without effect are never run
STRATEGY_NAMES = (*STRATEGIES, *ALIASES)


def strategy(name: str) -> Strategy:
    """Returns the strategy called `name`.

    Raises:
        UserError: no such strategy; the message has the nearest name.
    """
    if name not in STRATEGY_NAMES:
        raise unknown("strategy", name, STRATEGY_NAMES)
    return STRATEGIES[ALIASES.get(name, name)]


def default_strategy(process: str) -> str:
    """Returns the strategy that models of `process` are decoded with where nobody names one: the first in the table."""
    return next(name for name, method in STRATEGIES.items() if process in method.processes)


def describe_strategies() -> dict[str, str]:
    """Returns name -> one line, for `dlm-eval ls strategies`."""
    lines = {name: method.about for name, method in STRATEGIES.items()}
    for alias, name in ALIASES.items():
        lines[alias] = f"another name of {name}: a forward that changes nothing is never run (MDLM)"
    return lines
