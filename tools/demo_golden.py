"""The oracle of the built-in model: a plain float32 Llama that reads the shipped files, and the golden answers it gives.

It shares no line with the training model on purpose: it recomputes everything for every token, without a cache,
with the attention written out, from the bf16 weights as they are on disk. Whoever serves the model must agree with it.
"""

import hashlib
import json
import pathlib
import platform

import tokenizers
import torch
from safetensors.torch import load_file

NAMED_FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
NOTE = ("ids include the prompt only in prompt_ids; greedy ids are new tokens, a final EOS included. Float32 from the bf16 weights. "
        "A case with messages was rendered by the chat template, which writes BOS itself; the others are raw text, to which the tokenizer adds BOS.")
RAW_PROMPTS = ["Once upon a time", "One day, a little girl named Lily found", "Tom and his dog went to the park. The dog"]
CHAT_PROMPTS = [[("user", "What is your name?")], [("user", "Tell me a story about a cat")],
                [("system", "You are a kind assistant that tells stories."), ("user", "Hello!"), ("assistant", "Hello! How are you today?"),
                 ("user", "I am fine. What is 2 plus 3?")]]


def rms_norm(x, weight, eps):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def rotate(x, theta):
    """Rotary embedding of [tokens, heads, dim], Hugging Face's half-split layout."""
    half = x.shape[-1] // 2
    frequency = 1.0 / theta ** (torch.arange(half, dtype=torch.float32) / half)
    angle = torch.arange(x.shape[0], dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Oracle:
    """Reads a model folder; `logits(ids)` gives a row of vocabulary scores for every position."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}

    def logits(self, ids):
        c, w = self.config, self.weights
        heads, kv_heads, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        n = len(ids)
        future = torch.ones(n, n, dtype=torch.bool).triu(1)
        x = w["model.embed_tokens.weight"][torch.tensor(ids)]
        for layer in range(c["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            h = rms_norm(x, w[at + "input_layernorm.weight"], c["rms_norm_eps"])
            q = rotate((h @ w[at + "self_attn.q_proj.weight"].T).view(n, heads, dim), c["rope_theta"])
            k = rotate((h @ w[at + "self_attn.k_proj.weight"].T).view(n, kv_heads, dim), c["rope_theta"])
            v = (h @ w[at + "self_attn.v_proj.weight"].T).view(n, kv_heads, dim)
            mixed = []
            for head in range(heads):
                shared = head // (heads // kv_heads)
                scores = q[:, head] @ k[:, shared].T / dim ** 0.5
                mixed.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v[:, shared])
            x = x + torch.cat(mixed, -1) @ w[at + "self_attn.o_proj.weight"].T
            h = rms_norm(x, w[at + "post_attention_layernorm.weight"], c["rms_norm_eps"])
            gate = torch.nn.functional.silu(h @ w[at + "mlp.gate_proj.weight"].T)
            x = x + (gate * (h @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
        return rms_norm(x, w["model.norm.weight"], c["rms_norm_eps"]) @ w["model.embed_tokens.weight"].T


def rounded(values):
    return [None if v is None else round(float(v), 6) for v in values]


def golden_case(oracle, ids, eos, new_tokens):
    """Prompt log-probs, greedy continuation, top 5 of the first 8 steps and the gap between the two best of each step."""
    scores = oracle.logits(ids).log_softmax(-1)
    prompt = [None] + [scores[i, token] for i, token in enumerate(ids[1:])]
    greedy, chosen, top5, gaps = [], [], [], []
    while len(greedy) < new_tokens and eos not in greedy:
        value, index = oracle.logits(ids + greedy)[-1].log_softmax(-1).topk(5)
        greedy.append(int(index[0]))
        chosen.append(value[0])
        gaps.append(value[0] - value[1])
        if len(top5) < 8:
            top5.append([[int(i), round(float(v), 6)] for i, v in zip(index, value)])
    return {"prompt_ids": ids, "prompt_logprobs": rounded(prompt), "greedy_ids": greedy, "finish": "stop" if greedy[-1] == eos else "length",
            "greedy_logprobs": rounded(chosen), "top5_first8": top5, "top1_top2_gap": rounded(gaps), "min_gap": round(float(min(gaps)), 6)}


@torch.no_grad()
def write_golden(folder, render, new_tokens=64):
    """Writes golden.json into the model folder. `render(messages)` is the chat template with its generation prompt."""
    folder = pathlib.Path(folder)
    oracle = Oracle(folder)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    eos = oracle.config["eos_token_id"]
    cases = []
    for prompt in RAW_PROMPTS + CHAT_PROMPTS:
        chat = not isinstance(prompt, str)
        text = render(prompt) if chat else prompt
        case = {"prompt": text}
        if chat:
            case["messages"] = [{"role": role, "content": content} for role, content in prompt]
        case |= golden_case(oracle, tokenizer.encode(text, add_special_tokens=not chat).ids, eos, new_tokens)
        case["greedy_text"] = tokenizer.decode(case["greedy_ids"])
        cases.append(case)
    golden = {"model": "folio-demo", "dtype": "float32", "device": "cpu", "attn": "written out",
              "versions": {"torch": torch.__version__, "tokenizers": tokenizers.__version__, "python": platform.python_version()},
              "sha256": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMED_FILES},
              "eos_token_id": eos, "note": NOTE, "cases": cases}
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
