import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { agent, all, api, site } from "./common.js";

const made = await agent("answer", { metadata: { a: "1" } });
assert.match(made.id, /^agent_/);
assert.equal(made.version, 1);
assert.deepEqual(await api.beta.agents.retrieve(made.id), made);

const changed = await api.beta.agents.update(made.id, {
  version: 1,
  system: "Be brief.",
  metadata: { a: null, b: "2" },
});
assert.equal(changed.version, 2);
assert.deepEqual(changed.metadata, { b: "2" });
const versions = await all(api.beta.agents.versions.list(made.id, { limit: 1 }));
assert.deepEqual(versions.map((one) => one.version), [2, 1]);
assert.equal((await api.beta.agents.retrieve(made.id, { version: 1 })).system, null);

await assert.rejects(
  api.beta.agents.update(made.id, { version: 1, name: "late" }),
  (error) => error instanceof Anthropic.ConflictError && error.status === 409,
);
await assert.rejects(api.beta.agents.retrieve("agent_none"), Anthropic.NotFoundError);
await assert.rejects(agent("answer", { surprise: 1 }), Anthropic.BadRequestError);
const stranger = new Anthropic({ baseURL: site.base_url, apiKey: "no", maxRetries: 0 });
await assert.rejects(stranger.beta.agents.list(), Anthropic.AuthenticationError);

const { data, response, request_id } = await api.beta.agents.list({ limit: 1 }).withResponse();
assert.equal(data.data.length, 1);
assert.match(request_id, /^req_/);
assert.match(response.headers.get("anthropic-workspace-id"), /^wrkspc_/);

const archived = await api.beta.agents.archive(made.id);
assert.ok(archived.archived_at);
const shown = await all(api.beta.agents.list({ created_at_gte: undefined, limit: 100 }));
assert.ok(!shown.some((one) => one.id === made.id));
