/** Letting others in: the port that is chosen, users, certificate, and clients on the other side of them. */
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import type { Json } from "./cli.ts";
import { Lab } from "./support.ts";

async function stateOver(uri: string): Promise<unknown> {
  await using client = await connectLibpq(parseLibpqUri(uri));
  const { rows } = await client.query("status");
  return [(JSON.parse(rows[0]?.[0] ?? "null") as Json)["state"], client.encrypted];
}

test("a port of its own, users, a certificate", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init();
  const address = await lab.ok("config", "get", "pageserver.listen_libpq");
  assert.match(address, /^127\.0\.0\.1:6\d{4}$/);
  const token = await lab.ok("config", "get", "pageserver.auth_token");
  assert.deepEqual(await stateOver(`postgresql://neon:${token}@${address}`), ["ready", false]);

  lab.environment["NEON_USER_PASSWORD"] = "correct horse";
  assert.equal((await lab.json("pageserver", "user", "add", "alice"))["ok"], true);
  assert.equal((await lab.run("pageserver", "user", "add", "alice")).code, 4);
  assert.equal((await lab.run("pageserver", "user", "add", "bob", "--tenant", "x")).code, 2);
  delete lab.environment["NEON_USER_PASSWORD"];
  const empty = await lab.run("pageserver", "user", "add", "bob");
  assert.equal(empty.code, 2);
  assert.match(empty.stderr, /a password has 1 to/);
  const users = (await lab.json("pageserver", "user", "list"))["users"] as Json[];
  assert.deepEqual(
    users.map(({ name, tenants }) => [name, tenants]),
    [["alice", null]],
  );
  const alice = `postgresql://alice:correct%20horse@${address}`;
  assert.deepEqual(await stateOver(alice), ["ready", false]);

  const made = await lab.json("pageserver", "cert");
  const certPath = join(lab.neonDirectory, "pageserver", "server.crt");
  assert.equal(made["cert"], certPath);
  assert.equal(statSync(join(lab.neonDirectory, "pageserver", "server.key")).mode & 0o777, 0o600);
  assert.equal((await lab.run("pageserver", "cert")).code, 4);
  await lab.ok("stop");
  await lab.ok("start");
  // The same port as before, and the user is still known.
  assert.equal(await lab.ok("config", "get", "pageserver.listen_libpq"), address);
  const verified = `${alice}?sslmode=verify-full&sslrootcert=${certPath}`;
  assert.deepEqual(await stateOver(verified), ["ready", true]);
  await lab.ok("pageserver", "cert", "--host", "127.0.0.1", "--days", "2", "--force");
  assert.deepEqual(await stateOver(verified), ["ready", true]);

  await lab.ok("pageserver", "user", "remove", "alice");
  assert.equal((await lab.run("pageserver", "user", "remove", "alice")).code, 3);
  await assert.rejects(stateOver(verified), /password authentication failed/);

  // Beyond this machine only with TLS.
  await lab.ok("stop");
  const [, port = ""] = address.split(":");
  await lab.ok("config", "set", "pageserver.listen_libpq", `0.0.0.0:${port}`);
  await lab.ok("start");
  await lab.ok("stop");
  for (const key of ["tls_cert", "tls_key"]) await lab.ok("config", "set", `pageserver.${key}`, "--unset");
  const refused = await lab.run("start");
  assert.equal(refused.code, 2);
  assert.match(refused.stderr, /listen_libpq.*other machines.*neon pageserver cert/);
});
