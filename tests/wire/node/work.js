import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { all, api, session, site, worker } from "./common.js";

const where = { environment_id: site.environment_id };
const work = worker.beta.environments.work;
assert.equal(await work.poll(site.environment_id), null);

const made = await session("answer");
const item = await work.poll(site.environment_id, { block_ms: 999 });
assert.equal(item.data.id, made.id);
assert.ok(item.secret);
assert.equal((await work.ack(item.id, where)).state, "starting");
await assert.rejects(work.ack(item.id, where), Anthropic.ConflictError);
const first = await work.heartbeat(item.id, {
  ...where,
  expected_last_heartbeat: "NO_HEARTBEAT",
  desired_ttl_seconds: 60,
});
assert.deepEqual([first.state, first.ttl_seconds, first.lease_extended], ["active", 60, true]);
await assert.rejects(
  work.heartbeat(item.id, { ...where, expected_last_heartbeat: "stale" }),
  (error) => error.status === 412,
);
const stats = await api.beta.environments.work.stats(site.environment_id);
assert.deepEqual([stats.depth, stats.pending], [0, 0]);
const metadata = { a: "1" };
const changed = await api.beta.environments.work.update(item.id, { ...where, metadata });
assert.deepEqual(changed.metadata, metadata);
assert.equal((await work.stop(item.id, { ...where, force: true })).state, "stopped");
assert.equal((await all(work.list(site.environment_id))).length, 1);

// The SDK's own poller takes what is queued, and stops each item when its turn is over.
const others = [(await session("answer")).id, (await session("answer")).id];
const taken = [];
const poller = api.beta.environments.work.poller({
  environmentId: site.environment_id,
  environmentKey: site.environment_key,
  drain: true,
  blockMs: null,
});
for await (const one of poller) taken.push(one.data.id);
assert.deepEqual(taken, others);
