// What every client of the tests is made to do, and how it says what came of it: see ../python/cases.py.
'use strict';

const QUESTION = 'Name a river in Asia.';
const PARAMETERS = { type: 'object', properties: { place: { type: 'string' } }, required: ['place'] };
const TOOL = {
  type: 'function',
  function: { name: 'longest_river', description: 'The longest river of a place.', parameters: PARAMETERS },
};
// How long the client of the case `slow` waits.
const PATIENCE_MS = 400;

// The status of an error, or of the one behind it.
function status(error) {
  return error?.status ?? error?.statusCode ?? (error?.lastError ? status(error.lastError) : null);
}

async function run(name, doing) {
  const began = performance.now();
  const line = { case: name, told: null, text: '', tools: [], failed: null };
  try {
    Object.assign(line, await doing());
  } catch (error) {
    const inner = error.lastError ?? error;
    const code = inner.code ?? inner.data?.error?.code ?? null;
    line.failed = { status: status(error), code, kind: error.constructor.name, name: error.name };
  }
  line.told ??= null;
  line.took_ms = Math.trunc(performance.now() - began);
  console.log(JSON.stringify(line));
}

// Runs the cases that all clients have, with what a client does for each kind.
async function all({ whole, streamed, embedded, cancelled }) {
  await run('chat', () => whole('chat'));
  await run('stream', () => streamed('stream'));
  await run('stream-usage', () => streamed('stream-usage', { usage: true }));
  await run('tools', () => whole('tools', { tools: true }));
  await run('tools-stream', () => streamed('tools-stream', { tools: true }));
  await run('embeddings', () => embedded('embeddings'));
  await run('unknown-model', () => whole('unknown-model'));
  await run('unknown-key', () => whole('chat', { key: 'wrong' }));
  for (const model of ['limited', 'busy', 'hopeless', 'broken']) await run(model, () => whole(model));
  await run('broken-stream', () => streamed('broken-stream'));
  await run('slow', () => whole('slow', { patienceMs: PATIENCE_MS }));
  await run('cancelled', () => cancelled('cancelled'));
}

module.exports = { QUESTION, PARAMETERS, TOOL, all };
