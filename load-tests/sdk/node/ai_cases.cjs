// The cases with the Vercel AI SDK, unmodified; the argument says which of its providers.
'use strict';

const { embedMany, generateText, jsonSchema, streamText, tool } = require('ai');
const { createOpenAI } = require('@ai-sdk/openai');
const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
const { PARAMETERS, QUESTION, TOOL, all } = require('./cases.cjs');

const baseURL = `${process.env.LIUTONG_ORIGIN}/v1`;
const compatible = process.argv[2] === 'compatible';

function provider({ key, usage }) {
  const apiKey = key ?? process.env.OPENAI_API_KEY;
  if (!compatible) return createOpenAI({ baseURL, apiKey });
  return createOpenAICompatible({ name: 'liutong', baseURL, apiKey, includeUsage: usage ?? false });
}

function asked(model, options) {
  const ours = provider(options);
  // Its OpenAI provider would otherwise use the responses API.
  const call = { model: compatible ? ours(model) : ours.chat(model), prompt: QUESTION, maxRetries: 1 };
  call.maxOutputTokens = 16;
  const { description } = TOOL.function;
  if (options.tools) {
    call.tools = { longest_river: tool({ description, inputSchema: jsonSchema(PARAMETERS) }) };
  }
  if (options.patienceMs) Object.assign(call, { abortSignal: AbortSignal.timeout(options.patienceMs), maxRetries: 0 });
  return call;
}

function counts(usage) {
  if (usage?.inputTokens === undefined) return null;
  return {
    prompt_tokens: usage.inputTokens,
    completion_tokens: usage.outputTokens,
    total_tokens: usage.totalTokens,
  };
}

const callsOf = (calls) => calls.map((call) => [call.toolName, call.input]);

async function whole(model, options = {}) {
  const answer = await generateText(asked(model, options));
  return { told: counts(answer.usage), text: answer.text, tools: callsOf(answer.toolCalls) };
}

async function streamed(model, options = {}) {
  const shown = { told: null, text: '', tools: [] };
  const answer = streamText({ ...asked(model, options), onError: () => {} });
  for await (const part of answer.fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') shown.text += part.text;
    if (part.type === 'tool-call') shown.tools.push([part.toolName, part.input]);
    if (part.type === 'finish') shown.told = counts(part.totalUsage);
  }
  return shown;
}

async function embedded(id) {
  const ours = provider({});
  const model = compatible ? ours.textEmbeddingModel(id) : ours.embedding(id);
  const { embeddings, usage } = await embedMany({ model, values: ['a river in Asia', 'a lake'] });
  return { told: { prompt_tokens: usage.tokens }, text: JSON.stringify(embeddings) };
}

async function cancelled(model) {
  const leaving = new AbortController();
  const answer = streamText({ ...asked(model, {}), abortSignal: leaving.signal });
  for await (const part of answer.textStream) {
    if (part) leaving.abort();
  }
  return { text: 'left' };
}

all({ whole, streamed, embedded, cancelled });
