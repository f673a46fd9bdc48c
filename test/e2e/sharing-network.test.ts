/**
 * Push and pull over a bad network: connections that are cut, slow or flip bits, a pageserver that is killed, Ctrl-C. Whatever
 * happens, the branch at the destination is as it was, and the next try goes on.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../support/random.ts";
import type { Json } from "./cli.ts";
import { Proxy } from "./proxy.ts";
import {
  CHECKSUM,
  Labs,
  assertSameAt,
  branchOf,
  libpqPort,
  refused,
  setting,
  transfer,
  uriOf,
} from "./sharing.ts";
import { type Lab, finish, killAndWait, startNeon, until } from "./support.ts";

/** Rows that zstd cannot make small: about 100 bytes of hexadecimal digits each. */
const fill = (rows: number): string =>
  `insert into t select i, md5(random()::text) || md5(random()::text) || md5(random()::text) from generate_series(1, ${rows}) i`;

async function branchNames(lab: Lab, tenant: string): Promise<string[]> {
  const outcome = await lab.json("branch", "--tenant-id", tenant);
  // Before its first branch there may be no tenant.
  if (outcome["ok"] !== true) return [];
  return (outcome["branches"] as Json[]).map((branch) => String(branch["name"]));
}

test("pushes that are cut, flipped, interrupted and killed", { timeout: 600_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using labs = new Labs();
  const ada = await labs.init("main");
  const server = await labs.init();
  await using proxy = await Proxy.start(libpqPort(server));
  const tenant = setting(ada, "default_tenant_id");
  const there = ["--tenant-id", tenant];
  const main = await ada.ok("pg", "url", "main");
  await ada.execute(main, "create table t (k int, v text)", fill(20_000));
  await ada.ok("pg", "stop", "main");
  await ada.ok("origin", "add", "o", uriOf(server, proxy.port));
  const total = Number((await transfer(ada, "push", "main", "o", "--dry-run"))["total_bytes"]);
  assert.ok(total > 2_000_000, `only ${total} bytes to be sent`);

  // Cut again and again at random places, each further on: nothing is published before everything is there.
  for (const most of [20_000, 200_000, 400_000]) {
    proxy.reset({ cutAfter: random.between(most / 2, most) });
    const said = await refused(ada, 6, "push", "main", "o");
    assert.match(said, /error: /);
    assert.deepEqual(await branchNames(server, tenant), [], `cut after ${proxy.weather.cutAfter}`);
  }

  // A bit that is flipped on the way is noticed, whatever it hits.
  proxy.reset({ flipAt: random.between(100_000, 400_000) });
  const flipped = await ada.run("push", "main", "o");
  assert.ok([1, 5, 6, 7, 11].includes(flipped.code), `${flipped.code}: ${flipped.stderr}`);
  assert.deepEqual(await branchNames(server, tenant), []);

  // Ctrl-C, when data flows.
  proxy.reset({ stallAfter: 100_000 });
  const child = startNeon(ada, ["push", "main", "o"]);
  const ended = finish(child);
  await until("data to flow", () => proxy.stalled, 120_000);
  child.kill("SIGINT");
  const interrupted = await ended;
  assert.equal(interrupted.code, 130);
  assert.match(interrupted.stderr, /interrupted by SIGINT[^]*Run the same command again/);
  assert.deepEqual(await branchNames(server, tenant), []);

  // The receiver is killed while data flows, and started again.
  const serverPid = await server.pageserverPid();
  proxy.reset({ stallAfter: 100_000 });
  const pushing = finish(startNeon(ada, ["push", "main", "o"]));
  await until("data to flow", () => proxy.stalled, 120_000);
  await killAndWait(serverPid);
  assert.equal((await pushing).code, 6);
  await server.ok("start");
  assert.deepEqual(await branchNames(server, tenant), []);

  // At last. What had arrived is not sent again: less than everything goes over.
  proxy.reset();
  const done = await transfer(ada, "push", "main", "o");
  assert.equal(done["result"], "created");
  assert.ok(proxy.passedBytes > 0);
  const end = String((await branchOf(ada, "main"))["last_record_lsn"]);
  assert.equal((await branchOf(server, "main", ...there))["last_record_lsn"], end);
  await assertSameAt([ada, server], tenant, ["main", "main"], [end]);
  await server.ok("fsck", ...there);
});

test("pulls that are cut and killed; a clone goes on; a slow network", { timeout: 600_000 }, async () => {
  await using labs = new Labs();
  const ada = await labs.init("main");
  await using proxy = await Proxy.start(libpqPort(ada));
  const tenant = setting(ada, "default_tenant_id");
  const main = await ada.ok("pg", "url", "main");
  await ada.execute(main, "create table t (k int, v text)", fill(20_000));
  const checksum = await ada.value(main, CHECKSUM);
  await ada.ok("pg", "stop", "main");

  // A clone that is cut before any data leaves nothing; one that is interrupted later leaves what goes on.
  const bob = labs.empty();
  proxy.reset({ cutAfter: 100 });
  await refused(bob, 6, "clone", uriOf(ada, proxy.port), "shop");
  assert.equal((await bob.run("status", "--repo", "shop")).code, 3);
  proxy.reset({ stallAfter: 600_000 });
  const child = startNeon(bob, ["clone", uriOf(ada, proxy.port), "shop", "--json"]);
  let events = "";
  child.stderr?.on("data", (chunk: Buffer) => (events += chunk.toString()));
  const ended = finish(child);
  // Until the command itself knows that something has arrived.
  await until("data to arrive", () => /"bytes":[1-9]/.test(events), 120_000);
  child.kill("SIGINT");
  const interrupted = await ended;
  assert.equal(interrupted.code, 130);
  assert.match(interrupted.stdout, /cd \S+ && neon pull main origin/);
  const repo = ["--repo", "shop"];
  assert.match((await bob.run("branch", ...repo)).stderr, /no branch/);

  // Our own pageserver is killed meanwhile.
  const status = await bob.json("status", ...repo);
  proxy.reset({ stallAfter: 150_000 });
  const pulling = finish(startNeon(bob, ["pull", "main", "origin", ...repo]));
  await until("data to flow", () => proxy.stalled, 120_000);
  await killAndWait(Number((status["pageserver"] as Json)["pid"]));
  const killed = await pulling;
  assert.equal(killed.code, 6, killed.stderr);
  await bob.ok("start", ...repo);

  // Slow, but it arrives.
  proxy.reset({ delayMs: 5, bytesPerSecond: 5_000_000 });
  const slow = await bob.run("pull", "main", "origin", ...repo);
  assert.equal(slow.code, 0, slow.stderr);
  assert.match(slow.stdout, /^origin:main -> main {2}created, /);
  const pulled = await bob.ok("pg", "create", "main", ...repo);
  assert.equal(await bob.value(pulled, CHECKSUM), checksum);
  await bob.ok("fsck", "--tenant-id", tenant, ...repo);
});
