"""Every model folder with Hugging Face answers, served by the binary and asked over HTTP.

The folders of the project are always there; more are used where ../shared/data/models exists.
"""

import json
from pathlib import Path

import pytest
from conftest import Server

PROJECT = Path("models/arch-zoo")
SHARED = Path("../shared/data/models")
# f32 weights; rounding the weights to 16 bits alone moves log-probabilities by more, so those are not compared here.
TOLERANCE = 1e-4


def folders():
    found = sorted(f.parent for f in PROJECT.glob("*/golden.json"))
    assert len(found) >= 10
    extra = sorted(f.parent for f in SHARED.glob("*/golden.json"))
    if not extra:
        print("skipped: ../shared is absent, only the project's own models are served")
    return found + extra


def close(ours, golden):
    return all(a is b is None or abs(a - b) <= TOLERANCE for a, b in zip(ours, golden, strict=True))


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_answers_are_those_of_hugging_face(folder):
    golden = json.loads((folder / "golden.json").read_text())
    server = Server(str(folder), "--served-model-name", "it")
    client = server.client()
    compared = 0
    for case in golden["cases"]:
        prompt, greedy = case["prompt_ids"], case["greedy_logprobs"]
        answer = client.completions.create(
            model="it", prompt=prompt, temperature=0, max_tokens=len(greedy), echo=True, logprobs=5
        )
        ours = answer.choices[0].logprobs.token_logprobs
        assert close(ours[: len(prompt)], case["prompt_logprobs"]), case["prompt"]
        # Where the two best tokens are closer than the tolerance, either may be chosen; what follows is another text.
        sure = next((i for i, gap in enumerate(case["top1_top2_gap"]) if gap < 2 * TOLERANCE), len(greedy))
        assert close(ours[len(prompt) :][:sure], greedy[:sure]), case["prompt"]
        compared += sure
    assert compared > 100
    assert server.stop() == 0
