"""Writes beams.json: what Hugging Face transformers' beam search returns for small models of models/arch-zoo.

The end-of-sequence ids of a prompt are tokens that its own beams reach, so that hypotheses finish at different depths.
Every entry is searched again in float64, and in float64 with a little noise on the log-probabilities; they must agree,
so no answer hangs on a near-tie. Made with: python make.py (torch 2.9.1, transformers 5.23.0, float32 on the CPU).
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor

HERE = pathlib.Path(__file__).parent
ZOO = HERE.parents[3] / "models/arch-zoo"
NOISE = 1e-5
# The model: the case of its golden.json whose prompt is taken, and the ids that end a sequence.
CASES = {
    "llama3-ropescaled": [(2, [389, 446]), (5, [334, 2, 154])],
    "gpt2": [(0, [290, 416, 358]), (1, [325, 17])],
    "gpt-neox": [(1, [430]), (8, [188, 454])],
    "qwen3": [(0, [496]), (6, [452, 274])],
}
STOPPING = (False, True, "never")
# Beams, returned sequences, new tokens, length penalty, early stopping.
SETTINGS = [(k, k, 24, lp, es) for k in (2, 4) for lp in (0.0, 1.0, 2.0) for es in STOPPING]
SETTINGS += [(3, 2, 24, -1.0, es) for es in STOPPING]
SETTINGS += [(3, 2, 24, 0.5, "never"), (4, 1, 24, 1.0, True)]
SETTINGS += [(3, 3, 1, 1.0, False), (3, 2, 2, 2.0, True), (2, 2, 2, 0.0, "never")]


class Noise(LogitsProcessor):
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, input_ids, scores):
        return scores + NOISE * (2 * torch.rand(scores.shape, generator=self.generator) - 1)


def search(model, prompt, eos, setting, noise=()):
    """The hypotheses, best first, their scores and the number of steps searched."""
    beams, returned, tokens, penalty, stopping = setting
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=beams,
        num_return_sequences=returned, max_new_tokens=tokens, length_penalty=penalty,
        early_stopping=stopping, eos_token_id=eos, pad_token_id=eos[0],
        return_dict_in_generate=True, output_scores=True, logits_processor=list(noise),
    )
    rows = []
    for row in output.sequences[:, len(prompt):].tolist():
        end = next((i + 1 for i, t in enumerate(row) if t in eos), tokens)
        assert len(row) >= end
        rows.append(row[:end])
    return rows, output.sequences_scores.tolist(), len(output.scores)


def entry(model, double, prompt, eos, setting):
    rows, scores, steps = search(model, prompt, eos, setting)
    for noise in ([], [Noise(1)], [Noise(2)]):
        again, near, taken = search(double, prompt, eos, setting, noise)
        assert (again, taken) == (rows, steps), (prompt, eos, setting, noise)
        bound = 1e-4 if not noise else 30 * NOISE * max(1, 24 ** -setting[3])
        assert all(abs(a - b) < bound for a, b in zip(scores, near)), (scores, near)
    return dict(
        num_beams=setting[0], num_return_sequences=setting[1], max_new_tokens=setting[2],
        length_penalty=setting[3], early_stopping=setting[4], eos=eos, steps=steps,
        sequences=[dict(ids=row, score=round(score, 6)) for row, score in zip(rows, scores)],
    )


def summary(entries):
    """Prints the lengths of the hypotheses, a point after those that an end-of-sequence id finished."""
    count = dict(entries=0, early_eos=0, lengths_differ=0, eos_and_cut=0, hypotheses=0, finished=0)
    groups = {}
    for e in entries:
        rows = [s["ids"] for s in e["sequences"]]
        ended = [row[-1] in e["eos"] for row in rows]
        early = [end and len(row) < e["max_new_tokens"] for row, end in zip(rows, ended)]
        count["entries"] += 1
        count["early_eos"] += any(early)
        count["lengths_differ"] += len({len(row) for row, end in zip(rows, ended) if end}) > 1
        count["eos_and_cut"] += any(ended) and not all(ended)
        count["hypotheses"] += len(rows)
        count["finished"] += sum(ended)
        key = e["num_beams"], e["num_return_sequences"], e["max_new_tokens"], e["length_penalty"]
        text = " ".join(f"{len(row)}{'.' if end else ''}" for row, end in zip(rows, ended))
        groups.setdefault(key, []).append((e["early_stopping"], text, rows))
    for key, found in groups.items():
        print("   ", *key, " | ".join(f"{es}: {text}" for es, text, _ in found))
    triples = [[rows for _, _, rows in found] for found in groups.values() if len(found) == 3]
    count["stopping_matters"] = sum(len({str(rows) for rows in t}) > 1 for t in triples)
    count["all_three_differ"] = sum(len({str(rows) for rows in t}) == 3 for t in triples)
    count["triples"] = len(triples)
    print("   ", count)
    return count


def main():
    torch.set_num_threads(1)
    models, counts = [], []
    for name, cases in CASES.items():
        model = AutoModelForCausalLM.from_pretrained(ZOO / name, dtype=torch.float32).eval()
        double = AutoModelForCausalLM.from_pretrained(ZOO / name, dtype=torch.float64).eval()
        golden = json.loads((ZOO / name / "golden.json").read_text())["cases"]
        prompts = []
        for case, eos in cases:
            prompt = golden[case]["prompt_ids"]
            print(name, len(prompt), "prompt ids, eos", eos)
            entries = [entry(model, double, prompt, eos, setting) for setting in SETTINGS]
            counts.append(summary(entries))
            prompts.append(dict(prompt_ids=prompt, entries=entries))
        models.append(dict(model=name, prompts=prompts))
    print("all", {key: sum(c[key] for c in counts) for key in counts[0]})
    (HERE / "beams.json").write_text(json.dumps(dict(models=models), separators=(",", ":")))


main()
