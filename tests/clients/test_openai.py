"""What users of the official client do, against the built-in model."""

import openai
import pytest
from conftest import Server

QUESTION = [{"role": "user", "content": "What is your name?"}]


def test_models(client, model):
    card = client.models.retrieve(model)
    assert card.object == "model"
    assert card.id == model


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=64)
    choice = answer.choices[0]
    assert "Folio" in choice.message.content
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop", "the built-in model ends its answer by itself"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streamed_chat_says_the_same(client, model):
    ask = dict(model=model, messages=QUESTION, temperature=0, max_tokens=64)
    whole = client.chat.completions.create(**ask)
    parts, usage, reasons = [], None, []
    for chunk in client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            parts.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
        usage = chunk.usage or usage
    assert "".join(parts) == whole.choices[0].message.content
    assert [r for r in reasons if r] == ["stop"]
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_completion_with_token_ids_and_lists(client, model):
    ask = dict(model=model, temperature=0, max_tokens=8)
    text = client.completions.create(prompt="Once upon a time", **ask)
    several = client.completions.create(prompt=["Once upon a time", "The dog"], **ask)
    assert [c.index for c in several.choices] == [0, 1]
    assert several.choices[0].text == text.choices[0].text
    ids = client.completions.create(prompt=[5, 6, 7], **ask)
    assert ids.usage.prompt_tokens == 3
    lists = client.completions.create(prompt=[[5, 6, 7], [5, 6]], **ask)
    assert lists.choices[0].text == ids.choices[0].text


def test_echo(client, model):
    prompt = "Once upon a time"
    answer = client.completions.create(model=model, prompt=prompt, temperature=0, max_tokens=4, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text.startswith(prompt)
    assert choice.logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in choice.logprobs.token_logprobs[1:])
    assert "".join(choice.logprobs.tokens).endswith(choice.text[len(prompt):])


def test_chat_logprobs(client, model):
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=6, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for entry in content:
        assert len(entry.top_logprobs) == 3
        best = max(entry.top_logprobs, key=lambda t: t.logprob)
        assert best.token == entry.token, "greedy decoding takes the likeliest token"
        assert entry.logprob == best.logprob


def test_n_choices_and_seed(client, model):
    ask = dict(model=model, prompt="Once upon a time", temperature=1, max_tokens=12, n=4, seed=7)
    first = client.completions.create(**ask)
    again = client.completions.create(**ask)
    texts = [c.text for c in sorted(first.choices, key=lambda c: c.index)]
    assert len(set(texts)) > 1, "samples differ from each other"
    assert texts == [c.text for c in sorted(again.choices, key=lambda c: c.index)], "and repeat with their seed"


def test_stop_string(client, model):
    ask = dict(model=model, prompt="Once upon a time", temperature=0, max_tokens=60)
    free = client.completions.create(**ask).choices[0].text
    word = free.split()[4]
    stopped = client.completions.create(**ask, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free[: free.index(word)]


@pytest.mark.parametrize(
    "change, field",
    [
        (dict(n=10**9), "n"),
        (dict(temperature=-1), "temperature"),
        (dict(max_tokens=0), "max_tokens"),
        (dict(top_p=2), "top_p"),
        (dict(logit_bias={"99999999": 1}), "logit_bias"),
        (dict(stop=""), "stop"),
        (dict(extra_body={"temprature": 1}), "temprature"),
        (dict(response_format={"type": "yaml"}), "response_format"),
        (dict(messages=[]), "messages"),
        (dict(messages=[{"role": "user", "content": "tell me " * 3000}]), "messages"),
    ],
)
def test_errors_name_the_field(client, model, change, field):
    ask = dict(model=model, messages=QUESTION, max_tokens=4) | change
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ask)
    assert field in caught.value.body["message"] or caught.value.body["param"] == field
    assert caught.value.body["type"]


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=QUESTION)


def test_wrong_key():
    server = Server("--api-key", "secret")
    try:
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        assert server.client("secret").models.list().data
    finally:
        assert server.stop() == 0


def test_bad_words_are_not_said_with_a_blank_before_them_either(client, model):
    """In the demo's tokenizer " was" is one token and "was" two."""
    ask = dict(model=model, prompt="There", temperature=0, max_tokens=40)
    assert " was" in client.completions.create(**ask).choices[0].text
    assert "was" not in client.completions.create(**ask, extra_body={"bad_words": ["was"]}).choices[0].text


def test_a_prompt_is_scored_without_generating(client, model):
    ask = dict(model=model, prompt=["Once upon a time", "The dog"], temperature=0, echo=True, logprobs=1)
    scored, longer = (client.completions.create(**ask, max_tokens=most) for most in (0, 4))
    for alone, begun in zip(scored.choices, longer.choices):
        many = len(alone.logprobs.tokens)
        assert alone.text == ask["prompt"][alone.index]
        assert alone.logprobs.token_logprobs == begun.logprobs.token_logprobs[:many]
    assert scored.usage.completion_tokens == 0
