"""Quality of sampled text without a right answer: a judge's likelihood, and diversity.

A sampler that repeats itself reaches the best generative perplexity (arXiv 2606.08417), so
perplexity is always reported together with diversity. All counts (entropy, distinct, Zipf, length)
are of the judge's tokens, so that models with different vocabularies are comparable. Self-BLEU uses
sacrebleu's words.

The judge is any causal language model of transformers. `find_judge` checks its name and files
before anything is generated. Its weights are loaded when the first text is read. The task classes
that pass the judge are in harness/infill.py.

Shape letters: L = tokens of a window.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlm_eval.canvas import FilledText
from dlm_eval.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dlm_eval.models.loading import CheckpointFiles

# References of each sample in self-BLEU. More references raise the score, so the number is fixed.
RIVALS = 63
# Number of most frequent tokens in the fit of the Zipf coefficient (Holtzman et al. 2020, arXiv
# 1904.09751).
RANKS = 5000


class Part(float):
    """One sample's value of a metric, with the text from which the corpus metric is computed."""

    tokens: tuple[int, ...]
    text: str

    @classmethod
    def of(cls, value: float, reading: Reading, text: str) -> Part:
        part = cls(value)
        part.tokens, part.text = reading.tokens, text
        return part


def process_results(doc: Mapping[str, Any], results: Sequence[str], judge: Judge) -> dict[str, Any]:
    """Returns all metrics of one sample; corpus metrics as `Part`, for the aggregations below.

    Args:
        doc: `prefix` is the context of the sample; `truth` is the original text, if any.
        results: the sample. `exit_step` is missing if it is not one of our models'.
        judge: the model that scores it.
    """
    text = results[0]
    reading = judge.read(doc["prefix"], text)
    own = [Part.of(0.0, reading, text)]
    corpus = {name: Part.of(aggregate(own), reading, text) for name, aggregate in CORPUS.items()}
    scores: dict[str, Any] = {
        "gen_ppl": (reading.logprob, len(reading.tokens)),
        "ar_nll": _nats_per_token(reading),
        **corpus,
    }
    if doc.get("truth"):
        scores["ar_nll_real"] = _nats_per_token(judge.read(doc["prefix"], doc["truth"]))
    if isinstance(text, FilledText):
        scores["exit_step"] = float(text.steps)
    return {
        **scores,
        "sample_entropy": entropy(own),
        "length": len(reading.tokens),
        "empty": float(not reading.tokens),
    }


def _nats_per_token(reading: Reading) -> float:
    """Returns the mean negative log-likelihood; NaN for an empty text (lm-eval's `nanmean`)."""
    return -reading.logprob / len(reading.tokens) if reading.tokens else math.nan


# -- from all samples ------------------------------------------------------------------------------


def perplexity(items: Sequence[tuple[float, int]]) -> float:
    """Returns exp of the mean negative log-likelihood per token of all samples; NaN if empty."""
    tokens = sum(count for _, count in items)
    if not tokens:
        return math.nan
    nats = -sum(logprob for logprob, _ in items) / tokens
    return math.exp(nats) if nats < 700 else math.inf


def entropy(parts: Sequence[Part]) -> float:
    """Returns the entropy of the token frequencies of all samples together, nats."""
    counts = Counter(token for part in parts for token in part.tokens)
    total = sum(counts.values())
    return sum(-n / total * math.log(n / total) for n in counts.values()) if total else math.nan


def entropy_bits(parts: Sequence[Part]) -> float:
    """Returns `entropy` in bits."""
    return entropy(parts) / math.log(2)


