// The cases with LangChain's ChatOpenAI and OpenAIEmbeddings for JavaScript, unmodified.
'use strict';

const { ChatOpenAI, OpenAIEmbeddings } = require('@langchain/openai');
const { QUESTION, TOOL, all } = require('./cases.cjs');

const configuration = { baseURL: `${process.env.LIUTONG_ORIGIN}/v1` };

function chat(model, { tools, usage, key, patienceMs }) {
  const options = { model, configuration, maxTokens: 16, maxRetries: 1, streamUsage: usage ?? false };
  if (key) options.apiKey = key;
  if (patienceMs) Object.assign(options, { timeout: patienceMs, maxRetries: 0 });
  const asked = new ChatOpenAI(options);
  return tools ? asked.bindTools([TOOL]) : asked;
}

function shown(message) {
  const usage = message.usage_metadata;
  const told = usage && {
    prompt_tokens: usage.input_tokens,
    completion_tokens: usage.output_tokens,
    total_tokens: usage.total_tokens,
  };
  const tools = (message.tool_calls ?? []).map((call) => [call.name, call.args]);
  return { told, text: message.content, tools };
}

const whole = async (model, options = {}) => shown(await chat(model, options).invoke(QUESTION));

async function streamed(model, options = {}) {
  let message;
  for await (const chunk of await chat(model, options).stream(QUESTION)) {
    message = message ? message.concat(chunk) : chunk;
  }
  return shown(message);
}

async function embedded(model) {
  const asked = new OpenAIEmbeddings({ model, configuration });
  return { text: JSON.stringify(await asked.embedDocuments(['a river in Asia', 'a lake'])) };
}

async function cancelled(model) {
  for await (const _ of await chat(model, {}).stream(QUESTION)) break;
  return { text: 'left' };
}

all({ whole, streamed, embedded, cancelled });
