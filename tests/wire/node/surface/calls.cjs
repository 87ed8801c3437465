// Every method of the official SDK and the request it makes, as JSON; nothing is sent.
// Methods are found by looking at the client, never by a list.
const { Anthropic } = require("@anthropic-ai/sdk");

const ROOTS = ["beta", "models", "messages"];
// Made of other methods of the same resource: they make the same requests.
const COMPOSED = new Set(["stream", "toolRunner", "parse", "poller", "worker", "thread"]);
// These read what a webhook has brought.
const LOCAL = new Set(["unwrap", "parseUnverified"]);
const OWN = ["events.stream"];

let asked = null;
const client = new Anthropic({
  apiKey: "x",
  baseURL: "http://x.test",
  maxRetries: 0,
  fetch: async (url, init) => {
    asked = [init.method.toUpperCase(), new URL(String(url)).pathname];
    throw new Error("nothing is sent");
  },
});

// Ids that some methods take among their parameters become part of the path.
const params = new Proxy(
  { betas: [] },
  {
    get: (target, name) =>
      typeof name === "string" && (name.endsWith("_id") || name === "version") ? "ARG" : target[name],
  },
);

function args(method) {
  const names = /\(([^)]*)\)/.exec(method.toString())[1].split(",").map((name) => name.trim());
  return names
    .map((name) => name.split("=")[0].trim())
    .filter((name) => name && name !== "options")
    .map((name) => (/^(params|body|query)/.test(name) ? params : "ARG"));
}

async function below(resource, name, found) {
  for (const member of Object.getOwnPropertyNames(Object.getPrototypeOf(resource))) {
    const label = `${name}.${member}`;
    const composed = COMPOSED.has(member) && !OWN.some((own) => label.endsWith(own));
    if (member === "constructor" || member.startsWith("_") || composed || LOCAL.has(member)) continue;
    if (typeof resource[member] !== "function") continue;
    asked = null;
    try {
      await resource[member](...args(resource[member]));
    } catch (error) {
      if (asked === null) throw new Error(`${label} sends nothing: ${error.stack}`);
    }
    found[label] = asked;
  }
  for (const [member, value] of Object.entries(resource)) {
    if (member !== "_client" && value && typeof value === "object" && value._client === client) {
      await below(value, `${name}.${member}`, found);
    }
  }
}

async function main() {
  const found = {};
  for (const root of ROOTS) await below(client[root], root, found);
  process.stdout.write(JSON.stringify(found));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
