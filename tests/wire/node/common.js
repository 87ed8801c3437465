// What every script here starts from: clients of both kinds for one site, and patience.
import Anthropic from "@anthropic-ai/sdk";

export const site = JSON.parse(process.argv[2]);
export const api = new Anthropic({ baseURL: site.base_url, apiKey: site.api_key, maxRetries: 0 });
export const worker = new Anthropic({
  baseURL: site.base_url,
  authToken: site.environment_key,
  apiKey: null,
  maxRetries: 0,
});
export const go = { type: "user.message", content: [{ type: "text", text: "go" }] };

export async function all(pages) {
  const found = [];
  for await (const one of pages) found.push(one);
  return found;
}

/** Return what `look` finds, asking again for ten seconds. */
export async function until(look) {
  const end = Date.now() + 10_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error("it did not come to that in time");
    await new Promise((done) => setTimeout(done, 25));
  }
}

export function agent(script, more = {}) {
  return api.beta.agents.create({
    name: "TypeScript",
    model: `scripted/${script}`,
    tools: [{ type: "agent_toolset_20260401" }],
    ...more,
  });
}

export async function session(script, more = {}) {
  const { id } = await agent(script);
  return api.beta.sessions.create({ agent: id, environment_id: site.environment_id, ...more });
}

export async function log(id, type, count = 1) {
  return until(async () => {
    const events = await all(api.beta.sessions.events.list(id));
    return events.filter((event) => event.type === type).length >= count && events;
  });
}
