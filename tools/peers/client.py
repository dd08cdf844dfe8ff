#!/usr/bin/env python3
"""Sends the requests of a file at their times through OpenAI's own client, and prints what `folio bench serve` prints of them:
a second opinion on its figures. The file has JSON lines with prompt_ids, output_tokens and arrival_s. Needs the package openai."""

import argparse
import asyncio
import json
import statistics
import time

from openai import AsyncOpenAI


async def send(client, options, request, start):
    """Seconds at which the request was sent and at which each of its tokens came; servers here send a token per chunk."""
    await asyncio.sleep(start + request["arrival_s"] - time.perf_counter())
    sent, times, tokens = time.perf_counter(), [], 0
    stream = await client.completions.create(
        model=options.model,
        prompt=request["prompt_ids"],
        max_tokens=request["output_tokens"],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True, **json.loads(options.extra_body)},
    )
    async for chunk in stream:
        if chunk.choices:
            times.append(time.perf_counter())
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
    return sent, times, tokens


async def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--base-url", default="http://127.0.0.1:8000")
    options.add_argument("--model", required=True)
    options.add_argument("--requests", required=True, metavar="FILE")
    options.add_argument("--extra-body", default="{}", metavar="JSON")
    options = options.parse_args()
    with open(options.requests, encoding="utf-8") as file:
        requests = [json.loads(line) for line in file if line.strip()]
    client = AsyncOpenAI(base_url=options.base_url + "/v1", api_key="none", timeout=None, max_retries=0)
    start = time.perf_counter()
    answers = await asyncio.gather(*(send(client, options, request, start) for request in requests))
    duration = max(times[-1] for _, times, _ in answers) - min(sent for sent, _, _ in answers)
    ttft = [times[0] - sent for sent, times, _ in answers]
    tpot = [(times[-1] - times[0]) / (tokens - 1) for _, times, tokens in answers if tokens > 1]
    tokens = sum(tokens for _, _, tokens in answers)
    milliseconds = {
        "mean_ttft_ms": statistics.mean(ttft),
        "median_ttft_ms": statistics.median(ttft),
        "mean_tpot_ms": statistics.mean(tpot),
        "median_tpot_ms": statistics.median(tpot),
        "mean_e2el_ms": statistics.mean(times[-1] - sent for sent, times, _ in answers),
    }
    print(json.dumps({
        "completed": len(answers),
        "total_output_tokens": tokens,
        "duration": round(duration, 3),
        "output_throughput": round(tokens / duration, 2),
        **{name: round(1e3 * value, 2) for name, value in milliseconds.items()},
    }))


asyncio.run(main())
