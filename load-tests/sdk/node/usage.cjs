// Reads a project's usage through openai-node's admin.organization.usage, and prints its sums, one line of JSON.
const assert = require("node:assert");
const { OpenAI } = require("openai");

const [baseURL, project, startTime] = process.argv.slice(2);
const client = new OpenAI({ adminAPIKey: process.env.OPENAI_ADMIN_KEY, baseURL, maxRetries: 0 });
const usage = client.admin.organization.usage;

async function results(report, asked) {
  const found = [];
  let page;
  do {
    const buckets = await report.call(usage, {
      start_time: Number(startTime), project_ids: [project], group_by: ["project_id"], ...asked,
      ...(page && { page }),
    });
    found.push(...buckets.data.flatMap((bucket) => bucket.results));
    page = buckets.next_page;
    assert.strictEqual(buckets.has_more, Boolean(page));
  } while (page);
  return found;
}

const sum = (items, member) => items.reduce((all, one) => all + one[member], 0);

async function main() {
  const completions = await results(usage.completions, { bucket_width: "1h", limit: 1 });
  const embeddings = await results(usage.embeddings, { bucket_width: "1d" });
  const costs = await results(usage.costs, {});
  const both = [...completions, ...embeddings];
  assert([...both, ...costs].every((one) => one.project_id === project));
  console.log(JSON.stringify({
    requests: sum(both, "num_model_requests"),
    input: sum(both, "input_tokens"),
    output: sum(completions, "output_tokens"),
    amounts: costs.map((one) => one.amount),
  }));
}

main();
