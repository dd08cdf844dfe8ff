"""Libraries and proxies that people use instead of the official Python client."""

import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys

import openai
import pytest
from conftest import Between, free_port

# Nothing beyond this machine is asked.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

SCHEMA = {
    "title": "answer",
    "description": "an answer",
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


@pytest.fixture
def model(server):
    return server.client().models.list().data[0].id


def test_langchain(server, model):
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(model=model, base_url=server.url + "/v1", api_key="none", temperature=0, max_tokens=64)
    whole = chat.invoke("What is your name?")
    assert "Folio" in whole.content
    assert whole.usage_metadata["total_tokens"] == whole.usage_metadata["input_tokens"] + whole.usage_metadata["output_tokens"]
    assert "".join(part.content for part in chat.stream("What is your name?")) == whole.content
    assert [one.content for one in chat.batch(["What is your name?"] * 3)] == [whole.content] * 3
    roomy = chat.model_copy(update={"max_tokens": 300})
    answer = roomy.with_structured_output(SCHEMA, method="json_schema").invoke("Which colour?")
    assert answer["colour"] in ("red", "green") and 0 <= answer["count"] <= 9
    tool = {"type": "function", "function": {"name": "answer", "description": "says it", "parameters": SCHEMA}}
    calls = roomy.bind_tools([tool], tool_choice="required").invoke("Which colour?").tool_calls
    assert calls and all(call["name"] == "answer" and call["args"]["colour"] in ("red", "green") for call in calls)


def test_node(server, model):
    node, folder = shutil.which("node"), os.environ.get("FOLIO_NODE_MODULES")
    if node is None or folder is None:
        pytest.skip("node or its openai package is not there")
    script = pathlib.Path(__file__).parent / "openai.mjs"
    # Packages are looked for beside the script that asks for them.
    there = pathlib.Path(folder) / script.name
    shutil.copy(script, there)
    done = subprocess.run([node, there, server.url + "/v1", model], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"chat": True, "stream": True, "completion": True, "refusal": True, "cancelled": True}


def test_litellm_proxy(server, model, tmp_path):
    pytest.importorskip("litellm.proxy.proxy_cli")
    config = tmp_path / "config.yaml"
    parameters = {"model": f"openai/{model}", "api_base": server.url + "/v1", "api_key": "none"}
    key = "sk-" + secrets.token_hex(32)
    settings = {"model_list": [{"model_name": "ours", "litellm_params": parameters}], "general_settings": {"master_key": key}}
    config.write_text(json.dumps(settings))
    port = free_port()
    command = [shutil.which("litellm", path=pathlib.Path(sys.executable).parent), "--config", config, "--port", str(port)]
    proxy = Between([str(part) for part in command], port, "/health/liveliness", tmp_path / "log")
    try:
        client = openai.OpenAI(base_url=proxy.url + "/v1", api_key=key, max_retries=0, timeout=60)
        ask = dict(model="ours", messages=[{"role": "user", "content": "What is your name?"}], temperature=0, max_tokens=64)
        whole = client.chat.completions.create(**ask)
        assert "Folio" in whole.choices[0].message.content
        parts = client.chat.completions.create(**ask, stream=True)
        assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{**ask, "temperature": -1.0})
        assert "temperature" in str(refused.value)
    finally:
        proxy.stop()
