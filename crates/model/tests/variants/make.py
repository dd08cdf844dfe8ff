"""Writes the small models of this folder and their answers by Hugging Face transformers.

Each is a family of models/arch-zoo turned by the switches its configuration has and the zoo does not use. Weights are
random; the answers are what counts. Made with: python make.py (torch 2.9.1, transformers 5.23.0, float32 on the CPU).
"""

import json
import pathlib

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
COMMON = dict(vocab_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=None)
USUAL = dict(
    COMMON,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=128,
)
VARIANTS = {
    "gpt-neox-sequential": dict(
        USUAL, model_type="gpt_neox", use_parallel_residual=False, attention_bias=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
    ),
    "llama-biases-linear-rope": dict(
        USUAL, model_type="llama", attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        num_key_value_heads=4, hidden_act="gelu",
        rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=5000.0),
    ),
    "mistral-one-kv-head": dict(
        USUAL, model_type="mistral", head_dim=16, num_key_value_heads=1, sliding_window=None,
        tie_word_embeddings=True,
    ),
    "qwen2-late-windows": dict(
        USUAL, model_type="qwen2", num_key_value_heads=2, use_sliding_window=True,
        sliding_window=8, max_window_layers=1, tie_word_embeddings=False,
    ),
    "qwen3-biases-windows": dict(
        USUAL, model_type="qwen3", num_key_value_heads=2, head_dim=16, attention_bias=True,
        use_sliding_window=True, sliding_window=6, max_window_layers=2,
    ),
    "phi-odd-rotation": dict(
        USUAL, model_type="phi", num_key_value_heads=2,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.8),
    ),
    "phi3-partial-window": dict(
        USUAL, model_type="phi3", num_key_value_heads=2, sliding_window=8,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.75),
    ),
    "gemma2-uncapped": dict(
        USUAL, model_type="gemma2", num_key_value_heads=2, head_dim=16, sliding_window=6,
        query_pre_attn_scalar=20, attn_logit_softcapping=None, final_logit_softcapping=None,
        attention_bias=True, tie_word_embeddings=False,
    ),
    "opt-no-biases": dict(
        USUAL, model_type="opt", ffn_dim=48, enable_bias=False, activation_function="gelu",
        word_embed_proj_dim=32, tie_word_embeddings=False,
    ),
    "gpt2-unscaled": dict(
        COMMON, model_type="gpt2", n_embd=32, n_layer=3, n_head=4, n_positions=128, n_inner=40,
        activation_function="relu", scale_attn_weights=False, tie_word_embeddings=False,
    ),
}


def randomise(model, generator):
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        offset_norm = model.config.model_type == "gemma2"
        centre = 1.0 if "norm" in name and name.endswith("weight") and not offset_norm else 0.0
        if "ln_" in name and name.endswith("weight"):
            centre = 1.0
        parameter.data = (centre + 0.15 * noise).to(torch.float32)
    model.tie_weights()


def legacy(config):
    """The keys that transformers 4.x wrote."""
    config.pop("layer_types", None)
    config["torch_dtype"] = config.pop("dtype", "float32")
    rope = config.pop("rope_parameters", None)
    if rope:
        config["rope_theta"] = rope.pop("rope_theta")
        partial = rope.pop("partial_rotary_factor", None)
        if partial is not None:
            config["partial_rotary_factor"] = partial
            config["rotary_pct"] = partial
        config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return config


def answers(model, prompts, steps):
    cases = []
    for prompt in prompts:
        ids, greedy, chosen, top5, gaps = list(prompt), [], [], [], []
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            given = [None] + [scores[i, t].item() for i, t in enumerate(prompt[1:])]
            for _ in range(steps):
                last = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                best = last.topk(5)
                top5.append([[i.item(), p.item()] for i, p in zip(best.indices, best.values)])
                gaps.append((best.values[0] - best.values[1]).item())
                greedy.append(best.indices[0].item())
                chosen.append(best.values[0].item())
                ids.append(greedy[-1])
        cases.append(dict(
            prompt_ids=list(prompt), prompt_logprobs=given, greedy_ids=greedy,
            greedy_logprobs=chosen, top5_first8=top5[:8], top1_top2_gap=gaps,
        ))
    return cases


def main():
    torch.set_num_threads(1)
    for number, (name, settings) in enumerate(VARIANTS.items()):
        generator = torch.Generator().manual_seed(number)
        config = AutoConfig.for_model(**settings)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        randomise(model, generator)
        folder = HERE / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        written = json.loads((folder / "config.json").read_text())
        (folder / "config.legacy.json").write_text(json.dumps(legacy(dict(written)), indent=1))
        if name == "gpt2-unscaled":
            # As the first GPT-2 checkpoints: without the prefix.
            tensors = load_file(folder / "model.safetensors")
            tensors = {key.removeprefix("transformer."): t for key, t in tensors.items()}
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        prompts = [torch.randint(0, 96, (n,), generator=generator).tolist() for n in (2, 7, 30)]
        golden = dict(model=name, cases=answers(model, prompts, 12))
        (folder / "golden.json").write_text(json.dumps(golden))


main()
