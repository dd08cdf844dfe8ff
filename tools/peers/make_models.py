#!/usr/bin/env python3
"""Make models of known shapes with random weights, so that engines can be timed without downloading anything.

usage: make_models.py OUT_DIR [NAME ...]      (needs torch, transformers, tokenizers)

Every run makes the same files. The tokenizer is bytes and the ids that no text has, so that any id can be decoded.
"""
import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

LLAMA = {
    # name: hidden, layers, heads, key-value heads, intermediate, vocabulary, rope theta
    "S": (576, 30, 9, 3, 1536, 49152, 1e5),  # the shape of SmolLM2-135M
    "M": (2048, 16, 32, 8, 8192, 128256, 5e5),  # the shape of Llama-3.2-1B
}
OPT = {
    # name: hidden, layers, heads, intermediate
    "O125": (768, 12, 12, 3072),  # OPT-125M
    "O1B3": (2048, 24, 32, 8192),  # OPT-1.3B
}


def llama(name):
    hidden, layers, heads, kv_heads, intermediate, vocabulary, theta = LLAMA[name]
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=intermediate, vocab_size=vocabulary, rope_theta=theta, head_dim=hidden // heads,
        tie_word_embeddings=True, max_position_embeddings=8192, rms_norm_eps=1e-5, dtype="bfloat16",
    )
    return LlamaForCausalLM, config


def opt(name):
    hidden, layers, heads, intermediate = OPT[name]
    config = OPTConfig(
        hidden_size=hidden, word_embed_proj_dim=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        ffn_dim=intermediate, vocab_size=50272, max_position_embeddings=2048, dtype="bfloat16",
    )
    return OPTForCausalLM, config


def write_tokenizer(folder, vocabulary):
    """Bytes first; every other id has a text of its own that nothing merges into."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [f"Āid{number:06d}" for number in range(len(alphabet), vocabulary - 2)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>",
        "pad_token": "<|end|>", "clean_up_tokenization_spaces": False,
        "chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
    return vocabulary - 2, vocabulary - 1


def make(out, name):
    kind, config = llama(name) if name in LLAMA else opt(name)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    begin, end = write_tokenizer(folder, config.vocab_size)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = begin, end, end
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = kind(config)
    torch.set_default_dtype(torch.float32)
    model.generation_config.eos_token_id = end
    model.save_pretrained(folder, max_shard_size="20GB")
    print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters in {folder}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help="S, M, O125 or O1B3; default: S M")
    arguments = parser.parse_args()
    for wanted in arguments.names or ["S", "M"]:
        if wanted not in LLAMA and wanted not in OPT:
            parser.error(f"{wanted} is not one of {', '.join([*LLAMA, *OPT])}")
        make(arguments.out, wanted)
