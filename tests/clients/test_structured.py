"""Two hundred schemas of our own making: every answer that comes to its end is valid, says a validator that is not ours."""

import json
import random

import jsonschema
import pytest

SEED = 20260101
SCHEMAS = 200


def scalar(rng):
    kind = rng.randrange(9)
    if kind == 0:
        return {"type": "boolean"}
    if kind == 1:
        low = rng.randrange(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + rng.randrange(1, 500)}
    if kind == 2:
        return {"type": "number", "minimum": 0, "maximum": rng.randrange(1, 9)}
    if kind == 3:
        shortest = rng.randrange(3)
        return {"type": "string", "minLength": shortest, "maxLength": shortest + rng.randrange(1, 8)}
    if kind == 4:
        return {"type": "string", "pattern": rng.choice(["^[a-z]{1,4}$", "^(red|blue)-[0-9]{2}$", "^x+y?$"])}
    if kind == 5:
        return {"type": "string", "format": rng.choice(["date", "time", "uuid", "ipv4"])}
    if kind == 6:
        return {"enum": rng.sample(["a", "bc", 1, 2.5, None, True, 'with "quotes"', "größer"], rng.randrange(1, 6))}
    if kind == 7:
        return {"const": rng.choice(["fixed", 7, {"k": [1, 2]}, None])}
    return {"type": rng.choice([["string", "null"], ["integer", "null"]]), "maxLength": 5}


def schema(rng, depth):
    kind = rng.randrange(8) if depth else 0
    if kind <= 2:
        return scalar(rng)
    if kind == 3:
        least = rng.randrange(3)
        return {"type": "array", "items": schema(rng, depth - 1), "minItems": least, "maxItems": least + rng.randrange(3)}
    if kind == 4:
        return {"anyOf": [schema(rng, depth - 1) for _ in range(rng.randrange(1, 4))]}
    if kind == 5:
        prefix = [scalar(rng) for _ in range(rng.randrange(1, 3))]
        return {"type": "array", "prefixItems": prefix, "items": False, "minItems": len(prefix)}
    return thing(rng, depth)


def thing(rng, depth):
    names = rng.sample(["name", "id", "tags", "größe", "a b", "x\"y", "last", "n"], rng.randrange(1, 5))
    made = {
        "type": "object",
        "properties": {name: schema(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }
    if rng.random() < 0.2:
        made["properties"]["next"] = {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}
        made["required"].append("next")
    return made


def whole(rng):
    made = thing(rng, 3) if rng.random() < 0.8 else schema(rng, 2)
    return made | {"$defs": {"leaf": {"type": "object", "properties": {"v": {"type": "integer"}}, "required": ["v"]}}}


def test_every_schema_is_followed(client, model):
    rng = random.Random(SEED)
    ended = 0
    for number in range(SCHEMAS):
        made = whole(rng)
        jsonschema.Draft202012Validator.check_schema(made)
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "Tell me about yourself."}],
            response_format={"type": "json_schema", "json_schema": {"name": f"s{number}", "strict": True, "schema": made}},
            max_tokens=300,
            temperature=1.0 if number % 2 else 0.0,
            seed=number,
        )
        choice = answer.choices[0]
        if choice.finish_reason != "stop":
            continue
        ended += 1
        said = json.loads(choice.message.content)
        jsonschema.Draft202012Validator(made).validate(said)
    print(f"{ended} of {SCHEMAS} answers came to their end, and all of them are valid")
    # The others were cut off; a test in which most are would say little.
    assert ended > SCHEMAS * 0.4, ended


def test_a_tool_is_called_in_a_stream(client, model):
    tools = [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"enum": ["Rome", "Oslo"]}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        }
    ]
    ask = dict(model=model, messages=[{"role": "user", "content": "Hi"}], tools=tools, tool_choice="required")
    ask |= dict(parallel_tool_calls=False, temperature=0, max_tokens=100)
    call = client.chat.completions.create(**ask).choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    name, arguments = "", ""
    for chunk in client.chat.completions.create(**ask, stream=True):
        for part in chunk.choices[0].delta.tool_calls or []:
            name += part.function.name or ""
            arguments += part.function.arguments
    assert (name, arguments) == (call.function.name, call.function.arguments)


@pytest.mark.parametrize("kind, wanted", [({"choice": ["yes", "no"]}, "yes no"), ({"regex": "(yes|no)"}, "yes no")])
def test_vllms_spelling(client, model, kind, wanted):
    answer = client.completions.create(
        model=model, prompt="Is it?", max_tokens=8, extra_body={"structured_outputs": kind}
    )
    assert answer.choices[0].text in wanted.split()
