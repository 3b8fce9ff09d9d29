"""The cases that one loaded model answers: texts, likelihoods, fillings.

All through `load_model`, `Canvas`, `score` and `fill`. Settings and estimators are spelled as in the first recording; `Renamed` translates them.
On the models in `FULL` every strategy meets every setting in `DECODE` and every estimator its variants, on `TOGETHER_ON` every combination of those in
`TOGETHER` too; the others meet each once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import record_models
from record_format import Case, Renamed, listed

from dlm_eval import Canvas, SampleError, UserError, fill, load_model, score

FULL, TOGETHER_ON = ("llada", "toy_rough"), "llada"  # what caches can be tried on
TEXTS = (
    "the hen on the hat in the inn",
    " Two  blanks,\ta tab\nand 12.5 %",
    "",
    "é ü 日本 🙂",
    "<|mask|> <|eos|> [MASK] <s>",
    "abcabdfecabcabdfecabcabd",
)
NEEDS: dict[str, dict[str, Any]] = {  # settings without which a strategy is refused
    "threshold": {"threshold": 0.15},
    "factor": {"factor": 1.5},
    "entropy_bound": {"entropy_bound": 1.0},
    "edit": {"threshold": 0.15, "editing_threshold": 0.2},
}
DECODE: tuple[dict[str, Any], ...] = (
    {},
    {"steps": 4},
    {"steps": 3},
    {"steps": 16},
    {"steps_per_block": 2, "block_length": 4},
    {"block_length": 4},
    {"block_length": 4, "steps": 4},
    {"block_length": 3},
    *({"schedule": schedule, "steps": 5} for schedule in ("even", "carry", "linear", "cosine", "timestep")),
    {"schedule": "timestep", "steps": 5, "eps": 0.2},
    {"schedule": "timestep", "steps": 4, "batch_mean_quota": [12, 5, 8]},
    {"eps": 0.3, "steps": 6},
    {"temperature": 0.8},
    {"temperature": 0.8, "top_p": 0.7},
    {"temperature": 1.0, "top_k": 3},
    *({"temperature": 1.0, "top_p": 0.6, "top_k": 4, "nucleus": kind} for kind in ("reach", "within", "of_top_k")),
    {"logits_temp": 0.7},
    {"logits_temp": 0.7, "temperature": 0.9, "confidence_of": "drawn"},
    {"confidence_of": "drawn", "temperature": 1.0, "top_p": 0.8},
    {"rescore": True, "steps": 4},
    {"rescore": True, "steps": 4, "schedule": "linear"},
    {"alg_temp": 0.5, "steps": 4},
    {"threshold": 0.6},
    {"threshold": 0.3, "quota_is": "most", "schedule": "carry", "steps": 4},
    {"threshold": 0.3, "quota_is": "least", "schedule": "even", "steps": 4},
    {"factor": 0.5},
    {"entropy_bound": 0.2},
    {"window": 3},
    {"entropy_threshold": 1.5},
    {"pos_penalty": 0.5, "entropy_threshold": 2.5},
    {"rdm_condition": "cond", "steps": 5},
    {"rdm_noise": 0.5, "steps": 5},
    {"p2_eta": 0.5, "steps": 5},
    {"p2_eta": 2.0, "steps": 5},
    *({"remask": kind, "steps": 8, "eta": 0.3} for kind in ("cap", "rescale", "conf")),
    {"remask": "loop", "steps": 8, "eta": 0.3, "t_on": 0.7, "t_off": 0.2, "alpha_on": 0.6},
    {"editing_threshold": 0.05},
    {"num_to_transfer": 3},
    {"max_post_steps": 1},
    {"guidance": 1.5},
    {"guidance": 0.5, "guidance_convention": "dream"},
    {"logits_eos_inf": True},
    {"confidence_eos_eot_inf": True},
    {"allow_mask": False},
    {"samples": 3, "temperature": 1.0},
    {"samples": 3, "temperature": 1.0, "rerank": "score"},
    {"length_beam": 3},
    {"noise_scale": 0.5, "steps": 6},
    {"score_temperature": 0.5, "steps": 6},
    {"accept_bound": 1.0, "steps": 6},
    {"t_start": 1.0, "t_end": 0.1, "steps": 6},
    *({"halt": kind, "halt_threshold": bound, "halt_min_steps": 2, "steps": 8} for kind, bound in (
        ("entropy", 1.0), ("patience", 2.0), ("kl", 0.05), ("fixed", 3.0), ("confident", 2.0))),
    {"cache": "none"},
    {"cache": "prefix", "block_length": 4},
    {"cache": "dual", "block_length": 4},
    {"until": ["e"]},
    {"early_exit": False},
    {"strategy": "no_such"},
    {"stepz": 4},
)  # fmt: skip
# every combination of one value of each column
TOGETHER: tuple[tuple[dict[str, Any], ...], ...] = (
    ({}, {"temperature": 0.9, "top_p": 0.9, "confidence_of": "drawn"}),
    ({}, {"steps": 4}),
    ({"block_length": 4}, {"block_length": 2}),
    ({}, {"cache": "prefix"}, {"cache": "dual"}, {"guidance": 1.0}),
    ({}, {"early_exit": False, "logits_eos_inf": True}),
)
EACH: tuple[dict[str, Any], ...] = (  # what each strategy meets on every model
    {"steps": 8}, {"temperature": 0.9, "top_p": 0.9, "steps": 4}, {},
)  # fmt: skip
ONCE: tuple[dict[str, Any], ...] = (  # what one strategy of every model meets
    {"cache": "none"}, {"cache": "prefix", "block_length": 4}, {"cache": "dual", "block_length": 4}, {"guidance": 1.5}, {"logits_eos_inf": True},
    {"confidence_eos_eot_inf": True}, {"until": ["e"]}, {"early_exit": False}, {"samples": 2, "temperature": 1.0, "rerank": "score"},
    {"length_beam": 3}, {"block_length": 4, "steps": 4}, {"steps": 3, "halt": "fixed", "halt_threshold": 2.0}, {"allow_mask": False},
    {"noise_scale": 0.5, "steps": 6}, {"score_temperature": 0.5, "steps": 6}, {"accept_bound": 1.0, "steps": 6}, {"t_start": 1.0, "t_end": 0.1, "steps": 6},
    *({"halt": kind, "halt_threshold": bound, "halt_min_steps": 2, "steps": 8} for kind, bound in (
        ("entropy", 1.0), ("patience", 2.0), ("kl", 0.05), ("confident", 2.0))),
)  # fmt: skip
ESTIMATE: dict[str, tuple[dict[str, Any], ...]] = {  # options of estimators beside their budget, on FULL
    "auto": ({"samples": 128}, {"precision": 0.2}, {"target_stderr": 0.5}, {"cfg_scale": 1.0}, {"decide": 0.1}),
    "exact": ({"report": "likelihood"}, {"cfg_scale": 0.5}),
    "chain": ({"permutations": 8}, {"permutations": 5, "antithetic": False}, {"permutations": 16, "report": "likelihood"}, {"samples": 64}, {"cfg_scale": 1.0}),
    "cubature": ({"samples": 5}, {"samples": 32}, {"precision": 0.05, "samples": 64}, {"target_stderr": 0.3, "samples": 64}, {"cfg_scale": 1.0}),
    "k": ({"samples": 3}, {"samples": 16}, {"cfg_scale": 1.0}),
    "t": ({"samples": 3}, {"samples": 16}, {"cfg_scale": 1.0}),
    "left_to_right": ({"cfg_scale": 1.0},),
    "duel": (*({"policy": policy} for policy in ("entropy", "margin", "left_to_right")), {"tokens": 2}, {"tokens": 3, "policy": "margin"}),
    "tube": ({"permutations": 8}, {"permutations": 16}, {"samples": 64}),
    "pseudo": ({"cfg_scale": 1.0},),
    "llada": ({"batch": 4}, {"samples": 16, "batch": 8}, {"cfg_scale": 0.5}),
    "dream": ({"batch": 4}, {"eos": False}),
    "diffullama": ({"steps": 5}, {"steps": 5, "weighting": "1/t"}),
    "mdlm": ({"samples": 5},),
    "sedd": ({"samples": 5},),
}  # fmt: skip
PRESETS_OF = {
    "cdcd": "ddlm",
    "rdm": "diffusionllm",
    "remdm": "mdlm",
    "trado": "sdar",
    "fast_dllm_v2": "fastdllm",
    "dllm_a2d": "generic",
    "llada21": "llada21",
}


@dataclass
class Asked:
    """A model with the canvases that it is asked."""

    name: str
    folder: Path
    renamed: Renamed
    loaded: list[Any] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The model, loaded when it is first needed."""
        if not self.loaded:
            family, options = record_models.arguments(self.name, self.folder)
            self.loaded.append(load_model(family, **options))
        return self.loaded[0]

    def ids(self) -> list[int]:
        """Returns ids of an ordinary text, behind the model's BOS where it needs one."""
        text = TEXTS[-1] if self.name.startswith("toy") else TEXTS[0]
        begin = [self.model.bos_id] if self.model.needs_bos else []
        return [*begin, *self.model.encode(text * 2)]

    def targets(self) -> dict[str, Canvas]:
        """Returns canvases to score."""
        ids = self.ids()
        found = {
            "continuation": Canvas.continuation(ids[:4], ids[4:8]),
            "infill": Canvas.infill(ids[:3], ids[3:9], ids[9:12]),
        }
        found |= {
            "one": Canvas.continuation(ids[:4], ids[4:5]),
            "long": Canvas.infill(ids[:3], ids[3:15], ids[15:19]),
        }
        return found

    def holes(self) -> list[Canvas]:
        """Returns canvases to fill."""
        ids = self.ids()
        return [Canvas.completion(ids[:4], 8), Canvas.infill(ids[:3], 8, ids[11:12], key="q")]

    def scored(
        self, estimator: str, options: dict[str, Any], which: Sequence[str], **more: Any
    ) -> Any:
        """Returns the score of each canvas, with its interval."""
        name, spelled = self.renamed.estimating(estimator, {"samples": 8, **options})
        targets = self.targets()
        return {
            one: _each(
                lambda one=one: _score(
                    self.model, [targets[one]], estimator=name, **spelled, **more
                )[0]
            )
            for one in which
        }

    def filled(
        self, settings: dict[str, Any], holes: Sequence[Canvas] | None = None, **more: Any
    ) -> Any:
        """Returns what was written into each hole, with its text."""
        holes = self.holes() if holes is None else holes
        found = fill(self.model, holes, **self.renamed.decoding(settings), **more)
        return [
            {"filling": one, "text": self.model.decode([t for t in one.tokens if t >= 0])}
            for one in found
        ]


