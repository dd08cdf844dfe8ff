"""Choices of one request, as users of the official client ask for them: several samples, the best of many, beams."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
from conftest import Server
from test_goldens import folders

PROMPT = "Once upon a time"
QUESTION = [{"role": "user", "content": "Tell me a story about a cat"}]
# Fields that the official client does not know, at least not at both endpoints.
FIELDS = ["best_of", "use_beam_search", "beam_width", "length_penalty", "early_stopping"]


def close(a, b, tolerance=1e-3):
    return abs(a - b) <= tolerance * max(1.0, abs(b))


def ask(client, model, endpoint, **more):
    """The choices of one request: for each its text, log-probabilities, score and finish reason."""
    beams = {field: more.pop(field) for field in FIELDS if field in more}
    common = dict(model=model, extra_body=beams, **({"max_tokens": 24} | more))
    if endpoint == "chat":
        answer = client.chat.completions.create(messages=QUESTION, logprobs=True, top_logprobs=2, **common)
    else:
        answer = client.completions.create(prompt=PROMPT, logprobs=2, **common)
    return [read(choice) for choice in answer.choices]


def read(choice):
    if hasattr(choice, "message"):
        text, logprobs = choice.message.content, [t.logprob for t in choice.logprobs.content]
    else:
        text, logprobs = choice.text, choice.logprobs.token_logprobs
    extra = choice.model_extra
    return dict(
        index=choice.index,
        text=text,
        logprobs=logprobs,
        score=extra.get("score"),
        finish=choice.finish_reason,
        stop=extra.get("stop_reason"),
    )


def mean(choice):
    return sum(choice["logprobs"]) / len(choice["logprobs"])


BOTH = pytest.mark.parametrize("endpoint", ["chat", "completions"])


def test_streamed_choices_come_interleaved(client, model):
    common = dict(model=model, prompt=PROMPT, n=3, max_tokens=60, seed=5, temperature=1, extra_body={"ignore_eos": True})
    whole = client.completions.create(**common)
    order, texts = [], ["", "", ""]
    for chunk in client.completions.create(**common, stream=True):
        for choice in chunk.choices:
            order.append(choice.index)
            texts[choice.index] += choice.text
    assert texts == [c.text for c in whole.choices]
    assert order.index(2) < len(order) - 1 - order[::-1].index(0), "the last choice begins before the first one ends"


@BOTH
def test_best_of_returns_the_best_samples(client, model, endpoint):
    common = dict(seed=11, temperature=1)
    samples = ask(client, model, endpoint, n=8, **common)
    assert all(s["score"] is None for s in samples), "only ranked choices have a score"
    best = ask(client, model, endpoint, n=3, best_of=8, **common)
    wanted = sorted(samples, key=mean, reverse=True)[:3]
    assert [b["text"] for b in best] == [w["text"] for w in wanted]
    assert [b["index"] for b in best] == [0, 1, 2]
    for choice in best:
        assert close(choice["score"], mean(choice))


@BOTH
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_are_ranked_by_their_score(client, model, endpoint, penalty):
    beams = ask(client, model, endpoint, use_beam_search=True, beam_width=4, n=4, length_penalty=penalty)
    assert len({b["text"] for b in beams}) == 4, "beams differ from each other"
    scores = [b["score"] for b in beams]
    assert scores == sorted(scores, reverse=True)
    for beam in beams:
        assert close(beam["score"], sum(beam["logprobs"]) / len(beam["logprobs"]) ** penalty)


@BOTH
def test_the_spellings_of_a_width_mean_the_same(client, model, endpoint):
    by_width = ask(client, model, endpoint, use_beam_search=True, beam_width=3, n=2)
    assert ask(client, model, endpoint, use_beam_search=True, best_of=3, n=2) == by_width
    assert ask(client, model, endpoint, use_beam_search=True, n=3)[:2] == by_width
    assert ask(client, model, endpoint, use_beam_search=True, beam_width=3, n=2, temperature=0) == by_width


@BOTH
def test_one_beam_is_greedy(client, model, endpoint):
    [greedy] = ask(client, model, endpoint, temperature=0)
    [beam] = ask(client, model, endpoint, use_beam_search=True, beam_width=1)
    assert (beam["text"], beam["logprobs"], beam["finish"]) == (greedy["text"], greedy["logprobs"], greedy["finish"])


@BOTH
def test_stop_strings_end_beams_and_samples(client, model, endpoint):
    free = ask(client, model, endpoint, use_beam_search=True, beam_width=4)[0]["text"]
    word = free.split()[3]
    ways = [
        dict(use_beam_search=True, beam_width=4, n=4),
        dict(use_beam_search=True, beam_width=4, n=4, early_stopping=True),
        dict(best_of=8, n=4, seed=3, temperature=1),
    ]
    stopped = [choice for way in ways for choice in ask(client, model, endpoint, stop=[word, "."], **way)]
    assert sum(c["stop"] is not None for c in stopped) >= 4
    for choice in stopped:
        assert word not in choice["text"] and "." not in choice["text"]
        if choice["stop"] is not None:
            assert choice["stop"] in (word, ".") and choice["finish"] == "stop"
    # The same samples end at the same places, ranked or not.
    samples = ask(client, model, endpoint, stop=[word, "."], n=8, seed=3, temperature=1)
    best = sorted(samples, key=mean, reverse=True)[:4]
    assert [(c["text"], c["stop"]) for c in stopped[-4:]] == [(c["text"], c["stop"]) for c in best]


@BOTH
@pytest.mark.parametrize("way", [dict(use_beam_search=True, beam_width=4), dict(best_of=6)], ids=["beams", "best_of"])
def test_ranked_choices_can_be_streamed(client, model, endpoint, way):
    common = dict(model=model, n=3, max_tokens=20, seed=1, extra_body=way)
    if endpoint == "chat":
        create, common = client.chat.completions.create, common | {"messages": QUESTION}
    else:
        create, common = client.completions.create, common | {"prompt": PROMPT}
    whole = create(**common)
    said, scores, finishes, usage = {}, {}, {}, None
    for chunk in create(**common, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            piece = choice.delta.content if endpoint == "chat" else choice.text
            said[choice.index] = said.get(choice.index, "") + piece
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
                scores[choice.index] = choice.model_extra["score"]
            else:
                assert "score" not in choice.model_extra
        usage = chunk.usage or usage
    for choice in whole.choices:
        text = choice.message.content if endpoint == "chat" else choice.text
        assert (said[choice.index], finishes[choice.index]) == (text, choice.finish_reason)
        assert scores[choice.index] == choice.model_extra["score"]
    assert usage.completion_tokens == whole.usage.completion_tokens


@BOTH
def test_searching_longer_never_finds_worse(client, model, endpoint):
    common = dict(use_beam_search=True, beam_width=4, n=4, max_tokens=60, stop=".")
    best = [ask(client, model, endpoint, early_stopping=early, **common)[0]["score"] for early in (True, False, "never")]
    assert best == sorted(best)


@pytest.mark.parametrize(
    "change, field",
    [
        (dict(beam_width=4), "beam_width"),
        (dict(length_penalty=2), "length_penalty"),
        (dict(early_stopping=True), "early_stopping"),
        (dict(best_of=1, n=2), "best_of"),
        (dict(best_of=10**6), "best_of"),
        (dict(use_beam_search=True, temperature=0.5), "temperature"),
        (dict(use_beam_search=True, top_p=0.9), "top_p"),
        (dict(use_beam_search=True, beam_width=100000), "beam_width"),
        (dict(use_beam_search=True, beam_width=2, n=3), "beam_width"),
        (dict(use_beam_search=True, beam_width=2, best_of=4), "best_of"),
        (dict(use_beam_search=True, early_stopping="sometimes"), "early_stopping"),
        (dict(use_beam_search=True, length_penalty="x"), "length_penalty"),
        (dict(use_beam_search="yes"), "use_beam_search"),
    ],
)
@BOTH
def test_what_contradicts_itself_is_refused_by_name(client, model, endpoint, change, field):
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, model, endpoint, **change)
    assert caught.value.body["param"] == field
    assert field in caught.value.body["message"]


def test_callers_with_different_keys_share_no_cache():
    server = Server("--api-key", "first", "--api-key", "second")

    def cached(key):
        prompt = "A long beginning that fills more than one block of the cache. " * 4
        answer = server.client(key).completions.create(model=model, prompt=prompt, max_tokens=2)
        return answer.usage.prompt_tokens_details.cached_tokens

    model = server.client("first").models.list().data[0].id
    assert cached("first") == 0
    assert cached("first") > 0
    assert cached("second") == 0
    assert cached("second") > 0
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(server.url + "/debug/kv")
    request = urllib.request.Request(server.url + "/debug/kv", headers={"Authorization": "Bearer first"})
    report = json.load(urllib.request.urlopen(request))
    assert report["stats"]["used"] == 0 and report["stats"]["cached_free"] > 0 and report["groups"] == []
    assert server.stop() == 0


def searches(folder):
    """Prompts and beam searches of Hugging Face for one model."""
    for name in ("golden.json", "golden_beam.json"):
        path = folder / name
        golden = json.loads(path.read_text()) if path.exists() else {"cases": []}
        for case in golden["cases"]:
            for entry in case.get("beam") or []:
                yield case["prompt_ids"], {"max_new_tokens": golden.get("max_new_tokens")} | entry


def searched():
    shared = Path("../shared/data/models/stories260K-llama-eosdot")
    return sorted({*folders(), *([shared] if shared.exists() else [])})


@pytest.mark.parametrize("folder", searched(), ids=lambda folder: folder.name)
def test_beams_are_those_of_hugging_face(folder):
    server = Server(str(folder), "--served-model-name", "it")
    client = server.client()

    def names(ids):
        echo = client.completions.create(model="it", prompt=ids, max_tokens=1, echo=True, logprobs=0)
        return echo.choices[0].logprobs.tokens[: len(ids)]

    compared = 0
    for prompt, entry in searches(folder):
        answer = client.completions.create(
            model="it",
            prompt=prompt,
            n=len(entry["sequences"]),
            max_tokens=entry["max_new_tokens"],
            logprobs=0,
            extra_body=dict(
                use_beam_search=True,
                beam_width=entry["num_beams"],
                length_penalty=entry["length_penalty"],
                early_stopping=entry["early_stopping"],
            ),
        )
        for choice, wanted in zip(answer.choices, entry["sequences"], strict=True):
            assert choice.logprobs.tokens == names(wanted["ids"]), entry
            assert close(choice.model_extra["score"], wanted["score"]), entry
            compared += 1
    assert compared >= 16
    assert server.stop() == 0
