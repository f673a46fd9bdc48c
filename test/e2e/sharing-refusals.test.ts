/** What is refused between pageservers, with which words and exit codes; passwords and TLS. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Labs, libpqPort, refused, setting, standing, transfer, uriOf } from "./sharing.ts";
import { type Lab, ROOT, freePort, listenSomewhere } from "./support.ts";

const PASSWORD = "canary of a password";

async function addUser(lab: Lab, name: string, ...flags: string[]): Promise<void> {
  const child = spawn(
    process.execPath,
    [join(ROOT, "bin/neon.js"), "pageserver", "user", "add", name, ...flags],
    { cwd: lab.directory, env: lab.environment, stdio: ["pipe", "ignore", "inherit"] },
  );
  child.stdin.end(`${PASSWORD}\n`);
  const [code] = (await once(child, "close")) as [number | null];
  assert.equal(code, 0, `neon pageserver user add ${name}`);
}

test("wrong addresses, passwords, names and versions", { timeout: 600_000 }, async () => {
  await using labs = new Labs();
  const ada = await labs.init("main");
  const server = await labs.init();
  const tenant = setting(ada, "default_tenant_id");
  const port = libpqPort(server);
  const { server: stranger, port: strangePort } = await listenSomewhere();
  try {
    const pgPort = (await ada.ok("pg", "url", "main")).replace(/.*:(\d+)\/.*/, "$1");
    const cases: [string, RegExp][] = [
      [`postgresql://neon:wrong@127.0.0.1:${port}`, /password authentication failed/],
      [`postgresql://nobody:wrong@127.0.0.1:${port}`, /password authentication failed/],
      [`postgresql://neon@127.0.0.1:${port}`, /password/],
      [`postgresql://neon@127.0.0.1:${await freePort()}`, /ECONNREFUSED/],
      ["postgresql://neon@no-such-host.invalid", /no-such-host/],
      [`postgresql://neon@127.0.0.1:${strangePort}?connect_timeout=5`, /./],
      [`postgresql://postgres@127.0.0.1:${pgPort}/postgres?sslmode=disable`, /not a pageserver/],
      [`postgresql://neon:wrong@127.0.0.1:${port}?sslmode=require`, /TLS|SSL/],
    ];
    await ada.ok("origin", "add", "o", "postgresql://h");
    for (const [uri, text] of cases) {
      await ada.ok("origin", "set-url", "o", uri);
      for (const args of [
        ["push", "main", "o"],
        ["fetch", "o"],
      ]) {
        const said = await refused(ada, 6, ...args);
        assert.match(said, text, `${args.join(" ")} ${uri}`);
        assert.doesNotMatch(said, /wrong/);
      }
    }
  } finally {
    stranger.close();
  }
  assert.equal((await server.json("branch", "--tenant-id", tenant))["ok"], false);
  assert.equal(await standing(ada, "main"), "none");

  await ada.ok("origin", "set-url", "o", uriOf(server));
  await refused(ada, 3, "push", "nobody", "o");
  await refused(ada, 3, "pull", "main", "o:nobody");
  await refused(ada, 3, "push", "main", "nobody");
  await refused(ada, 2, "push", "main", "o:a b");
  await refused(ada, 2, "push");
  const here = labs.empty();
  await refused(here, 3, "clone", uriOf(server), "x", "--branch", "nobody");
  await refused(here, 3, "clone", uriOf(server), "x", "--tenant-id", "7".repeat(32));
  await refused(here, 2, "clone", uriOf(server), "x", "--tenant-id", "xyz");
  await refused(here, 6, "clone", `postgresql://neon:wrong@127.0.0.1:${port}`, "x");
  assert.equal(existsSync(join(here.directory, "x")), false);
  await refused(ada, 4, "clone", uriOf(server));

  // The same tenant id, but another cluster, and one of another version.
  await server.ok("tenant", "create", tenant);
  assert.match(await refused(ada, 5, "push", "main", "o"), /different Postgres clusters/);
  await server.ok("tenant", "delete", tenant, "--force");
  await server.ok("tenant", "create", tenant, "--pg-version", "16");
  assert.match(await refused(ada, 1, "push", "main", "o"), /17.*16|16.*17/);
  await server.ok("tenant", "delete", tenant, "--force");
  assert.equal((await transfer(ada, "push", "main", "o"))["result"], "created");
});

test("users, rights and TLS; passwords are nowhere to be seen", { timeout: 600_000 }, async () => {
  await using labs = new Labs();
  const ada = await labs.init();
  const tenant = setting(ada, "default_tenant_id");
  const server = await labs.init();
  await server.ok("pageserver", "cert", "--host", "localhost", "--host", "127.0.0.1");
  await server.ok("stop");
  await server.ok("start");
  await addUser(server, "ada");
  await addUser(server, "guest", "--tenant", "9".repeat(32));
  const certificate = join(server.neonDirectory, "pageserver", "server.crt");
  const at = (user: string, query: string): string =>
    `postgresql://${user}@localhost:${libpqPort(server)}?${query}`;
  const verified = `sslmode=verify-full&sslrootcert=${certificate}`;
  ada.environment["PGPASSWORD"] = PASSWORD;
  await ada.ok("origin", "add", "o", at("ada", verified));
  assert.match(await ada.ok("origin", "list"), /answers/);
  assert.equal((await transfer(ada, "push", "main", "o"))["result"], "created");
  assert.equal((await transfer(ada, "pull", "again", "o:main"))["result"], "created");

  // Another certificate than the server's, a user without rights, a wrong password.
  await ada.ok("pageserver", "cert");
  const other = join(ada.neonDirectory, "pageserver", "server.crt");
  await ada.ok("origin", "set-url", "o", at("ada", `sslmode=verify-full&sslrootcert=${other}`));
  assert.match(await refused(ada, 6, "push", "main", "o"), /certificate/);
  await ada.ok("origin", "set-url", "o", at("guest", verified));
  const guest = await ada.run("push", "main", "o:x");
  assert.ok([6, 12].includes(guest.code), guest.stderr);
  assert.match(guest.stderr, /may not work with tenant/);
  ada.environment["PGPASSWORD"] = "wrong";
  await ada.ok("origin", "set-url", "o", at("ada", verified));
  await refused(ada, 6, "push", "main", "o");
  for (const lab of [ada, server]) {
    const log = readFileSync(join(lab.neonDirectory, "pageserver", "pageserver.log"), "utf8");
    assert.ok(!log.includes(PASSWORD), "a password in a log");
  }
  assert.ok(!readFileSync(join(ada.neonDirectory, "config.toml"), "utf8").includes(PASSWORD));
  assert.equal((await server.json("branch", "--tenant-id", tenant))["ok"], true);
});
