"""Trains folio's built-in model and writes it as a Hugging Face folder.

    python tools/train_demo.py --text-dir DATA/text --out models/demo --minutes 60

A Llama of under three million weights learns English from children's stories and manners from short conversations. The
time budget, not a step count, sizes the learning-rate schedule, so the run always ends as a finished model. It needs
torch, tokenizers, safetensors and pyyaml, takes a GPU where there is one, and else is content with one CPU core.
"""

import argparse
import json
import math
import pathlib
import random
import time

import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

import demo_chat
import demo_data
import demo_golden

BOS, EOS, SYSTEM, USER, ASSISTANT = range(5)
SPECIALS = ["<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"]
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 192, "intermediate_size": 512,
    "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32, "hidden_act": "silu",
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "attention_bias": False, "mlp_bias": False, "bos_token_id": BOS, "eos_token_id": EOS, "torch_dtype": "bfloat16", "use_cache": True,
}
CONTEXT = CONFIG["max_position_embeddings"]
CHATTERBOT = "chatterbot/chatterbot_corpus/data/english"
CHAT_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] in ['system', 'user', 'assistant'] %}
{{- '<|' + message['role'] + '|>' + message['content'] | trim }}
{%- else %}
{{- raise_exception('The roles are system, user and assistant, not ' + message['role']) }}
{%- endif %}
{%- if message['role'] == 'assistant' %}
{{- eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{%- endif %}"""


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        hidden, dim = CONFIG["hidden_size"], CONFIG["head_dim"]
        self.heads, self.kv_heads, self.dim = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"], dim
        self.q_proj = nn.Linear(hidden, self.heads * dim, bias=False)
        self.k_proj = nn.Linear(hidden, self.kv_heads * dim, bias=False)
        self.v_proj = nn.Linear(hidden, self.kv_heads * dim, bias=False)
        self.o_proj = nn.Linear(self.heads * dim, hidden, bias=False)

    def forward(self, x, cos, sin, future):
        rows, length, _ = x.shape
        q = rotate(self.q_proj(x).view(rows, length, self.heads, self.dim).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(rows, length, self.kv_heads, self.dim).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(rows, length, self.kv_heads, self.dim).transpose(1, 2)
        # Written out rather than fused: compiled for a CPU this takes half the time of PyTorch's fused attention.
        q = q.reshape(rows, self.kv_heads, -1, self.dim)
        scores = (q @ k.transpose(2, 3)).view(rows, self.kv_heads, -1, length, length) * self.dim ** -0.5
        scores = (scores + future.to(scores.dtype)).softmax(-1).view(rows, self.kv_heads, -1, length)
        mixed = (scores.to(v.dtype) @ v).view(rows, self.heads, length, self.dim)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(CONFIG["hidden_size"], CONFIG["rms_norm_eps"])
        self.self_attn = Attention()
        self.post_attention_layernorm = nn.RMSNorm(CONFIG["hidden_size"], CONFIG["rms_norm_eps"])
        self.mlp = Mlp()

    def forward(self, x, cos, sin, future):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, future)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Module names are Hugging Face's tensor names, so the state dict is the file."""

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(CONFIG["vocab_size"], CONFIG["hidden_size"])
        self.model.layers = nn.ModuleList(Layer() for _ in range(CONFIG["num_hidden_layers"]))
        self.model.norm = nn.RMSNorm(CONFIG["hidden_size"], CONFIG["rms_norm_eps"])
        half = CONFIG["head_dim"] // 2
        angle = torch.arange(CONTEXT)[:, None] / CONFIG["rope_theta"] ** (torch.arange(half) / half)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("future", torch.full((CONTEXT, CONTEXT), float("-inf")).triu(1), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * CONFIG["num_hidden_layers"]) if deep else 1))

    def hidden(self, ids):
        x, length = self.model.embed_tokens(ids), ids.shape[1]
        for layer in self.model.layers:
            x = layer(x, self.cos[:length], self.sin[:length], self.future[:length, :length])
        return self.model.norm(x)

    def forward(self, ids):
        return F.linear(self.hidden(ids), self.model.embed_tokens.weight)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def train_tokenizer(texts):
    """Byte-level BPE: every byte has a token, so any text survives the round trip; digits stand alone, for the sums."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", BOS)])
    return tokenizer


def encode_story(tokenizer, story):
    """(ids, what to learn): a whole story is learnt, from its first word to its end."""
    ids = [BOS] + tokenizer.encode(story, add_special_tokens=False).ids + [EOS]
    return ids, [0] + [1] * (len(ids) - 1)


def encode_chat(tokenizer, messages, longest):
    """(ids, what to learn): the chat template's twin; only what the assistant says is learnt, with the EOS that ends it.

    Ends with the last answer that fits into `longest` tokens."""
    ids, learn, end = [BOS], [0], 0
    for role, text in messages:
        said = tokenizer.encode(text, add_special_tokens=False).ids + [EOS] * (role == "assistant")
        ids += [SPECIALS.index(f"<|{role}|>")] + said
        learn += [0] + [int(role == "assistant")] * len(said)
        if len(ids) > longest:
            break
        end = len(ids) if role == "assistant" else end
    return ids[:end], learn[:end]


def render(messages):
    """What the chat template renders for (role, text) pairs with a generation prompt."""
    body = "".join(f"<|{role}|>{text}" + ("<|eos|>" if role == "assistant" else "") for role, text in messages)
    return "<|bos|>" + body + "<|assistant|>"


def pack(documents, length):
    """Endless rows of `length` tokens out of whole documents; what does not fit waits for a later row."""
    waiting = []
    while True:
        ids, learn = [], []
        while len(waiting) < 64:
            waiting.append(next(documents))
        for document in list(waiting):
            if len(ids) + len(document[0]) <= length:
                ids += document[0]
                learn += document[1]
                waiting.remove(document)
        rest = length - len(ids)
        yield ids + [EOS] * rest, learn + [0] * rest


class Corpus:
    """Stories and conversations of one split, mixed as `chat_share` says, as endless batches of packed rows.

    Most batches are of rows of half the context, because most documents are short and attention over short rows is cheap."""

    def __init__(self, tokenizer, stories, args, seed, chat_share=0.0):
        self.tokenizer, self.stories, self.chat_share = tokenizer, stories, chat_share
        self.talks = demo_chat.Conversations(stories, args.small_talk, args.text_dir / CHATTERBOT)
        self.rng = random.Random(seed)
        self.short, self.long = CONTEXT // 2 + 1, CONTEXT + 1
        self.rows = {self.short: pack(self._documents(0, self.short), self.short),
                     self.long: pack(self._documents(self.short // 2, self.long), self.long)}

    def _documents(self, shortest, longest):
        order = []
        while True:
            if self.rng.random() < self.chat_share:
                ids, learn = encode_chat(self.tokenizer, self.talks.conversation(self.rng), longest)
            else:
                order = order or self.rng.sample(self.stories, len(self.stories))
                ids, learn = encode_story(self.tokenizer, demo_data.vary(order.pop(), self.rng))
            if max(1, shortest) <= len(ids) <= longest:
                yield ids, learn

    def batch(self, tokens, device, long=False):
        """Inputs, targets and the learn mask of rows that hold about `tokens` tokens."""
        length = self.long if long else self.short
        rows = [next(self.rows[length]) for _ in range(tokens // length + 1)]
        ids = torch.tensor([ids for ids, _ in rows], device=device)
        learn = torch.tensor([learn for _, learn in rows], dtype=torch.bool, device=device)
        return ids[:, :-1], ids[:, 1:], learn[:, 1:]


def loss_of(model, batch, device, bf16, hidden=None):
    """Mean cross entropy over the tokens to learn. `hidden` may be a compiled `model.hidden`."""
    inputs, targets, learn = batch
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        scores = F.linear((hidden or model.hidden)(inputs)[learn], model.model.embed_tokens.weight)
    return F.cross_entropy(scores.float(), targets[learn])


def held_out_batches(corpus, device):
    """Six fixed batches of the held-out split, of both row lengths."""
    return [corpus.batch(4096, device, long) for long in (False, False, False, False, True, True)]


@torch.no_grad()
def held_out(model, batches, device):
    """Mean loss over fixed batches of the held-out split, in float32."""
    return sum(float(loss_of(model, batch, device, False)) for batch in batches) / len(batches)


def learning_rate(progress, peak):
    """Linear warm-up over the first 2 % of the time, then a cosine down to nothing."""
    return peak * min(1.0, progress / 0.02) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def chat_share(progress):
    """Share of documents that are conversations: half at first, three quarters in the last third."""
    return 0.5 + 0.25 * min(1.0, max(0.0, (progress - 0.3) / 0.35))


def optimizers(model, args):
    """AdamW for the embedding and the norms, Muon for the matrices of the layers."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    return [(torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), args.muon_rate),
            (torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0), args.rate)]


