/** Commands on a pageserver that is named by its URI, over TLS, as users with and without rights; computes on its branches. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import { Labs, libpqPort, refused, setting } from "./sharing.ts";
import { type Lab, until } from "./support.ts";

const PASSWORD = "correct horse";

async function count(lab: Lab, compute: string): Promise<unknown> {
  const [rows] = await lab.column(await lab.ok("pg", "url", compute), "select count(*)::int from t");
  return rows;
}

test("--pageserver: branches, reports, users and computes", { timeout: 300_000 }, async () => {
  await using labs = new Labs();
  const theirs = await labs.init("main");
  const create = "create table t as select generate_series(1, 10) as n";
  await theirs.execute(await theirs.ok("pg", "url", "main"), create);
  const other = await theirs.ok("tenant", "create");
  await theirs.ok("pageserver", "cert");
  const tenant = setting(theirs, "default_tenant_id");
  await theirs.ok("pg", "stop", "main");
  await theirs.ok("stop");
  await theirs.ok("start");
  theirs.environment["NEON_USER_PASSWORD"] = PASSWORD;
  await theirs.ok("pageserver", "user", "add", "admin");
  await theirs.ok("pageserver", "user", "add", "bob", "--tenant", tenant);

  const ours = await labs.init();
  const certificate = join(theirs.neonDirectory, "pageserver", "server.crt");
  const port = setting(theirs, "listen").replace(/.*:/, "");
  const uri = (user: string, query = `?sslrootcert=${certificate}`): string =>
    `https://${user}@127.0.0.1:${port}${query}`;
  ours.environment["PGPASSWORD"] = PASSWORD;

  // A certificate that nobody vouches for, no password, a wrong one, nobody at all.
  assert.match(await refused(ours, 6, "branch", "--pageserver", uri("bob", "")), /TLS: .*certificate/);
  ours.environment["PGPASSWORD"] = "battery staple";
  assert.match(await refused(ours, 6, "branch", "--pageserver", uri("bob")), /refuses: /);
  delete ours.environment["PGPASSWORD"];
  ours.environment["PGPASSFILE"] = join(ours.directory, "none");
  assert.match(
    await refused(ours, 2, "branch", "--pageserver", uri("bob")),
    /no password is known for user bob/,
  );
  ours.environment["PGPASSWORD"] = PASSWORD;
  assert.match(await refused(ours, 2, "start", "--pageserver", uri("bob")), /nonexistent flag/);
  assert.match(await refused(ours, 2, "branch", "--pageserver", uri("admin")), /has 2 tenants/);

  // Bob sees one tenant, which therefore is meant; nothing of the other one, nor of the pageserver as a whole.
  const at = ["--pageserver", uri("bob")];
  assert.match(await ours.ok(...at, "branch", "dev"), /^Created branch dev at main@/);
  const branches = (await ours.json("branch", ...at))["branches"] as Json[];
  assert.deepEqual(
    branches.map(({ name }) => name),
    ["dev", "main"],
  );
  const tenants = (await ours.json("tenant", "list", ...at))["tenants"] as Json[];
  assert.deepEqual(
    tenants.map((each) => each["tenant_id"]),
    [tenant],
  );
  assert.match(await refused(ours, 6, "branch", "--tenant-id", other, ...at), /refuses: /);
  assert.match(await refused(ours, 6, "pageserver", "user", "list", ...at), /refuses: /);
  for (const report of [["status"], ["du"], ["gc", "--dry-run"], ["compact"], ["fsck"]]) {
    const answer = await ours.json(...report, ...at);
    assert.equal(answer["ok"], true, `${report.join(" ")}: ${JSON.stringify(answer)}`);
  }
  const users = await ours.json("pageserver", "user", "list", "--pageserver", uri("admin"));
  assert.equal((users["users"] as Json[]).length, 2);

  // A Postgres here on a branch there: it writes, survives a restart, and its moment is kept for as long as it is there.
  // Where a pageserver connects to is a matter of the pageserver as a whole, so only who may do everything says so.
  assert.match(await refused(ours, 6, "pg", "create", "dev", ...at), /refuses: /);
  await ours.ok("pg", "create", "dev", "--pageserver", uri("admin"), "--tenant-id", tenant);
  assert.equal(await count(ours, "dev"), 10);
  await ours.execute(await ours.ok("pg", "url", "dev"), "insert into t values (11)");
  await ours.ok("pg", "restart", "dev");
  assert.equal(await count(ours, "dev"), 11);
  const [, lsn = ""] = /@(\S+)/.exec(await ours.ok("branch", "mark", "dev", ...at)) ?? [];
  await ours.ok("pg", "create", "look", "--branch", "dev", "--lsn", lsn, ...at);
  assert.equal(await count(ours, "look"), 11);
  assert.match(await refused(ours, 5, "branch", "-d", "dev", ...at), /writes to|children|in use/);
  const listed = (await ours.json("pg", "list"))["computes"] as Json[];
  assert.deepEqual(
    listed.map(({ name, mode, state }) => [name, mode, state]),
    [
      ["dev", "read-write", "running"],
      ["look", "read-only", "running"],
    ],
  );
  for (const { pageserver } of listed) assert.doesNotMatch(String(pageserver), /correct/);
  await ours.ok("pg", "stop", "--all");
  await ours.ok("pg", "destroy", "look");
  await ours.ok("pg", "destroy", "dev");
  await ours.ok("branch", "-d", "mark", ...at);
  await until("the branch to go", async () => (await ours.run("branch", "-d", "dev", ...at)).code === 0);

  await asOrigin(ours, theirs, certificate);

  // What could not be reached by the pageserver there is refused before anything is made.
  const far = ["pg", "create", "main", "--pageserver", "https://bob@db.example.com?sslmode=require"];
  assert.match(await refused(ours, 2, ...far), /cannot reach a Postgres on this machine/);
  assert.deepEqual((await ours.json("pg", "list"))["computes"], []);
});

/** A pageserver that was named once, as an origin: it says where its HTTP API is, and the same user and password serve there. */
async function asOrigin(ours: Lab, theirs: Lab, certificate: string): Promise<void> {
  delete ours.environment["PGPASSWORD"];
  const port = libpqPort(theirs);
  const trust = `?sslmode=verify-full&sslrootcert=${certificate}`;
  const secret = encodeURIComponent(PASSWORD);
  await ours.ok("origin", "add", "lab", `postgresql://bob:${secret}@127.0.0.1:${port}${trust}`);
  await ours.ok("origin", "add", "admins", `postgresql://admin:${secret}@127.0.0.1:${port}${trust}`);
  await ours.ok("origin", "add", "nobody", "postgresql://bob:x@127.0.0.1:1");
  const lab = ["--pageserver", "lab"];
  const branches = (await ours.json("branch", ...lab))["branches"] as Json[];
  assert.deepEqual(
    branches.map(({ name }) => name),
    ["main"],
  );
  const lsn = String(branches[0]?.["last_record_lsn"]);
  for (const report of [["status"], ["du"], ["tenant", "list"]]) {
    const answer = await ours.json(...report, ...lab);
    assert.equal(answer["ok"], true, `${report.join(" ")}: ${JSON.stringify(answer)}`);
  }
  assert.match(await refused(ours, 6, "pageserver", "user", "list", ...lab), /refuses: /);
  await ours.ok("pageserver", "user", "list", "--pageserver", "admins");

  // A compute starts again later, with what the origin knows of the password, which is nowhere else.
  await ours.ok("pg", "create", "look", "--branch", "main", "--lsn", lsn, ...lab);
  const shown = (await ours.json("pg", "list"))["computes"] as Json[];
  assert.match(String(shown[0]?.["pageserver"]), /^https:\/\/bob@127\.0\.0\.1:\d+\?sslmode=verify-full/);
  assert.doesNotMatch(JSON.stringify(shown), /correct/);
  await ours.ok("pg", "restart", "look");
  await ours.ok("pg", "stop", "look");
  await ours.ok("pg", "destroy", "look");

  const words = await ours.ok("completion", "--words", "--", "branch", "--pageserver", "");
  assert.deepEqual(words.trim().split("\n"), ["admins", "lab", "nobody"]);
  const unknown = /neither the URI of a pageserver nor an origin; the origins are admins, lab, nobody/;
  assert.match(await refused(ours, 3, "branch", "--pageserver", "lba"), unknown);
  assert.match(await refused(ours, 3, "branch", "--pageserver", "db.example.com:9898"), unknown);
  assert.match(await refused(ours, 6, "branch", "--pageserver", "nobody"), /127\.0\.0\.1/);
  await ours.ok("origin", "set-url", "lab", `postgresql://bob:wrong@127.0.0.1:${port}${trust}`);
  assert.match(await refused(ours, 6, "branch", ...lab), /refuses: .*password/);
}
