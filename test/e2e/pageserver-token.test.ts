/** Tokens and HTTPS as users have them: the commands that make keys, tokens and certificates, and clients with them. */
import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { test } from "node:test";
import { decodeJwt } from "jose";
import type { Json } from "./cli.ts";
import { Lab } from "./support.ts";

const OTHER = "ab".repeat(16);

/** Status of GET over HTTPS with a certificate that is checked, for the name in it. */
function statusOf(url: string, options: { ca: string; token?: string }): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const headers = options.token === undefined ? {} : { authorization: `Bearer ${options.token}` };
    request(url, { headers, ca: options.ca, agent: false }, (answer) => {
      answer.resume();
      resolve(answer.statusCode);
    })
      .on("error", reject)
      .end();
  });
}

test("keys, tokens for one tenant and for everything, over HTTPS", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init();
  const tenant = await lab.ok("config", "get", "default_tenant_id");
  const listen = await lab.ok("config", "get", "pageserver.listen");

  // Without a key there is no token, and what to do is said.
  const none = await lab.run("pageserver", "token");
  assert.equal(none.code, 3);
  assert.match(none.stderr, /neon pageserver key/);
  const keys = await lab.json("pageserver", "key");
  const directory = join(lab.neonDirectory, "pageserver");
  assert.equal(keys["private_key"], join(directory, "auth_private_key.pem"));
  assert.equal(statSync(join(directory, "auth_private_key.pem")).mode & 0o777, 0o600);
  assert.equal((await lab.run("pageserver", "key")).code, 4);
  await lab.json("pageserver", "cert");
  await lab.ok("stop");
  await lab.ok("start");

  const one = await lab.json("pageserver", "token", "--expires", "8h");
  assert.equal(one["tenant_id"], tenant);
  const claims = decodeJwt(String(one["token"]));
  assert.deepEqual([claims["scope"], claims["tenant_id"]], ["tenant", tenant]);
  assert.equal(Number(claims.exp) - Number(claims.iat), 8 * 3600);
  const all = await lab.json("pageserver", "token", "--scope", "pageserverapi");
  const other = await lab.json("pageserver", "token", "--tenant-id", OTHER);
  for (const wrong of [
    ["--expires", "soon"],
    ["--expires", "0s"],
    ["--scope", "admin"],
  ]) {
    assert.equal((await lab.run("pageserver", "token", ...wrong)).code, 2, wrong.join(" "));
  }

  const ca = readFileSync(join(directory, "server.crt"), "utf8");
  const [, port] = listen.split(":");
  const url = `https://localhost:${port}/v1/tenant`;
  const status = (path: string, made: Json): Promise<number | undefined> =>
    statusOf(`${url}${path}`, { ca, token: String(made["token"]) });
  assert.equal(await status(`/${tenant}/branch`, one), 200);
  assert.equal(await status(`/${tenant}/branch`, all), 200);
  assert.equal(await status(`/${tenant}/branch`, other), 403);
  assert.equal(await status(`/${OTHER}/branch`, one), 403);
  assert.equal(await status(`/${OTHER}/branch`, all), 404);
  assert.equal(await statusOf(url, { ca }), 401);

  // The command line elsewhere: with the token, over a connection whose server is verified.
  const uri = `https://localhost:${port}?sslrootcert=${join(directory, "server.crt")}`;
  lab.environment["NEON_PAGESERVER_TOKEN"] = String(one["token"]);
  const branches = (await lab.json("branch", "--pageserver", uri))["branches"] as Json[];
  assert.deepEqual(
    branches.map(({ name }) => name),
    ["main"],
  );
  lab.environment["NEON_PAGESERVER_TOKEN"] = String(other["token"]);
  assert.notEqual((await lab.run("branch", "--pageserver", uri, "--tenant-id", tenant)).code, 0);
  delete lab.environment["NEON_PAGESERVER_TOKEN"];

  // New keys: at once, and the tokens before hold no more. The repository's own token always does.
  await lab.ok("pageserver", "key", "--force");
  assert.equal(await status(`/${tenant}/branch`, one), 401);
  const fresh = await lab.json("pageserver", "token");
  assert.equal(await status(`/${tenant}/branch`, fresh), 200);
  await lab.ok("branch", "dev");
});
