"""Every family gives the logits that its authors' code gave (float32, CPU; recorded with 6 decimals)."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from dlm_eval.models import load_model

FAMILIES = {
    "llada": {},
    "diffullama": {},
    "diffugpt": {},
    "dream": {},
    "mdlm": {},
    "lladamoe": {},
    "smdm": {},
    "sdar": {},
    "llada2": {"block_length": 4},
    "llada21": {"block_length": 4},
}
ADAPTER = {"llada21": "llada2"}
TOLERANCE = 1e-5  # of the largest logit


def load(shared, family, **options):
    golden = json.loads((shared / "goldens" / family / "golden.json").read_text())
    folder = shared / "goldens" / family
    return load_model(
        ADAPTER.get(family, family), pretrained=folder, dtype="float32", **options
    ), golden


def difference(ours, theirs, model=None):
    """Largest |ours - theirs| relative to the largest of theirs, over tokens that can be written."""
    theirs = torch.tensor(theirs) if not torch.is_tensor(theirs) else theirs
    ours = ours[..., : theirs.shape[-1]]
    kept = [
        i for i in range(theirs.shape[-1]) if model is None or i not in model.facts.suppressed_ids
    ]
    ours, theirs = ours[..., kept], theirs[..., kept]
    return float((ours - theirs).abs().max() / theirs.abs().max())


def own(raw, shift):
    """Logits of each position's own token, from the network's raw output [B, L, V]."""
    return torch.cat([raw[:, :1], raw[:, :-1]], 1) if shift else raw


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_authors(shared, family):
    model, golden = load(shared, family, **FAMILIES[family])
    tokens = torch.tensor(golden["logits"]["input_ids"])
    theirs = own(torch.tensor(golden["logits"]["logits"]), model.facts.shift)
    assert difference(model.logits(tokens), theirs, model) < TOLERANCE
    wanted = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    assert difference(model.logits(tokens, positions=wanted), theirs[wanted], model) < TOLERANCE


@pytest.mark.parametrize("family", ["llada", "dream", "lladamoe"])
def test_left_padded_logits_equal_the_authors(shared, family):
    model, golden = load(shared, family)
    padded = golden["logits_left_padded"]
    valid = torch.tensor(padded["attention_mask"]).bool()
    first, row = padded["first_position"], padded["row"]
    raw = torch.tensor(padded["logits_row0"])[None]
    ours = model.logits(torch.tensor(padded["input_ids"]), valid)[row, first:]
    assert difference(ours, own(raw, model.facts.shift)[0], model) < TOLERANCE


@pytest.mark.parametrize("family", [*FAMILIES, "wedlm", "sedd", "bd3lm"])
def test_ids_are_the_authors(shared, family):
    model, golden = load(shared, family)
    ids = golden["special_ids"]
    eos = ids["eos"] if isinstance(ids["eos"], list) else [ids["eos"]]
    assert (
        model.mask_id == ids["mask"]
        and model.eos_ids[0] == eos[0]
        and set(eos) <= set(model.eos_ids)
    )
    assert "bos" not in ids or model.bos_id == ids["bos"]
    assert "eot" not in ids or model.eos_ids[1] == ids["eot"]
    assert model.mask_is_regular_token == golden.get("mask_is_ordinary_vocabulary_item", False)


def test_wedlm_logits_come_back_in_reading_order(shared):
    model, golden = load(shared, "wedlm")
    moved, place = (
        torch.tensor(golden["logits"]["input_ids"]),
        torch.tensor(golden["logits"]["position_ids"]),
    )
    raw = torch.tensor(golden["logits"]["logits"])
    tokens = torch.empty_like(moved).scatter_(1, place, moved)
    theirs = torch.empty_like(raw).scatter_(1, place[..., None].expand_as(raw), raw)
    assert difference(model.logits(tokens), theirs) < TOLERANCE
    plain = golden["causal_plain"]
    assert (
        difference(model.logits(torch.tensor(plain["input_ids"]))[0, -1], plain["logits_last"])
        < TOLERANCE
    )


def test_mdlm_at_a_noise_level(shared):
    model, golden = load(shared, "mdlm")
    part = golden["logits_sigma"]
    tokens, sigma = torch.tensor(part["input_ids"]), torch.tensor(part["sigma"])
    with torch.inference_mode():
        states = model.run(tokens, sigma)[part["row"], part["positions"]]
        assert difference(model.read(states), part["logits"]) < TOLERANCE


def test_mdlm_never_predicts_the_mask(shared):
    model, golden = load(shared, "mdlm")
    part = golden["subs_log_probabilities"]
    tokens = torch.tensor(golden["logits"]["input_ids"])
    log_p = model.logits(tokens)[part["row"], part["masked_position"]].log_softmax(-1)
    assert difference(log_p, part["log_p"], model) < TOLERANCE
    assert float(log_p[model.mask_id]) < -1e5


def test_sedd_log_scores(shared):
    model, golden = load(shared, "sedd")
    part = golden["log_scores"]
    ours = model.log_scores(torch.tensor(part["input_ids"]), torch.tensor(part["sigma"]))
    assert difference(ours, part["log_scores"]) < TOLERANCE


def test_sedd_score_entropy_from_log_scores(shared):
    """Equation: sigma'(t) [sum_y s_y - r log s_x0 + r (log r - 1)] over masked positions, r = 1 / (e^sigma - 1)."""
    model, golden = load(shared, "sedd")
    part = golden["score_entropy_fixed_mask"]
    truth = torch.tensor(part["sequence"])
    noisy = truth.clone()
    noisy[part["masked_positions"]] = model.mask_id
    for case in part["values"]:
        sigma = -math.log1p(-(1 - 1e-3) * case["t"])
        slope, r = (1 - 1e-3) / (1 - (1 - 1e-3) * case["t"]), 1 / math.expm1(sigma)
        scores = model.log_scores(noisy[None], torch.tensor([sigma]))[
            0, part["masked_positions"]
        ].double()
        others = scores.exp().sum(-1) - scores[:, model.mask_id].exp()
        at_truth = scores.gather(-1, truth[part["masked_positions"], None])[:, 0]
        loss = slope * float((others - r * at_truth + r * (math.log(r) - 1)).sum())
        assert loss == pytest.approx(case["loss"], rel=1e-5)


