"""Cache-aware routers in front of two replicas."""

import concurrent.futures
import importlib.util
import sys

import httpx
import openai
import pytest
from conftest import Between, free_port

GROUPS, PER_GROUP = 8, 10
ROUTERS = {
    "sglang": ("sglang_router", ["-m", "sglang_router.launch_router"]),
    "vllm": ("vllm_router", ["-m", "vllm_router.launch_router"]),
}


def prefix(group):
    """A beginning of some 200 tokens that no other group has."""
    return f"Group {group}: " + " ".join(f"word{group}{n}" for n in range(40))


@pytest.fixture(params=ROUTERS)
def router(request, replicas, tmp_path):
    package, command = ROUTERS[request.param]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not there")
    port = free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--policy", "cache_aware", "--worker-urls", *(r.url for r in replicas)]
    # Its own metrics have a fixed port unless told otherwise.
    flags += ["--prometheus-port", str(free_port()), "--health-check-interval-secs", "1"]
    running = Between([sys.executable, *command, *flags], port, "/health", tmp_path / "log")
    yield running
    running.stop()


def client(url):
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60)


def served(replica):
    """Requests that have been answered."""
    with client(replica.url)._client.stream("GET", replica.url + "/metrics") as answer:
        page = answer.read().decode()
    lines = [line for line in page.splitlines() if line.startswith("vllm:request_success_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_prefixes_find_their_replica(router, replicas):
    model = client(replicas[0].url).models.list().data[0].id
    asks = client(router.url)

    def visits(group):
        """How many of a group's later requests came to where its beginning is cached."""
        found = 0
        for turn in range(PER_GROUP):
            prompt = f"{prefix(group)} And then, {turn} times,"
            usage = asks.completions.create(model=model, prompt=prompt, max_tokens=16).usage
            found += turn > 0 and usage.prompt_tokens_details.cached_tokens > usage.prompt_tokens / 2
        return found

    # At the same time, since a router has no reason to spread what comes one by one.
    with concurrent.futures.ThreadPoolExecutor(GROUPS) as pool:
        found = sum(pool.map(visits, range(GROUPS)))
    affinity = found / (GROUPS * (PER_GROUP - 1))
    print(f"prefix affinity {affinity:.3f}, requests per replica {[served(r) for r in replicas]}")
    assert affinity >= 0.9
    assert all(served(replica) > 0 for replica in replicas), "both replicas work"


def test_responses_pass(router, replicas):
    model = client(replicas[0].url).models.list().data[0].id
    answer = client(router.url).responses.create(model=model, input="What is your name?", temperature=0, max_output_tokens=64)
    # Routers that keep answers themselves may say so; here nothing is kept.
    assert "Folio" in answer.output_text


def test_streams_go_on_when_a_replica_dies(router, replicas):
    model = client(replicas[0].url).models.list().data[0].id
    asks = client(router.url)

    def stream(number):
        prompt = f"{prefix(number)} And then"
        try:
            parts = asks.completions.create(model=model, prompt=prompt, max_tokens=100, stream=True, extra_body={"ignore_eos": True})
            events = list(parts)
            return events[-1].choices[0].finish_reason == "length"
        except (openai.OpenAIError, httpx.HTTPError, IndexError):
            return False

    assert all(stream(number) for number in range(4)), "with both alive"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(stream, number) for number in range(40)]
        next(concurrent.futures.as_completed(running))
        replicas[1].process.kill()
        ended = [future.result() for future in running]
    # Those on the dead replica are cut off, those on the other one are not; afterwards everybody is served.
    print(f"{sum(ended)} of {len(ended)} streams ended while a replica died")
    assert sum(ended) >= len(ended) / 2
    for number in range(50, 200):
        if stream(number):
            break
    assert all(stream(number) for number in range(200, 220)), "with one alive"
