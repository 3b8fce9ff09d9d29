"""Linear probes of a denoiser's features on GLUE (`dlm-eval probe`).

DDLM's first version announces that GLUE measures what its model has learnt (Vaina et al. 2023,
arXiv 2305.10818, abstract); how is not public. This is our reading, a probe in the manner of SentEval
(Conneau and Kiela 2018, arXiv 1803.05449):

    sentence -> last hidden states at the lowest noise level, no token masked -> mean over tokens: u
    pair of sentences -> [u, v, |u - v|, u * v]
    standardised -> logistic regression (STS-B: ridge regression) on the training split
    -> GLUE's own metrics on the validation split

The model is frozen. Classifiers and metrics are scikit-learn's.

Shape letters: N = texts, B = rows, L = positions, H = hidden size, F = features of an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dlm_eval.errors import UserError
from dlm_eval.harness.requests import begin
from dlm_eval.metrics.glue import pearson, spearman
from dlm_eval.models.denoiser import Denoiser, HiddenStates, device_of, offers

Floats = NDArray[np.float32]
READING = {
    "layer": "last, before the head",
    "noise_level": "lowest; no token masked",
    "pooling": "mean over tokens",
    "pairs": "u, v, |u - v|, u * v",
    "classifier": "scikit-learn, standardised features, C = 1 (STS-B: ridge, alpha = 1)",
}


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        columns: one or two columns of text.
        metrics: names of its official metrics, the headline first.
        validation: its validation split.
    """

    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    validation: str = "validation"


TASKS = {
    "cola": GlueTask(("sentence",), ("mcc",)),
    "sst2": GlueTask(("sentence",), ("acc",)),
    "mrpc": GlueTask(("sentence1", "sentence2"), ("f1", "acc")),
    "qqp": GlueTask(("question1", "question2"), ("f1", "acc")),
    "stsb": GlueTask(("sentence1", "sentence2"), ("pearson", "spearman")),
    "mnli": GlueTask(("premise", "hypothesis"), ("acc",), "validation_matched"),
    "qnli": GlueTask(("question", "sentence"), ("acc",)),
    "rte": GlueTask(("sentence1", "sentence2"), ("acc",)),
    "wnli": GlueTask(("sentence1", "sentence2"), ("acc",)),
}


@dataclass(frozen=True)
class Probed:
    """The result of one task.

    Attributes:
        scores: metric -> value, GLUE's official ones as fractions.
        stderr: metric -> standard error over validation examples, for accuracy.
        majority: accuracy of the most frequent class of the training split; None for STS-B.
        trained_on, n: numbers of training and validation examples.
        truncated: texts cut to the model's length.
    """

    scores: Mapping[str, float]
    stderr: Mapping[str, float]
    majority: float | None
    trained_on: int
    n: int
    truncated: int


def probe(model: Denoiser, task: str, most: int | None = None, batch_size: int = 32) -> Probed:
    """Trains and scores the probe of one task of GLUE (`nyu-mll/glue`).

    Args:
        model: the frozen denoiser.
        task: a key of `TASKS`.
        most: number of examples of each split that are used, the first ones; None for all.
        batch_size: texts of a forward pass.

    Raises:
        UserError: the model has no hidden states, the data cannot be had, or the training split
            has one class only.
    """
    import datasets

    splits = {
        split: datasets.load_dataset("nyu-mll/glue", task, split=split)
        for split in ("train", TASKS[task].validation)
    }
    train, test = (
        rows.select(range(min(most or len(rows), len(rows)))) for rows in splits.values()
    )
    reader = Reader(model, batch_size)
    inputs = [_features(reader, rows, TASKS[task].columns) for rows in (train, test)]
    labels, wanted = (np.array(rows["label"]) for rows in (train, test))
    if task != "stsb" and len(set(labels.tolist())) < 2:
        raise UserError(f"glue '{task}': the training split has examples of one class only")
    written = _fitted(inputs[0], labels, regression=task == "stsb").predict(inputs[1])
    scores = {name: METRICS[name](wanted, written) for name in TASKS[task].metrics}
    majority = None
    if task != "stsb":
        majority = float((wanted == np.bincount(labels).argmax()).mean())
    spread = {
        name: math.sqrt(value * (1 - value) / (len(wanted) - 1))
        for name, value in scores.items()
        if name == "acc" and len(wanted) > 1
    }
    return Probed(scores, spread, majority, len(labels), len(wanted), reader.truncated)


def _fitted(inputs: Floats, labels: NDArray[Any], regression: bool) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    last = Ridge(alpha=1.0) if regression else LogisticRegression(C=1.0, max_iter=1000)
    return make_pipeline(StandardScaler(), last).fit(inputs, labels)


def _features(reader: Reader, rows: Any, columns: Sequence[str]) -> Floats:
    """Returns [N, F] of the examples."""
    parts = [reader.read(rows[column]) for column in columns]
    if len(parts) == 2:
        u, v = parts
        parts = [u, v, np.abs(u - v), u * v]
    return np.concatenate(parts, axis=1)


class Reader:
    """Reads texts as features, the mean of the hidden states of their tokens.

    Args:
        model: a denoiser that offers `HiddenStates`.
        batch_size: texts of a forward pass.

    Raises:
        UserError: the model has no hidden states.
    """

    def __init__(self, model: Denoiser, batch_size: int) -> None:
        if not offers(model, HiddenStates):
            raise UserError(f"model {model.name} has no hidden states to probe")
        self._model = model
        self._batch_size = batch_size
        self.truncated = 0

    def read(self, texts: Sequence[str]) -> Floats:
        """Returns features [N, H], in the order of the texts."""
        rows = [self._ids(text) for text in texts]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # little padding
        found: dict[int, Floats] = {}
        for at in range(0, len(order), self._batch_size):
            places = order[at : at + self._batch_size]
            found |= zip(places, self._means([rows[i] for i in places]), strict=True)
        return np.stack([found[i] for i in range(len(rows))])

    def _ids(self, text: str) -> list[int]:
        ids = begin(self._model, self._model.encode(text))
        self.truncated += len(ids) > self._model.max_length
        return ids[: self._model.max_length] or [self._model.pad_id]

    @torch.no_grad()
    def _means(self, rows: Sequence[Sequence[int]]) -> Floats:
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self._model.pad_id)
        valid = torch.zeros((len(rows), longest), dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            valid[i, : len(row)] = True
        device = device_of(self._model)
        tokens, valid = tokens.to(device), valid.to(device)
        states = cast(HiddenStates, self._model).hidden(
            tokens, None if bool(valid.all()) else valid
        )
        real = valid.to(states.device)[:, :, None]
        means = states.float().masked_fill(~real, 0).sum(1) / real.sum(1)
        found: Floats = means.cpu().numpy()
        return found


def _accuracy(wanted: NDArray[Any], written: NDArray[Any]) -> float:
    return float((wanted == written).mean())


def _f1(wanted: NDArray[Any], written: NDArray[Any]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(wanted, written))


def _mcc(wanted: NDArray[Any], written: NDArray[Any]) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(wanted, written))


METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "acc": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "pearson": lambda wanted, written: pearson(list(zip(wanted, written, strict=True))),
    "spearman": lambda wanted, written: spearman(list(zip(wanted, written, strict=True))),
}