def _each(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except (UserError, SampleError) as error:
        return {"refused": type(error).__name__, "words": {"line": str(error)}}


def _score(model: Any, canvases: Sequence[Canvas], **options: Any) -> list[Any]:
    return [{"score": one, "interval": one.interval} for one in score(model, canvases, **options)]


def cases(
    name: str,
    folder: Path,
    renamed: Renamed,
    strategies: Sequence[str],
    estimators: Sequence[str],
    presets: Sequence[str],
) -> Iterator[Case]:
    """Yields the cases of a model.

    Args:
        name: one of `record_models.names()`.
        folder: where checkpoints are written.
        renamed: the spelling of the code that runs.
        strategies, estimators, presets: what there is, in the first recording's spelling.
    """
    asked, full = Asked(name, folder, renamed), name in FULL
    yield Case(f"{name}/model/facts", lambda: _facts(asked.model))
    yield Case(f"{name}/model/texts", lambda: _texts(asked.model))
    yield Case(f"{name}/model/chat", lambda: _chat(asked.model))
    yield from _scores(asked, estimators, full)
    yield from _fills(asked, strategies, full)
    for preset in presets:
        own = next(
            (model for prefix, model in PRESETS_OF.items() if preset.startswith(prefix)), None
        )
        if name == "llada" or own == name or (own is None and preset.startswith(name)):
            yield Case(f"{name}/preset/{preset}", partial(_preset, asked, preset))


def _scores(asked: Asked, estimators: Sequence[str], full: bool) -> Iterator[Case]:
    which = ("continuation", "infill", "one", "long") if full else ("continuation", "infill")
    for estimator in estimators:
        for options in ({}, *(ESTIMATE.get(estimator, ()) if full else ())):
            name = f"{asked.name}/score/{estimator} {listed(options)}".rstrip()
            yield Case(name, partial(asked.scored, estimator, options, which))
        yield Case(
            f"{asked.name}/score/{estimator} greedy seed 7",
            partial(asked.scored, estimator, {}, which[:2], greedy=True, seed=7),
        )
    for estimator, options in (
        ("auto", {"decide": 0.05, "samples": 32}),
        ("cubature", {"precision": 0.1, "samples": 64}),
        ("auto", {"samples": 16}),
    ):
        yield Case(
            f"{asked.name}/question/{estimator} {listed(options)}",
            partial(_question, asked, estimator, options),
        )
    if full:
        yield Case(
            f"{asked.name}/score/together",
            lambda: _score(asked.model, list(asked.targets().values()) * 2, batch_tokens=40),
        )
        yield Case(f"{asked.name}/score/string", lambda: _written(asked))
        yield Case(
            f"{asked.name}/score/no such estimator", partial(asked.scored, "no_such", {}, which)
        )
        yield Case(f"{asked.name}/score/blank", lambda: _score(asked.model, asked.holes()))


def _written(asked: Asked) -> Any:
    name, options = asked.renamed.estimating("chain", {"permutations": 4})
    return _score(
        asked.model, list(asked.targets().values()), estimator=f"{name},{listed(options)}"
    )


def _question(asked: Asked, estimator: str, options: dict[str, Any]) -> Any:
    ids = asked.ids()
    choices = [
        Canvas.continuation(ids[:4], target, key="q") for target in (ids[4:9], ids[6:11], ids[5:8])
    ]
    name, spelled = asked.renamed.estimating(estimator, options)
    return _score(asked.model, choices, estimator=name, **spelled)


def _fills(asked: Asked, strategies: Sequence[str], full: bool) -> Iterator[Case]:
    mixed = [
        {k: v for one in column for k, v in one.items()} for column in itertools.product(*TOGETHER)
    ]
    for strategy in strategies:
        tried = [*DECODE, *(mixed if asked.name == TOGETHER_ON else ())] if full else EACH
        for options in tried:
            settings = {"strategy": strategy, **NEEDS.get(strategy, {}), **options}
            yield Case(
                f"{asked.name}/fill/{strategy} {listed(options)}".rstrip(),
                partial(asked.filled, settings),
            )
    for options in () if full else ONCE:
        yield Case(f"{asked.name}/fill/default {listed(options)}", partial(asked.filled, options))
    yield Case(f"{asked.name}/fill/seed 5", lambda: asked.filled({"temperature": 1.0}, seed=5))
    yield Case(
        f"{asked.name}/fill/many",
        lambda: asked.filled({"temperature": 0.7, "steps": 4}, _many(asked)),
    )
    yield Case(
        f"{asked.name}/fill/empty",
        lambda: asked.filled({}, [Canvas.completion(asked.ids()[:4], 0)]),
    )
    yield Case(f"{asked.name}/fill/trace", lambda: _traced(asked))
    yield Case(
        f"{asked.name}/fill/too long",
        lambda: asked.filled({}, [Canvas.completion(asked.ids()[:4], 5000)]),
    )


def _many(asked: Asked) -> list[Canvas]:
    ids = asked.ids()
    return [
        Canvas.infill(ids[: 2 + i % 3], 4 + 2 * (i % 3), ids[9 : 9 + i % 2], key=f"q{i}")
        for i in range(7)
    ]


def _traced(asked: Asked) -> Any:
    steps: list[Any] = []
    found = asked.filled(
        {"temperature": 0.8, "steps": 4},
        trace=lambda index, step: steps.append([index, replace(step)]),
    )
    return {"found": found, "steps": steps}


def _preset(asked: Asked, preset: str) -> Any:
    """Returns the fillings of a preset, with fewer steps and shorter blocks where its own do not fit the small holes."""
    error: Exception | None = None
    for number, changes in enumerate(
        (
            {"steps": 8},
            {"steps": 8, "block_length": 4},
            {"steps_per_block": 2, "block_length": 4},
            {},
        )
    ):
        try:
            return {"attempt": number, "found": asked.filled({"preset": preset, **changes})}
        except (UserError, SampleError) as refused:
            error = refused
    assert error is not None
    raise error


def _facts(model: Any) -> Any:
    names = (
        "mask_id",
        "mask_is_regular_token",
        "eos_ids",
        "bos_id",
        "pad_id",
        "vocab_size",
        "max_length",
        "needs_bos",
        "attention",
        "block_length",
        "process",
    )
    return {
        **{name: getattr(model, name) for name in names},
        "words": {"name": model.name, "describe": str(model.describe())},
    }


def _texts(model: Any) -> Any:
    return [
        {
            "ids": _each(lambda text=text: model.encode(text)),
            "text": _each(lambda text=text: model.decode(model.encode(text))),
        }
        for text in TEXTS
    ]


def _chat(model: Any) -> Any:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": " Who? "}]
    return [
        _each(lambda ready=ready: model.apply_chat_template(messages, add_generation_prompt=ready))
        for ready in (True, False)
    ]