def train(model, corpus, tests, args, device, save):
    """Trains until the time is up. Prints loss, speed and the time that remains."""
    steppers = optimizers(model, args)
    hidden = torch.compile(model.hidden, dynamic=False) if args.compile else model.hidden
    start = last_save = last_print = time.monotonic()
    step, tokens, losses = 0, 0, []
    while (elapsed := time.monotonic() - start) < args.minutes * 60:
        progress = elapsed / (args.minutes * 60)
        corpus.chat_share = chat_share(progress)
        batch = corpus.batch(args.batch, device, long=corpus.rng.random() < args.long_share)
        loss = loss_of(model, batch, device, args.bf16, hidden)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in steppers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(progress, peak)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + batch[0].numel()
        losses.append(float(loss.detach()))
        now = time.monotonic()
        if now - last_print > args.print_seconds:
            eta = args.minutes - (now - start) / 60
            print(f"step {step:5d}  loss {sum(losses) / len(losses):.3f}  {tokens / (now - start):6.0f} tokens/s  {eta:5.1f} min left", flush=True)
            last_print, losses = now, []
        if now - last_save > args.save_minutes * 60:
            save()
            report(model, tests, device)
            last_save = time.monotonic()
    print(f"trained {step} steps on {tokens} tokens", flush=True)


