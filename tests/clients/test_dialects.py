"""The official clients of OpenAI's responses and of Anthropic's messages, streamed and not."""

import json
import pathlib
import re
import shutil
import urllib.request

import anthropic
import openai
import pytest

from conftest import Server

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
    assert client.responses.input_tokens.count(model=model, input=QUESTION).input_tokens == chat.usage.prompt_tokens
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


CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
LOOK = {"type": "function", "name": "weather", "description": "Looks outside.", "parameters": CITY, "strict": True}
CLAUDES = {"name": "weather", "description": "Looks outside.", "input_schema": CITY}


def rewritten(folder, change, *flags):
    """A server of the built-in model behind another template."""
    shutil.copytree(pathlib.Path(__file__).parents[2] / "models/demo", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = change(config["chat_template"])
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Server(str(folder), *flags)


def hears_tools(template):
    """The built-in template refuses what tools say, and messages without content."""
    heard = template.replace("'assistant'] %}", "'assistant', 'tool'] %}")
    heard = heard.replace("message['content'] | trim", "(message['content'] or '') | trim")
    assert heard != template
    return heard


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    server = rewritten(tmp_path_factory.mktemp("models") / "listening", hears_tools)
    yield server
    assert server.stop() == 0


def test_a_response_calls_a_tool_and_hears_what_came_of_it(client, model, listener):
    asked = dict(model=model, input=QUESTION, tools=[LOOK], tool_choice="required", parallel_tool_calls=False)
    asked |= dict(temperature=0, max_output_tokens=100)
    whole = client.responses.create(**asked)
    (call,) = whole.output
    assert call.type == "function_call" and call.status == "completed"
    assert json.loads(call.arguments)["city"] in ("Rome", "Oslo")
    kinds = []
    with client.responses.stream(**asked) as stream:
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds and "response.function_call_arguments.done" in kinds
    assert (final.output[0].name, final.output[0].arguments) == (call.name, call.arguments)
    assert final.output[0].parsed_arguments == json.loads(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    again = listener.client().responses.create(
        model="listening", max_output_tokens=10, input=[{"role": "user", "content": QUESTION}, call, result]
    )
    assert again.output[0].type == "message" and again.usage.input_tokens > whole.usage.input_tokens


def test_a_response_follows_a_schema(client, model):
    form = {"type": "json_schema", "name": "place", "schema": CITY, "strict": True}
    asked = dict(model=model, input=QUESTION, text={"format": form}, max_output_tokens=100)
    assert json.loads(client.responses.create(**asked).output_text)["city"] in ("Rome", "Oslo")


def test_a_message_calls_a_tool_and_hears_what_came_of_it(claude, model, listener):
    turns = [{"role": "user", "content": QUESTION}]
    choice = {"type": "any", "disable_parallel_tool_use": True}
    asked = dict(model=model, messages=turns, tools=[CLAUDES], tool_choice=choice, max_tokens=100, extra_body=GREEDY)
    whole = claude.messages.create(**asked)
    (call,) = whole.content
    assert whole.stop_reason == "tool_use" and call.input["city"] in ("Rome", "Oslo")
    partial = ""
    with claude.messages.stream(**asked) as stream:
        for event in stream:
            if event.type == "input_json":
                partial += event.partial_json
        final = stream.get_final_message()
    assert final.content[0].input == call.input == json.loads(partial)
    assert final.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}
    turns = [*turns, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    claude = anthropic.Anthropic(base_url=listener.url, api_key="none", max_retries=0, timeout=60)
    again = claude.messages.create(model="listening", max_tokens=10, messages=turns)
    assert again.content[0].type == "text"
    counted = claude.messages.count_tokens(model="listening", messages=turns)
    assert counted.input_tokens == again.usage.input_tokens + again.usage.cache_read_input_tokens


def test_a_message_follows_a_schema(claude, model):
    asked = dict(model=model, max_tokens=100, messages=[{"role": "user", "content": QUESTION}])
    form = {"format": {"type": "json_schema", "schema": CITY}}
    message = claude.messages.create(**asked, output_config=form)
    assert json.loads(message.content[0].text)["city"] in ("Rome", "Oslo")


def test_thoughts_reach_the_clients_as_thoughts(tmp_path_factory):
    """The built-in model does not think. Behind a template that has begun to think for it, all it says is a thought."""
    begun = "{% if add_generation_prompt %}<think>{% endif %}"
    folder = tmp_path_factory.mktemp("models") / "thinking"
    server = rewritten(folder, lambda template: template + begun, "--reasoning-parser", "qwen3")
    try:
        client = server.client()
        model = client.models.list().data[0].id
        asked = dict(model=model, input=QUESTION, max_output_tokens=12, temperature=0)
        whole = client.responses.create(**asked)
        assert [item.type for item in whole.output] == ["reasoning"]
        kinds, thought = set(), ""
        with client.responses.stream(**asked) as stream:
            for event in stream:
                kinds.add(event.type)
                thought += event.delta if event.type == "response.reasoning_text.delta" else ""
        assert {"response.reasoning_text.delta", "response.reasoning_text.done"} <= kinds
        assert thought == whole.output[0].content[0].text
        claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60)
        turns = [{"role": "user", "content": QUESTION}]
        asked = dict(model=model, max_tokens=12, messages=turns, extra_body=GREEDY)
        with claude.messages.stream(**asked) as stream:
            streamed = "".join(event.thinking for event in stream if event.type == "thinking")
            final = stream.get_final_message()
        assert final.content[0].type == "thinking"
        assert streamed == final.content[0].thinking == thought
    finally:
        assert server.stop() == 0


def test_what_took_too_long_is_not_asked_again():
    """Both clients repeat a 504 by themselves, unless they are told not to: it would come when there is too much to do."""
    slow = Server("--request-timeout", "0.001")
    # A story takes dozens of steps, which no machine does in that time; other answers may be a word.
    story = [{"role": "user", "content": "Tell me a story about a cat"}]
    ask = dict(model="folio-demo", max_tokens=400, messages=story, extra_body=GREEDY)
    try:
        greedy = openai.OpenAI(base_url=slow.url + "/v1", api_key="none", max_retries=3, timeout=60)
        with pytest.raises(openai.InternalServerError) as refused:
            greedy.chat.completions.create(**ask)
        assert refused.value.status_code == 504 and "--request-timeout" in str(refused.value)
        claude = anthropic.Anthropic(base_url=slow.url, api_key="none", max_retries=3, timeout=60)
        with pytest.raises(anthropic.APIStatusError) as refused:
            claude.messages.create(**ask)
        assert refused.value.body["error"]["type"] == "timeout_error"
        with urllib.request.urlopen(slow.url + "/metrics") as page:
            lines = page.read().decode().splitlines()
        asked = [float(line.rsplit(" ", 1)[1]) for line in lines if re.match(r'http_requests_total\{.*method="POST"', line)]
        assert sum(asked) == 2, lines
    finally:
        assert slow.stop() == 0


def test_what_is_to_be_stored_is_answered_and_not_found_again(client, model):
    said = [{"role": "user", "content": QUESTION}]
    answer = client.chat.completions.create(model=model, max_tokens=4, messages=said, store=True)
    with pytest.raises(openai.NotFoundError, match="nothing is stored"):
        client.chat.completions.retrieve(answer.id)
