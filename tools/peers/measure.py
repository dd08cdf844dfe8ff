#!/usr/bin/env python3
"""Time a peer in this process as `folio bench latency` times folio, or let it serve a workload; print one JSON object.

usage: measure.py {openvino,transformers} MODEL [--batch-size 1,8,32] [--input-len 128] [--output-len 128]
                  [--prefill-len 512] [--num-iters 3] [--threads 2] [--workload FILE.jsonl [--burst]] [--cache-gib 3]
                  [--static-batch 16]

Rates mean what folio's mean: decode is counted from the moment when the last sequence of a batch has its first token.
"""
import argparse
import json
import random
import statistics
import time


class OpenVino:
    """OpenVINO GenAI's continuous batching, step by step."""

    def __init__(self, arguments):
        import numpy
        import openvino
        import openvino_genai as genai

        self.genai, self.numpy, self.openvino = genai, numpy, openvino
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = arguments.cache_gib
        scheduler.max_num_seqs = 256
        scheduler.enable_prefix_caching = bool(arguments.workload)
        properties = {"INFERENCE_NUM_THREADS": str(arguments.threads)}
        self.pipe = genai.ContinuousBatchingPipeline(arguments.model, scheduler, "CPU", properties)
        self.number = 0

    def run(self, requests):
        """Requests are (due in s, ids, tokens to generate); returns for each (due, times of its tokens)."""
        began, waiting, live, done = time.perf_counter(), list(reversed(requests)), [], []
        while waiting or live:
            now = time.perf_counter() - began
            while waiting and waiting[-1][0] <= now:
                due, ids, count = waiting.pop()
                config = self.genai.GenerationConfig()
                config.max_new_tokens = config.min_new_tokens = count
                config.ignore_eos, config.do_sample, config.apply_chat_template = True, False, False
                tensor = self.openvino.Tensor(self.numpy.array([ids], dtype=self.numpy.int64))
                live.append((self.pipe.add_request(self.number, tensor, config), []))
                done.append((due, live[-1][1]))
                self.number += 1
            if not live:
                time.sleep(max(0.0, waiting[-1][0] - now))
                continue
            self.pipe.step()
            now, still = time.perf_counter() - began, []
            for handle, times in live:
                while handle.can_read():
                    times += [now] * sum(len(output.generated_ids) for output in handle.read().values())
                if str(handle.get_status()).endswith("RUNNING"):
                    still.append((handle, times))
            live = still
        return done


class Transformers:
    """`generate` with static batches: of what waits, padded to the longest prompt, run to the longest output."""

    def __init__(self, arguments):
        import torch
        from transformers import AutoModelForCausalLM, StoppingCriteria

        torch.set_num_threads(arguments.threads)
        torch.set_grad_enabled(False)
        self.torch, self.criteria = torch, StoppingCriteria
        self.model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
        self.model.generation_config.eos_token_id = None
        self.most = arguments.static_batch if arguments.workload else None

    def run(self, requests):
        """As above."""
        began, waiting, done = time.perf_counter(), list(requests), []
        while waiting:
            now = time.perf_counter() - began
            due = [request for request in waiting if request[0] <= now][: self.most]
            if not due:
                time.sleep(waiting[0][0] - now)
                continue
            waiting = waiting[len(due):]
            times = self.batch(due, began)
            done += [(arrival, times[:count]) for arrival, _, count in due]
        return done

    def batch(self, requests, began):
        """The times of each step's tokens."""
        torch, times = self.torch, []
        longest = max(len(ids) for _, ids, _ in requests)
        ids = torch.tensor([[0] * (longest - len(ids)) + ids for _, ids, _ in requests])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for _, ids, _ in requests])

        class Clock(self.criteria):
            def __call__(self, input_ids, scores, **_):
                times.append(time.perf_counter() - began)
                return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        count = max(count for *_, count in requests)
        self.model.generate(
            ids, attention_mask=mask, stopping_criteria=[Clock()], max_new_tokens=count, min_new_tokens=count,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )
        return times


def decode_rate(answers):
    """Tokens per second after the last first token."""
    start = max(times[0] for _, times in answers)
    later = [at for _, times in answers for at in times if at > start]
    return len(later) / (max(later) - start) if later else 0.0


def percentile(values, percent):
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def serving(answers, prompt_tokens):
    """The keys of `folio bench serve`."""
    answers = [(due, times) for due, times in answers if times]
    duration = max(times[-1] for _, times in answers) - min(due for due, _ in answers)
    ttft = [1e3 * (times[0] - due) for due, times in answers]
    tpot = [1e3 * (times[-1] - times[0]) / (len(times) - 1) for _, times in answers if len(times) > 1]
    output = sum(len(times) for _, times in answers)
    result = {
        "completed": len(answers), "duration": duration, "total_input_tokens": prompt_tokens,
        "total_output_tokens": output, "output_throughput": output / duration,
    }
    for name, values in (("ttft", ttft), ("tpot", tpot)):
        result |= {f"mean_{name}_ms": statistics.mean(values), f"median_{name}_ms": statistics.median(values),
                   f"p99_{name}_ms": percentile(values, 99)}
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["openvino", "transformers"])
    parser.add_argument("model")
    parser.add_argument("--batch-size", default="1,8,32")
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--prefill-len", type=int, default=512)
    parser.add_argument("--num-iters", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-gib", type=int, default=3)
    parser.add_argument("--static-batch", type=int, default=16)
    parser.add_argument("--workload")
    parser.add_argument("--burst", action="store_true")
    arguments = parser.parse_args()
    engine = (OpenVino if arguments.engine == "openvino" else Transformers)(arguments)
    chance = random.Random(0)

    def batch(rows, length, count):
        # Ids below 1000 exist in every common model.
        return [(0.0, [chance.randrange(1000) for _ in range(length)], count) for _ in range(rows)]

    engine.run(batch(1, 16, 4))
    if arguments.workload:
        rows = [json.loads(line) for line in open(arguments.workload) if line.strip()]
        requests = [(0.0 if arguments.burst else row.get("arrival_s", 0.0), row["prompt_ids"], row["output_tokens"])
                    for row in rows]
        print(json.dumps(serving(engine.run(requests), sum(len(ids) for _, ids, _ in requests))))
        return
    prefill = []
    for _ in range(arguments.num_iters):
        (_, times), = engine.run(batch(1, arguments.prefill_len, 1))
        prefill.append(arguments.prefill_len / times[0])
    batches = []
    for rows in map(int, arguments.batch_size.split(",")):
        runs = [engine.run(batch(rows, arguments.input_len, arguments.output_len)) for _ in range(arguments.num_iters)]
        batches.append({
            "batch_size": rows,
            "decode_tokens_per_second": statistics.median(map(decode_rate, runs)),
            "mean_ttft_ms": 1e3 * statistics.mean(times[0] for run in runs for _, times in run),
        })
    print(json.dumps({"prefill": {"tokens_per_second": statistics.median(prefill)}, "batches": batches}))


if __name__ == "__main__":
    main()
