"""What samples and beams of one prompt cost, against a plain batch of as many sequences.

    python3 tools/measure_samples.py target/release/folio MODEL [flags of `folio serve`]

Starts a server and sends, in turns, 8 requests at once, one with `n: 8`, 4 requests at once, one beam search of width 4;
each has a prompt of 128 random tokens that nobody has sent before and 128 tokens of output. Prints seconds and ratios of medians.
"""

import json
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

PORT = 8123
TURNS = 5
TOKENS = 128


def post(body):
    """Waits for the answer to a completion."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def seconds(bodies):
    """Time until all of the requests, sent at once, are answered."""
    begun = time.monotonic()
    threads = [threading.Thread(target=post, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun


def main():
    binary, model, *flags = sys.argv[1:]
    server = subprocess.Popen(
        [binary, "serve", model, "--port", str(PORT), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (line := server.stderr.readline()).startswith("ready"):
            if not line:
                sys.exit(f"{binary} has ended")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        measure(pathlib.Path(model).name)
    finally:
        server.terminate()
        server.wait()


def measure(model):
    """Prints the table."""
    chance = random.Random(1)

    def body(**more):
        prompt = [chance.randrange(100, 1000) for _ in range(TOKENS)]
        plain = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 1.0, "ignore_eos": True}
        return plain | more

    kinds = {
        "8 requests": lambda: [body() for _ in range(8)],
        "n: 8": lambda: [body(n=8)],
        "4 requests": lambda: [body() for _ in range(4)],
        "beams: 4": lambda: [body(n=4, use_beam_search=True, temperature=0)],
    }
    times = {kind: [] for kind in kinds}
    post(body(max_tokens=8))
    for _ in range(TURNS):
        for kind, bodies in kinds.items():
            times[kind].append(seconds(bodies()))
    middle = {kind: statistics.median(of) for kind, of in times.items()}
    for kind, of in times.items():
        print(f"{kind:10}  median {middle[kind]:.2f} s, {min(of):.2f} to {max(of):.2f}")
    print(f"n: 8 against 8 requests {middle['n: 8'] / middle['8 requests']:.2f}")
    print(f"beams: 4 against 4 requests {middle['beams: 4'] / middle['4 requests']:.2f}")


if __name__ == "__main__":
    main()
