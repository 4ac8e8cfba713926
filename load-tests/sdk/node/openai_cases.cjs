// The cases with openai-node, unmodified; the argument says which of its clients.
'use strict';

const { AzureOpenAI, OpenAI } = require('openai');
const { QUESTION, TOOL, all } = require('./cases.cjs');

const origin = process.env.LIUTONG_ORIGIN;
const withKey = (apiKey) =>
  process.argv[2] === 'azure'
    ? new AzureOpenAI({ endpoint: origin, apiVersion: '2024-10-21', apiKey })
    : new OpenAI({ baseURL: `${origin}/v1`, apiKey });
const client = withKey(process.env.OPENAI_API_KEY);

function create(model, { tools, usage, key, patienceMs, ...more }) {
  const asked = key ? withKey(key) : client;
  const messages = [{ role: 'user', content: QUESTION }];
  const body = { model, messages, max_tokens: 16, ...more };
  if (tools) body.tools = [TOOL];
  if (usage) body.stream_options = { include_usage: true };
  return asked.chat.completions.create(body, patienceMs ? { timeout: patienceMs, maxRetries: 0 } : {});
}

async function whole(model, options = {}) {
  const { choices, usage } = await create(model, options);
  const calls = choices[0].message.tool_calls ?? [];
  const tools = calls.map((call) => [call.function.name, call.function.arguments]);
  return { told: usage, text: choices[0].message.content ?? '', tools };
}

async function streamed(model, options = {}) {
  const shown = { told: null, text: '', tools: [] };
  for await (const event of await create(model, { stream: true, ...options })) {
    shown.told = event.usage ?? shown.told;
    for (const { delta } of event.choices) {
      shown.text += delta.content ?? '';
      for (const call of delta.tool_calls ?? []) {
        if (call.function.name) shown.tools.push([call.function.name, '']);
        shown.tools.at(-1)[1] += call.function.arguments ?? '';
      }
    }
  }
  return shown;
}

async function embedded(model) {
  const { data, usage } = await client.embeddings.create({ model, input: ['a river in Asia', 'a lake'] });
  return { told: usage, text: JSON.stringify(data.map((item) => item.embedding)) };
}

async function cancelled(model) {
  for await (const _ of await create(model, { stream: true })) break;
  return { text: 'left' };
}

all({ whole, streamed, embedded, cancelled });
