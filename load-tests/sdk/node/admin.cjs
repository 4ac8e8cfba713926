// Administers through openai-node's admin.organization, and prints what came of it, one line of JSON.
const assert = require("node:assert");
const { OpenAI } = require("openai");

const client = new OpenAI({
  adminAPIKey: process.env.OPENAI_ADMIN_KEY, baseURL: process.argv[2], maxRetries: 0,
});
const organization = client.admin.organization;

async function all(pages) {
  const items = [];
  for await (const item of pages) items.push(item);
  return items;
}

async function main() {
  const project = await organization.projects.create({ name: "node" });
  const renamed = await organization.projects.update(project.id, { name: "node 2" });
  assert.strictEqual(renamed.name, "node 2");
  assert.strictEqual((await organization.projects.retrieve(project.id)).id, project.id);
  const ids = (await all(organization.projects.list({ limit: 1 }))).map((one) => one.id);
  assert(ids.includes(project.id));

  const accounts = organization.projects.serviceAccounts;
  const account = await accounts.create(project.id, { name: "bot" });
  assert(account.api_key.value.startsWith("sk-lt-"));
  const keys = organization.projects.apiKeys;
  const listed = await all(keys.list(project.id, { limit: 1 }));
  assert.deepStrictEqual(listed.map((one) => one.id), [account.api_key.id]);
  assert((await keys.delete(listed[0].id, { project_id: project.id })).deleted);
  assert.deepStrictEqual(await all(keys.list(project.id)), []);
  assert((await accounts.delete(account.id, { project_id: project.id })).deleted);
  assert.deepStrictEqual(await all(accounts.list(project.id)), []);

  const admin = await organization.adminAPIKeys.create({ name: "node's" });
  assert(admin.value.startsWith("sk-ltadm-"));
  assert((await organization.adminAPIKeys.delete(admin.id)).deleted);

  assert((await organization.projects.archive(project.id)).archived_at > 0);
  const logs = await all(organization.auditLogs.list({ project_ids: [project.id], limit: 2 }));
  const types = logs.map((one) => one.type);
  console.log(JSON.stringify({ project: project.id, types, actor: logs[0].actor.api_key.id }));
}

main();
