import assert from "node:assert/strict";
import { all, api, go, log, session, site, until, worker } from "./common.js";

// The SDK's own worker, unsandboxed, does one whole job and gives the item back.
const made = await session("shell", { initial_events: [go] });
const stop = new AbortController();
const running = api.beta.environments.work
  .worker({
    environmentId: site.environment_id,
    environmentKey: site.environment_key,
    workdir: site.workdir,
    maxIdleMs: 500,
  })
  .run(stop.signal);
const events = await log(made.id, "session.status_idle", 2);
const said = events.filter((event) => event.type === "agent.message").at(-1);
assert.equal(said.content[0].text, "The shell says 42.");
assert.equal(events.filter((event) => event.type === "user.tool_result").length, 1);
await until(async () => {
  const items = await all(worker.beta.environments.work.list(site.environment_id));
  return items.every((item) => item.state === "stopped");
});

// The same job again by the SDK's runner of single sessions, with a tool of the client's own.
const probe = {
  type: "custom",
  name: "probe",
  description: "Looks.",
  input_schema: { type: "object", properties: {} },
};
const { id } = await api.beta.agents.create({
  name: "TypeScript",
  model: "scripted/probe",
  tools: [probe],
});
const asked = await api.beta.sessions.create({
  agent: id,
  environment_id: site.environment_id,
  initial_events: [go],
});
const calls = [];
const tool = {
  ...probe,
  run: async () => {
    calls.push("probe");
    return "seen";
  },
  parse: (input) => input,
};
for await (const call of api.beta.sessions.events.toolRunner(asked.id, {
  tools: [tool],
  maxIdleMs: 200,
})) {
  assert.ok(call);
}
assert.deepEqual(calls, ["probe"]);
const answered = await log(asked.id, "user.custom_tool_result");
assert.equal(answered.at(-1).type, "session.status_idle");
stop.abort();
await running.catch(() => {});
