// Talks to Liutong with openai-node, unmodified, and prints one line of JSON for each exchange.
//
// Each line: name, request_id, usage (as the SDK shows it, null if it shows none), events (of a stream),
// empty (events without choices), text.
'use strict';

const OpenAI = require('openai');

const CHAT = process.env.LIUTONG_CHAT;
const EMBED = process.env.LIUTONG_EMBED;
const MESSAGES = [{ role: 'user', content: 'Name a river in Asia.' }];
const PROMPT = 'The longest river in Asia is';

const client = new OpenAI({ maxRetries: 0 });

function show(name, requestId, usage, more) {
  console.log(JSON.stringify({ name, request_id: requestId, usage: usage ?? null, ...more }));
}

async function whole(name, asked, textOf) {
  const { data, request_id: requestId } = await asked.withResponse();
  show(name, requestId, data.usage, { text: textOf(data) });
}

async function streamed(name, asked, textOf) {
  const { data, request_id: requestId } = await asked.withResponse();
  let usage = null;
  let events = 0;
  let empty = 0;
  let text = '';
  for await (const event of data) {
    events += 1;
    usage = event.usage ?? usage;
    if (event.choices.length > 0) text += textOf(event.choices[0]) ?? '';
    else empty += 1;
  }
  show(name, requestId, usage, { events, empty, text });
}

const limits = { max_tokens: 16, temperature: 0 };
const chat = (more) =>
  client.chat.completions.create({ model: CHAT, messages: MESSAGES, ...limits, ...more });
const complete = (more) => client.completions.create({ model: CHAT, prompt: PROMPT, ...limits, ...more });
const counted = { stream: true, stream_options: { include_usage: true } };

async function failing(name, asked) {
  try {
    await asked;
  } catch (error) {
    show(name, error.requestID, null, { code: error.code, type: error.type });
  }
}

async function main() {
  await whole('chat', chat(), (data) => data.choices[0].message.content);
  await streamed('chat_stream', chat({ stream: true }), (choice) => choice.delta.content);
  await streamed('chat_stream_usage', chat(counted), (choice) => choice.delta.content);
  await whole('completion', complete(), (data) => data.choices[0].text);
  await streamed('completion_stream', complete({ stream: true }), (choice) => choice.text);
  await streamed('completion_stream_usage', complete(counted), (choice) => choice.text);
  const embedding = client.embeddings.create({ model: EMBED, input: ['a river in Asia', 'a lake'] });
  await whole('embedding', embedding, (data) => String(data.data.length));
  const models = await client.models.list().withResponse();
  show('models', models.request_id, null, { models: models.data.data.map((model) => model.id) });
  const model = await client.models.retrieve(CHAT).withResponse();
  show('model', model.request_id, null, { models: [model.data.id] });
  await failing('unknown_model', chat({ model: 'no-such-model' }));
  await failing('unknown_key', client.withOptions({ apiKey: 'wrong' }).models.list());
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