def report(model, tests, device):
    scores = {name: held_out(model, batches, device) for name, batches in tests.items()}
    print("  held-out loss per token: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()), flush=True)
    return scores


@torch.no_grad()
def answer(model, tokenizer, prompt, temperature, seed, device, most=300):
    """(text, whether it ended by itself) for a rendered prompt; temperature 0 is greedy."""
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    generator = torch.Generator().manual_seed(seed)
    new = []
    while len(new) < most and len(ids) + len(new) < CONTEXT:
        scores = model(torch.tensor([ids + new], device=device))[0, -1].float().cpu()
        choice = int(scores.argmax()) if temperature == 0 else int(torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator))
        if choice == EOS:
            return tokenizer.decode(new), True
        new.append(choice)
    return tokenizer.decode(new), False


def samples(model, tokenizer, device):
    asked = ["Tell me a story about a cat", "Tell me a story about a dog", "What is your name?", "Hello", "who are you?", "Thank you",
             "What can you do?", "Tell me a story", "What is 2 plus 3?"]
    for question in asked:
        for temperature, seed in ((0.0, 0), (0.7, 1), (1.0, 2)):
            text, ended = answer(model, tokenizer, render([("user", question)]), temperature, seed, device)
            print(f"--- {question} | temperature {temperature}, seed {seed}{'' if ended else ' | NOT ENDED'}\n{text}", flush=True)


def save_folder(model, tokenizer, out):
    """The Hugging Face folder: weights in bf16, configuration, tokenizer, chat template."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({n: p.detach().to("cpu", torch.bfloat16).contiguous() for n, p in model.named_parameters()}, out / "model.safetensors", {"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    # A model this small loses the thread at higher temperatures; a request may still ask for one.
    sampling = {"do_sample": True, "temperature": 0.3, "top_p": 0.9}
    ends = {"bos_token_id": BOS, "eos_token_id": EOS}
    (out / "generation_config.json").write_text(json.dumps(ends | sampling, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIALS[BOS], "eos_token": SPECIALS[EOS], "add_bos_token": True,
        "add_eos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": CONTEXT, "chat_template": CHAT_TEMPLATE}, indent=2) + "\n")


def split(stories, seed):
    """(training, held-out): one story in twenty is kept away from training."""
    order = list(stories)
    random.Random(seed).shuffle(order)
    count = len(order) // 20
    return order[count:], order[:count]


def arguments():
    here = pathlib.Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text-dir", type=pathlib.Path, required=True, help="folder with the TinyStories extracts and the chatterbot corpus")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="model folder to write")
    parser.add_argument("--small-talk", type=pathlib.Path, default=here / "demo_chat.yml")
    parser.add_argument("--minutes", type=float, default=60, help="wall-clock time to train")
    parser.add_argument("--save-minutes", type=float, default=10, help="time between checkpoints, which are whole model folders")
    parser.add_argument("--print-seconds", type=float, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4096, help="tokens in a step")
    parser.add_argument("--long-share", type=float, default=0.2, help=f"share of the steps with rows of {CONTEXT} tokens; the others have half")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate of AdamW, which trains the embedding and the norms")
    parser.add_argument("--muon-rate", type=float, default=6e-3, help="peak learning rate of Muon, which trains the matrices of the layers")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="multiply in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the forward pass (a fifth faster on a CPU; needs a C++ compiler)")
    return parser.parse_args()


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    stories, accuracy = demo_data.load_stories(args.text_dir)
    seen, unseen = split(stories, args.seed)
    print(f"{len(seen)} stories to learn, {len(unseen)} held out; re-casing is right for {accuracy:.2%} of characters", flush=True)
    talks = demo_chat.Conversations(seen, args.small_talk, args.text_dir / CHATTERBOT)
    draw = random.Random(args.seed)
    tokenizer = train_tokenizer(seen + [text for _ in range(4000) for _, text in talks.conversation(draw) if len(text) < 300])
    corpus = Corpus(tokenizer, seen, args, args.seed)
    tests = {name: held_out_batches(Corpus(tokenizer, unseen, args, args.seed, share), device) for name, share in (("stories", 0.0), ("chat", 1.0))}
    model = Llama().to(device)
    print(f"{sum(p.numel() for p in model.parameters())} weights on {device}, tokenizers {tokenizers.__version__}, torch {torch.__version__}", flush=True)

    train(model, corpus, tests, args, device, lambda: save_folder(model, tokenizer, args.out))
    save_folder(model, tokenizer, args.out)
    model.load_state_dict({n: p.to(torch.bfloat16).float() for n, p in model.state_dict().items()})
    report(model, tests, device)
    demo_golden.write_golden(args.out, render)
    samples(model, tokenizer, device)


if __name__ == "__main__":
    main()