def test_sedd_logits_are_the_posterior_at_the_share_of_masks(shared):
    model, golden = load(shared, "sedd")
    tokens = torch.tensor(golden["log_scores"]["input_ids"])[:1].clone()
    tokens[0, ::2] = model.mask_id
    tokens[0, 1::2] = 5
    sigma = -math.log1p(-(1 - 1e-3) * 0.5)
    scores = model.log_scores(tokens, torch.tensor([sigma]))[0, ::2]
    scores[:, model.mask_id] = -1e6
    ours = model.logits(tokens)[0, ::2].log_softmax(-1)
    assert difference(ours, scores.log_softmax(-1), model) < TOLERANCE
    pad = torch.full((1, 3), model.pad_id)  # padding does not count in the share
    valid = torch.tensor([[False] * 3 + [True] * tokens.shape[1]])
    padded = model.logits(torch.cat([pad, tokens], 1), valid)[0, 3:]
    assert difference(padded, model.logits(tokens)[0], model) < TOLERANCE


def test_bd3lm_sampling_and_scoring_forwards(shared):
    model, golden = load(shared, "bd3lm")
    part = golden["logits_sample_mode"]
    row = torch.tensor(part["input_ids"])[part["row"]]
    assert difference(model.logits(row[None])[0], part["logits_row0"], model) < TOLERANCE
    both = golden["logits"]
    noisy, clean, theirs = (torch.tensor(both[key]) for key in ("xt", "x0", "logits"))
    for begin in range(0, noisy.shape[1], model.block_length):
        block = slice(begin, begin + model.block_length)
        tokens = clean.clone()
        tokens[:, block] = noisy[:, block]
        assert (
            difference(
                model.logits(tokens, positions=torch.arange(noisy.shape[1])[block]),
                theirs[:, block],
                model,
            )
            < TOLERANCE
        )


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_text_is_encoded_without_special_tokens(shared, family):
    model, golden = load(shared, family)
    for case in golden["encode_pair"]["cases"]:
        context, continuation = case["ids"]
        whole = model.encode(case["context"] + case["continuation"])
        bare = [i for i in context + continuation if i != model.bos_id and i not in model.eos_ids]
        assert whole == bare
        assert model.decode(whole) == case["context"] + case["continuation"]


def test_dream_tokenizer_without_its_fast_form(shared, tmp_path):
    """Dream's files on the hub have vocab.json and merges.txt only, and name a tokenizer class of their own."""
    model, golden = load(shared, "dream")
    folder = shutil.copytree(shared / "goldens" / "dream", tmp_path / "dream")
    (folder / "tokenizer.json").chmod(0o600)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").chmod(0o600)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {
        "tokenizer_class": "DreamTokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    slow = load_model("dream", pretrained=folder, dtype="float32")
    assert (slow.mask_id, slow.bos_id, slow.eos_ids, slow.pad_id) == (
        model.mask_id,
        model.bos_id,
        model.eos_ids,
        model.pad_id,
    )
    for text in ("Ada counts 4 boats  at the harbour.", "<|im_start|>user\nhi<|im_end|>\n"):
        assert slow.encode(text) == model.encode(text)
        assert slow.decode(slow.encode(text)) == model.decode(model.encode(text))
