"""Libraries and proxies that people use instead of the official Python client."""

import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
from typing import Literal

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


def test_instructor(server, model):
    instructor = pytest.importorskip("instructor")
    pydantic = pytest.importorskip("pydantic")
    # Nothing more than that, or the model goes on and on.
    config = pydantic.ConfigDict(extra="forbid")
    answer = pydantic.create_model("Answer", colour=Literal["red", "green"], sure=bool, __config__=config)
    modes = instructor.Mode
    for mode in (modes.TOOLS, modes.JSON_SCHEMA, modes.RESPONSES_TOOLS):
        client = instructor.from_openai(server.client(), mode=mode)
        if mode == modes.RESPONSES_TOOLS:
            # Demands a call and sends a format along.
            said = client.responses.create(model=model, input="Which colour?", response_model=answer, max_output_tokens=200)
        else:
            messages = [{"role": "user", "content": "Which colour?"}]
            said = client.chat.completions.create(
                model=model, messages=messages, response_model=answer, max_tokens=200, max_retries=0
            )
        assert said.colour in ("red", "green"), mode


def test_lm_evaluation_harness(server, model, tmp_path):
    pytest.importorskip("lm_eval")
    questions = [
        {"ask": "Once upon a time, there was a little", "ends": ["girl", "quantum"], "right": 0},
        {"ask": "The cat was very", "ends": ["theorem", "happy"], "right": 1},
    ]
    data = tmp_path / "data.json"
    data.write_text(json.dumps(questions))
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    tasks = [
        {"task": "choices", "output_type": "multiple_choice", "doc_to_text": "{{ask}}", "doc_to_choice": "{{ends}}"}
        | {"doc_to_target": "right", "metric_list": [{"metric": "acc"}]},
        {"task": "endings", "output_type": "generate_until", "doc_to_text": "{{ask}}", "doc_to_target": "{{ends[right]}}"}
        | {"generation_kwargs": {"until": ["."], "max_gen_toks": 8}, "metric_list": [{"metric": "exact_match"}]},
        {"task": "texts", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{ask}}"}
        | {"metric_list": [{"metric": "word_perplexity"}]},
    ]
    for task in tasks:
        (tmp_path / f"{task['task']}.yaml").write_text(json.dumps(shared | task))
    folder = pathlib.Path(__file__).parents[2] / "models" / "demo"
    # Prompts go as tokens, several in a request.
    arguments = f"model={model},base_url={server.url}/v1/completions,tokenizer={folder},max_length=512"
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions", "--model_args", arguments, "--batch_size", "2"]
    command += ["--tasks", "choices,endings,texts", "--include_path", tmp_path, "--output_path", tmp_path / "results"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = (tmp_path / "results").rglob("results_*.json")
    results = json.loads(file.read_text())["results"]
    assert results["choices"]["acc,none"] == 1
    assert 1 < results["texts"]["word_perplexity,none"] < 1000
    assert "exact_match,none" in results["endings"]


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
