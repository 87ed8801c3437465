import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { all, api } from "./common.js";

const made = await api.beta.environments.create({
  name: "TypeScript",
  config: { type: "cloud", networking: { type: "limited", allowed_hosts: ["*.example.com"] } },
});
assert.match(made.id, /^env_/);
assert.deepEqual(made.config.packages.pip, []);
assert.deepEqual(await api.beta.environments.retrieve(made.id), made);
const changed = await api.beta.environments.update(made.id, { description: "d" });
assert.equal(changed.description, "d");
assert.deepEqual(changed.config, made.config);
await assert.rejects(
  api.beta.environments.update(made.id, { config: { type: "self_hosted" } }),
  (error) =>
    error instanceof Anthropic.BadRequestError &&
    error.error.error.details.error_code === "invalid_config_type_change",
);
assert.ok((await api.beta.environments.archive(made.id)).archived_at);
const seen = await all(api.beta.environments.list({ include_archived: true, limit: 5 }));
assert.ok(seen.some((one) => one.id === made.id));
const gone = await api.beta.environments.delete(made.id);
assert.deepEqual(gone, { id: made.id, type: "environment_deleted" });
