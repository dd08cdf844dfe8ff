// The official client for Node: prints which of its ways of asking worked.
import OpenAI from "openai";

const [, , baseURL, model] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const ask = { model, messages: [{ role: "user", content: "What is your name?" }], temperature: 0, max_tokens: 64 };

const whole = await client.chat.completions.create(ask);
const said = whole.choices[0].message.content;

let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}

const completion = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 5 });

let refusal = false;
try {
  await client.chat.completions.create({ ...ask, temperature: -1 });
} catch (error) {
  refusal = error instanceof OpenAI.BadRequestError && error.param === "temperature";
}

const long = await client.completions.create({ model, prompt: "Once", max_tokens: 400, ignore_eos: true, stream: true });
let seen = 0;
for await (const _ of long) {
  if (++seen === 3) break; // leaves the loop, and with it the connection
}

console.log(JSON.stringify({
  chat: said.includes("Folio"),
  stream: streamed === said,
  completion: completion.choices[0].text.length > 0,
  refusal,
  cancelled: seen === 3,
}));
