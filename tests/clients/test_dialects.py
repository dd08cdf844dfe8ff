"""The official clients of OpenAI's responses and of Anthropic's messages, streamed and not."""

import anthropic
import openai
import pytest

QUESTION = "What is your name?"
# The client has no argument for it.
GREEDY = {"temperature": 0}


@pytest.fixture(scope="session")
def claude(server):
    # Its own base URL has no /v1; the key goes into another header than OpenAI's.
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60)


def test_a_response_equals_the_chat_answer(client, model):
    chat = client.chat.completions.create(
        model=model, temperature=0, max_tokens=20, messages=[{"role": "user", "content": QUESTION}]
    )
    response = client.responses.create(model=model, temperature=0, max_output_tokens=20, input=QUESTION)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage.output_tokens == chat.usage.completion_tokens
    again = client.responses.create(
        model=model,
        temperature=0,
        max_output_tokens=10,
        input=[{"role": "user", "content": QUESTION}, *response.output, {"role": "user", "content": "Hello"}],
    )
    assert again.usage.input_tokens > response.usage.input_tokens


def test_a_streamed_response_equals_the_whole_one(client, model):
    asked = dict(model=model, temperature=0, max_output_tokens=20, input=QUESTION)
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == whole.output_text
    assert final.status == whole.status
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_response_that_needs_a_store_is_refused_by_name(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model=model, input="Hi", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


def test_a_message_equals_the_chat_answer(client, claude, model):
    messages = [{"role": "user", "content": QUESTION}]
    chat = client.chat.completions.create(model=model, temperature=0, max_tokens=20, messages=messages)
    message = claude.messages.create(model=model, max_tokens=20, messages=messages, extra_body=GREEDY)
    assert message.content[0].text == chat.choices[0].message.content
    assert message.usage.output_tokens == chat.usage.completion_tokens
    read = message.usage.input_tokens + message.usage.cache_read_input_tokens
    assert read == chat.usage.prompt_tokens
    counted = claude.messages.count_tokens(model=model, messages=messages)
    assert counted.input_tokens == chat.usage.prompt_tokens


def test_a_streamed_message_equals_the_whole_one(claude, model):
    asked = dict(
        model=model,
        extra_body=GREEDY,
        max_tokens=30,
        system="Answer briefly.",
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    )
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_the_refusals_of_messages_are_anthropics(claude, model):
    with pytest.raises(anthropic.BadRequestError) as refused:
        claude.messages.create(model=model, max_tokens=5, messages=[])
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        claude.messages.create(model="other", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])


def test_parameters_of_vllms(client, model):
    def complete(**more):
        return client.completions.create(
            model=model, prompt="Once upon a time", temperature=0, max_tokens=12, extra_body=more
        )

    plain = complete(return_token_ids=True)
    ids = plain.choices[0].token_ids
    assert len(ids) == plain.usage.completion_tokens
    banned = complete(return_token_ids=True, allowed_token_ids=[i for i in range(200) if i not in ids])
    assert not set(ids) & set(banned.choices[0].token_ids)
    scored = complete(prompt_logprobs=1)
    assert len(scored.choices[0].prompt_logprobs) == scored.usage.prompt_tokens
