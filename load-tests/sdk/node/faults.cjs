// Lets openai-node, unmodified, meet each fault of a list: see ../python/faults.py.
'use strict';

const { readFileSync } = require('fs');
const { OpenAI } = require('openai');

const AT_ONCE = 8;
const messages = [{ role: 'user', content: 'hello' }];

const { faults, sound } = JSON.parse(readFileSync(process.env.LIUTONG_FAULTS));
// Not its own limits are to end the wait.
const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });
const other = client.withOptions({ apiKey: process.env.LIUTONG_OTHER_KEY });

async function meet({ model, stream, usage, script }) {
  const body = { model, messages, stream, script };
  if (usage) body.stream_options = { include_usage: true };
  const answer = await client.chat.completions.create(body);
  if (!stream) return answer.choices[0].message.content;
  let text = '';
  for await (const event of answer) {
    for (const choice of event.choices) text += choice.delta.content ?? '';
  }
  return text;
}

async function judge(number) {
  const line = { fault: number, raised: false };
  try {
    line.what = await meet(faults[number]);
  } catch (error) {
    // Errors of this script's own are of JavaScript's types; those of undici are wrapped, or have a cause.
    line.raised = !(error instanceof TypeError || error instanceof ReferenceError) || Boolean(error.cause);
    line.what = `${error.constructor.name}: ${error.message}`;
  }
  try {
    const answer = await other.chat.completions.create({ model: 'small', messages, script: sound });
    line.next = answer.choices[0].message.content;
  } catch (error) {
    line.next = String(error);
  }
  console.log(JSON.stringify(line));
}

let due = 0;
async function work() {
  while (due < faults.length) await judge(due++);
}

Promise.all(Array.from({ length: AT_ONCE }, work));
