import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { all, api, site } from "./common.js";

const { webhooks } = api.beta.organization;
const events = ["external_key.failed", "user_profile.program_status_updated"];
const made = await webhooks.create({ url: "https://hooks.example.com/in", enabled_events: events });
const { signing_secret: secret, ...shown } = made;
assert.match(secret, /^whsec_/);
assert.deepEqual(await webhooks.retrieve(made.id), shown);
assert.deepEqual(await all(webhooks.list()), [shown]);
const changed = await webhooks.update(made.id, { state: "disabled", enabled_events: [] });
assert.deepEqual([changed.state, changed.enabled_events], ["disabled", events]);
assert.notEqual((await webhooks.regenerateSigningSecret(made.id)).signing_secret, secret);
assert.equal((await webhooks.delete(made.id)).type, "webhook_endpoint_deleted");
await assert.rejects(webhooks.retrieve(made.id), Anthropic.NotFoundError);

// A delivery as the server makes it, signed a moment ago.
const { body, headers, key } = site.delivery;
const event = api.beta.webhooks.unwrap(body, { headers, key });
assert.equal(event.id, headers["webhook-id"]);
assert.equal(event.data.type, "vault.created");
assert.throws(() => api.beta.webhooks.unwrap(body.replace("vlt_1", "vlt_2"), { headers, key }));
