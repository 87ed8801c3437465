import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { all, api, go, log, session, site } from "./common.js";

const made = await session("answer", { title: "T", metadata: { a: "1" } });
assert.equal(made.status, "idle");
assert.deepEqual(await all(api.beta.sessions.events.list(made.id)), []);

// What is streamed is what will be listed, and previews are a prefix of it.
const stream = await api.beta.sessions.events.stream(made.id, { event_deltas: ["agent.message"] });
const sent = await api.beta.sessions.events.send(made.id, { events: [go] });
assert.equal(sent.data[0].processed_at, null);
const seen = [];
let preview = "";
for await (const event of stream) {
  if (event.type === "event_delta") preview += event.delta.content.text;
  else if (event.type !== "event_start") seen.push(event);
  if (event.type === "session.status_idle") break;
}
const events = await log(made.id, "session.status_idle");
assert.deepEqual(seen, events);
const message = events.find((event) => event.type === "agent.message");
assert.ok(preview);
assert.ok(message.content[0].text.startsWith(preview));
const two = await all(api.beta.sessions.events.list(made.id, { types: ["session.usage"], limit: 1 }));
assert.deepEqual(two.map((event) => event.type), ["session.usage"]);

const changed = await api.beta.sessions.update(made.id, { title: "new", metadata: { a: null } });
assert.equal(changed.title, "new");
assert.deepEqual(changed.metadata, {});
const threads = await all(api.beta.sessions.threads.list(made.id));
assert.equal(threads.length, 1);
const shown = await api.beta.sessions.threads.retrieve(threads[0].id, { session_id: made.id });
assert.equal(shown.status, "idle");

const query = { agent_id: made.agent.id, statuses: ["idle"] };
assert.deepEqual((await all(api.beta.sessions.list(query))).map((one) => one.id), [made.id]);
const ended = await api.beta.sessions.archive(made.id);
assert.equal(ended.status, "terminated");
await assert.rejects(
  api.beta.sessions.events.send(made.id, { events: [go] }),
  Anthropic.BadRequestError,
);
assert.deepEqual(await api.beta.sessions.delete(made.id), { id: made.id, type: "session_deleted" });
await assert.rejects(
  api.beta.sessions.create({ agent: "agent_none", environment_id: site.environment_id }),
  Anthropic.NotFoundError,
);
