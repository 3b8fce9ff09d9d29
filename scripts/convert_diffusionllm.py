"""Turns the authors' files of DiffusionLLM (github.com/yegcjs/DiffusionLLM) into a folder that --model diffusionllm reads.

    python scripts/convert_diffusionllm.py --checkpoint flan_v2.base.length --backbone FacebookAI/xlm-roberta-base --out DIR

Their pytorch_model.bin holds the whole network under `model.` and the length head beside it; config and tokenizer are the backbone's.
Out: config.json and tokenizer files, model.safetensors (a plain XLM-R masked language model), length_head.safetensors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlm_eval.errors import UserError
from dlm_eval.models.config_keys import check
from dlm_eval.models.families.diffusionllm import CLASSES, KEYS, LENGTH_FILE
from dlm_eval.models.loading import CheckpointFiles, locate, read_config
from dlm_eval.models.tokenizer_files import load_tokenizer
from dlm_eval.models.weights import check_keys

NETWORK, LENGTH = "model.", ("length_trm.", "length_predictor.")
# What their files hold besides weights: a trick for gradients, and a table that follows from the sizes.
DROPPED = ("fake_layer", "model.roberta.embeddings.position_ids")
EMBEDDING, DECODER = "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"


def split_state(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the network's weights and the length head's, under the names that transformers and dlm_eval give them.

    Raises:
        UserError: a name that belongs to neither.
    """
    kept = {key: value for key, value in state.items() if key not in DROPPED}
    network = {
        key.removeprefix(NETWORK): value for key, value in kept.items() if key.startswith(NETWORK)
    }
    length = {key: value for key, value in kept.items() if key.startswith(LENGTH)}
    if strange := kept.keys() - {NETWORK + key for key in network} - length.keys():
        raise UserError(
            f"the checkpoint has weights that are not DiffusionLLM's: {', '.join(sorted(strange)[:3])}"
        )
    # DeepSpeed leaves a tied head empty.
    if DECODER in network and (
        network[DECODER].numel() == 0 or torch.equal(network[DECODER], network[EMBEDDING])
    ):
        del network[DECODER]
    elif DECODER in network:
        network.setdefault("lm_head.decoder.bias", network["lm_head.bias"])
    return network, length


def check_network(
    network: dict[str, Tensor], config: Any, raw: dict[str, Any], name: str
) -> dict[str, Any]:
    """Returns config.json for the network, after comparing every name and shape with the class that will carry it.

    Raises:
        UserError: the weights are not the backbone's (the task models, whose vocabulary was cut down, were never released).
    """
    rows = len(network[EMBEDDING])
    if rows != raw["vocab_size"]:
        raise UserError(
            f"the checkpoint has {rows} embeddings, the backbone {raw['vocab_size']}: another backbone, or a cut vocabulary"
        )
    tied = DECODER not in network
    with torch.device("meta"):
        wanted = CLASSES[raw["model_type"]][1](config).state_dict()
    optional = {DECODER, "lm_head.decoder.bias"} if tied else set()
    wrong = [
        key for key, value in network.items() if key in wanted and wanted[key].shape != value.shape
    ]
    check_keys(
        name, wanted.keys() - network.keys() - optional, network.keys() - wanted.keys(), wrong
    )
    return {
        **raw,
        "tie_word_embeddings": tied,
        "architectures": [CLASSES[raw["model_type"]][1].__name__],
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a pytorch_model.bin, or of the folder that holds it.

    Raises:
        UserError: no such file (DeepSpeed's sharded states have their own zero_to_fp32.py, which writes one).
    """
    file = path / "pytorch_model.bin" if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"--checkpoint '{path}' has no pytorch_model.bin; for DeepSpeed's states run its zero_to_fp32.py first"
        )
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def config_of(raw: dict[str, Any], backbone: CheckpointFiles) -> Any:
    """Returns the config of the class that carries the backbone.

    Raises:
        UserError: its config.json is not that of an XLM-R as the adapter reads it.
    """
    return CLASSES[raw["model_type"]][0](**check(raw, KEYS, backbone.name).values)


def convert(checkpoint: Path, backbone: CheckpointFiles, out: Path) -> None:
    """Writes the folder `out`."""
    raw = read_config(backbone)
    if raw.get("model_type") not in CLASSES:
        raise UserError(
            f"--backbone '{backbone.name}' has model_type '{raw.get('model_type')}'; it must be one of {', '.join(CLASSES)}"
        )
    network, length = split_state(read_state(checkpoint))
    config = check_network(network, config_of(raw, backbone), raw, checkpoint.name)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.clone().contiguous() for k, v in network.items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    if length:
        save_file({k: v.clone().contiguous() for k, v in length.items()}, out / LENGTH_FILE)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    load_tokenizer(backbone).save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="the authors' folder, or its pytorch_model.bin",
    )
    parser.add_argument(
        "--backbone", required=True, help="hub id or folder of the XLM-R that it was made from"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        convert(args.checkpoint, locate(args.backbone, setting="--backbone"), args.out)
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