def distinct(parts: Sequence[Part], n: int) -> float:
    """Returns the fraction of n-grams that are distinct (Li et al. 2016, arXiv 1510.03055)."""
    grams = [part.tokens[i : i + n] for part in parts for i in range(len(part.tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else math.nan


def distinct_1(parts: Sequence[Part]) -> float:
    """Returns `distinct` of single tokens."""
    return distinct(parts, 1)


def distinct_2(parts: Sequence[Part]) -> float:
    """Returns `distinct` of pairs."""
    return distinct(parts, 2)


def distinct_3(parts: Sequence[Part]) -> float:
    """Returns `distinct` of triples."""
    return distinct(parts, 3)


def self_bleu(parts: Sequence[Part]) -> float:
    """Returns the mean BLEU-4 (0 to 100, sacrebleu) of each sample against the next `RIVALS`.

    See Zhu et al. 2018, arXiv 1802.01886.
    """
    from sacrebleu.metrics import BLEU

    texts = [part.text for part in parts]
    if len(texts) < 2:
        return math.nan
    bleu = BLEU(effective_order=True)
    ring = texts + texts
    scores = [
        float(bleu.sentence_score(text, ring[i + 1 : i + len(texts)][:RIVALS]).score)
        for i, text in enumerate(texts)
    ]
    return sum(scores) / len(scores)


def zipf(parts: Sequence[Part]) -> float:
    """Returns the exponent s of frequency ~ rank^-s, by log-log least squares (natural text: 1)."""
    import numpy as np
    from scipy.stats import linregress

    counts = Counter(token for part in parts for token in part.tokens)
    frequencies = sorted(counts.values(), reverse=True)[:RANKS]
    if len(frequencies) < 2:
        return math.nan
    return -float(linregress(np.log(np.arange(1, len(frequencies) + 1)), np.log(frequencies)).slope)


CORPUS = {
    "entropy": entropy,
    "entropy_bits": entropy_bits,
    "distinct_1": distinct_1,
    "distinct_2": distinct_2,
    "distinct_3": distinct_3,
    "self_bleu": self_bleu,
    "zipf": zipf,
}


# -- documents -------------------------------------------------------------------------------------


def nothing(*, n_samples: Any = 64, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of documents without text, one for each sample to draw.

    Raises:
        UserError: `n_samples` is not a whole number of at least 1.
    """
    import datasets

    count = _count(n_samples)
    return {
        "test": datasets.Dataset.from_dict({"number": list(range(count)), "prefix": [""] * count})
    }


def passages(*, n_samples: Any = 64, words: int = 32, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of passages of the wikitext-2 test pages, with `prefix`,
    `truth` and `suffix` of `words` words each.

    The passages are evenly spaced among the paragraphs that are long enough. lm-eval's detokenizer
    makes them plain text.
    """
    import datasets

    cut = [
        [" ".join(line[at : at + words]) for at in (0, words, 2 * words)]
        for line in _paragraphs(_count(n_samples), 3 * words)
    ]
    return {
        "test": datasets.Dataset.from_list(
            [{"prefix": a, "truth": " " + b, "suffix": " " + c} for a, b, c in cut]
        )
    }


def real_texts(*, n_samples: Any = 64, words: int = 96, **_: Any) -> dict[str, Any]:
    """Returns ``{"test": Dataset}`` of the same paragraphs as `passages`, their first `words` words
    as `truth` and no `prefix`, to compare samples from nothing with."""
    import datasets

    lines = _paragraphs(_count(n_samples), words)
    return {
        "test": datasets.Dataset.from_list(
            [{"prefix": "", "truth": " ".join(line[:words])} for line in lines]
        )
    }


def _paragraphs(count: int, least: int) -> list[list[str]]:
    """Returns the words of paragraphs of at least `least` words, `count` at most, evenly spaced."""
    import datasets
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    pages = datasets.load_dataset(
        "EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", split="test"
    )["page"]
    lines = [
        line.split() for page in pages for line in wikitext_detokenizer({"page": page}).split("\n")
    ]
    long = [line for line in lines if len(line) >= least and line[0][0] != "="]
    if not long:
        raise UserError(f"wikitext-2 has no paragraph of {least} words in its test pages")
    count = min(count, len(long))
    return [long[i * len(long) // count] for i in range(count)]


def _count(value: Any) -> int:
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = 0
    if count < 1:
        raise UserError(
            f"--metadata n_samples '{value}' is not allowed; it must be a whole number of at least "
            "1"
        )
    return count


@dataclass(frozen=True)
class Reading:
    """The judge's tokens and log-likelihood of a text.

    Attributes:
        tokens: ids of the text, without its context.
        logprob: log-likelihood of the text given its context, nats.
    """

    tokens: tuple[int, ...]
    logprob: float


@dataclass(frozen=True)
class Judge:
    """A causal language model on its device; equal judges share their weights.

    Attributes:
        folder: its files.
        device: where it runs.
    """

    folder: CheckpointFiles
    device: str

    def read(self, context: str, text: str) -> Reading:
        """Returns the judge's tokens of `text` and their log-likelihood after `context` (nats).

        Context and text are encoded together. A token across the boundary belongs to the text. The
        judge's BOS (or its end-of-text token, if it has no BOS) precedes them, so that the first
        token of a text without context is scored too.

        Raises:
            SampleError: the judge's tokenizer fails on the text.
        """
        whole, shared = self._encoded(context, text)
        logs = self._log_probs(_begin(self.folder), whole) if shared < len(whole) else []
        return Reading(tuple(whole[shared:]), float(sum(logs[shared:])))

    def tokens(self, context: str, text: str) -> tuple[int, ...]:
        """Returns the judge's tokens of `text` after `context`, as `read` does, without its weights.

        Raises:
            SampleError: the judge's tokenizer fails on the text.
        """
        whole, shared = self._encoded(context, text)
        return tuple(whole[shared:])

    def _encoded(self, context: str, text: str) -> tuple[list[int], int]:
        """Returns the ids of context and text, and the number of those of the context."""
        from dlm_eval.models.encoding import text_ids

        tokenizer = _tokenizer(self.folder)
        whole, head = (
            text_ids(tokenizer, part, self.folder.name) for part in (context + text, context)
        )
        shared = next(
            (i for i, (a, b) in enumerate(zip(whole, head, strict=False)) if a != b),
            min(len(whole), len(head)),
        )
        return list(whole), shared

    def features(self, text: str) -> NDArray[np.float32]:
        """Returns the last hidden state [H] of the text's last token, as MAUVE reads texts
        (Pillutla et al. 2021, arXiv 2102.01454, section 4).

        A text longer than the judge loses its beginning; an empty one has the state of the BOS.

        Raises:
            SampleError: the judge's tokenizer fails on the text.
        """
        import torch

        from dlm_eval.models.encoding import text_ids

        ids = text_ids(_tokenizer(self.folder), text, self.folder.name)
        model = _model(self)
        limit = getattr(model.config, "max_position_embeddings", None) or len(ids) + 1
        tokens = [_begin(self.folder), *(ids[1 - limit :] if len(ids) >= limit else ids)]
        with torch.no_grad():
            states = model(
                input_ids=torch.tensor([tokens], device=self.device), output_hidden_states=True
            ).hidden_states[-1]
        found: NDArray[np.float32] = states[0, -1].float().cpu().numpy()
        return found

    def _log_probs(self, begin: int, tokens: list[int]) -> list[float]:
        """Returns log p(token | those before) of each token, nats, in half-overlapping windows."""
        import torch

        from dlm_eval.likelihood.windows import windows

        model = _model(self)
        limit = getattr(model.config, "max_position_embeddings", None) or len(tokens) + 1
        found: list[float] = []
        for window in windows([begin, *tokens], limit, max(1, limit // 2), given=1):
            ids = torch.tensor([window.tokens], device=self.device)
            with torch.no_grad():
                logs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)  # [L-1, V]
            own = logs.gather(1, ids[0, 1:, None])[:, 0].double().tolist()
            found += own[window.open_positions[0] - 1 :]
        return found


def find_judge(name: str, device: str = "auto") -> Judge:
    """Returns the judge `name` with its files on this machine, but without loading its weights.

    The files are downloaded from the Hub if necessary.

    Args:
        name: hub id, checkpoint folder, or 'asset:NAME' for a packaged one.
        device: auto (cuda if there is one), cpu, cuda:1, ...

    Raises:
        UserError: it is not found, or it is not a causal language model known to transformers.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from dlm_eval.models.loading import first_line, locate, read_config, resolve_device

    try:
        folder = locate(name, setting="judge")
        folder.holds()
        read_config(folder)
        config = AutoConfig.from_pretrained(
            folder.path, trust_remote_code=False, local_files_only=True
        )
        if type(config) not in AutoModelForCausalLM._model_mapping:
            raise UserError(
                f"judge '{name}': transformers has no causal language model of model_type "
                f"'{config.model_type}'"
            )
        _begin(folder)
        return Judge(folder, str(resolve_device(device)))
    except UserError as error:
        raise UserError(f"{error}; name another with --metadata judge=ID_OR_DIR") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"judge '{name}' cannot be read: {first_line(error)}; name another with --metadata "
            "judge=ID_OR_DIR"
        ) from None


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: CheckpointFiles) -> Any:
    from dlm_eval.models.tokenizer_files import load_tokenizer

    return load_tokenizer(folder)


def _begin(folder: CheckpointFiles) -> int:
    tokenizer = _tokenizer(folder)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise UserError(
            f"judge '{folder.name}' has neither a BOS nor an end-of-text token to begin a text with"
        )
    return int(begin)


@functools.lru_cache(maxsize=1)
def _model(judge: Judge) -> Any:
    """Returns the network in eval mode, in float32 on a CPU, else in the dtype of its config."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from dlm_eval.models.loading import read_config
    from dlm_eval.models.weights import built_within, name_weights

    whose = f"judge '{judge.folder.name}': config.json"
    config = AutoConfig.from_pretrained(
        judge.folder.path, trust_remote_code=False, local_files_only=True
    )
    name_weights(config, judge.folder)
    with built_within(
        judge.folder.holds(), "quantization_config" in read_config(judge.folder), whose
    ):
        return AutoModelForCausalLM.from_pretrained(
            judge.folder.path,
            config=config,
            dtype="float32" if judge.device == "cpu" else "auto",
            device_map={"": judge.device},
            trust_remote_code=False,
            local_files_only=True,
        ).eval()
