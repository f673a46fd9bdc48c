/** Several tenants in one repository: made, used, side by side, kept apart, deleted. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { Json } from "./cli.ts";
import { Lab, finish, processesBelow, startNeon, until } from "./support.ts";

const SECOND = "5ec0".repeat(8);

async function tenantsOf(lab: Lab): Promise<Map<string, Json>> {
  const list = (await lab.json("tenant", "list"))["tenants"] as Json[];
  return new Map(list.map((tenant) => [String(tenant["tenant_id"]), tenant]));
}

async function failure(lab: Lab, ...args: string[]): Promise<[number, string]> {
  const { code, stderr } = await lab.run(...args);
  return [code, stderr];
}

test("two tenants of different versions, side by side", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init("main");
  const [first = ""] = [...(await tenantsOf(lab)).keys()];
  const made = await lab.json("tenant", "create", SECOND, "--pg-version", "16");
  assert.deepEqual(
    [made["ok"], made["tenant_id"], made["branch"], made["pg_version"], made["default"]],
    [true, SECOND, "main", 16, false],
  );
  assert.equal(existsSync(join(lab.neonDirectory, "new-tenant")), false);
  const tenants = await tenantsOf(lab);
  assert.deepEqual(
    [first, SECOND].map((id) => [tenants.get(id)?.["default"], tenants.get(id)?.["pg_version"]]),
    [
      [true, 17],
      [false, 16],
    ],
  );

  // Branches of the same names know nothing of each other; names of computes are the repository's.
  const here = ["--tenant-id", SECOND];
  await lab.ok("branch", "dev", ...here);
  assert.deepEqual([...(await lab.branches()).keys()], ["main"]);
  const [taken, why] = await failure(lab, "pg", "create", "main", ...here);
  assert.equal(taken, 4);
  assert.match(why, new RegExp(`compute "main" already, on branch "main" of tenant ${first}`));
  const other = await lab.ok("pg", "create", "other", "--branch", "main", ...here);
  assert.match(String(await lab.value(other, "show server_version")), /^16/);
  const main = await lab.ok("pg", "url", "main");
  await lab.execute(main, "create table mine (v int)");
  await lab.execute(other, "create table theirs (v int)");
  const tables = "select relname::text from pg_class where relname in ('mine', 'theirs')";
  assert.deepEqual(await lab.column(main, tables), ["mine"]);
  assert.deepEqual(await lab.column(other, tables), ["theirs"]);
  const list = async (...more: string[]): Promise<unknown[]> =>
    ((await lab.json("pg", "list", ...more))["computes"] as Json[]).map((compute) => compute["name"]);
  assert.deepEqual(await list(), ["main"]);
  assert.deepEqual(await list(...here), ["other"]);
  const [foreign, whose] = await failure(lab, "pg", "stop", "other");
  assert.equal(foreign, 3);
  assert.match(whose, new RegExp(`compute "other" is of tenant ${SECOND}.*--tenant-id ${SECOND}`, "s"));
  assert.match(
    await lab.ok("status"),
    /^COMPUTE +TENANT +BRANCH.*\nmain +\w{8} +main.*\nother +5ec05ec0 +main/m,
  );

  // Settings of its own, which the other one has not.
  assert.equal(await lab.ok("tenant", "config", "pitr_interval", "2d", ...here), "pitr_interval = 2days");
  const setting = async (...more: string[]): Promise<unknown[]> => {
    const { value, origin } = await lab.json("tenant", "config", "pitr_interval", ...more);
    return [value, origin];
  };
  assert.deepEqual(await setting(...here), ["2days", "tenant"]);
  assert.deepEqual(await setting(), ["7days", "pageserver"]);

  // The other one as the default.
  const used = await lab.json("tenant", "use", SECOND);
  assert.deepEqual([used["pg_version"], used["previous_tenant_id"]], [16, first]);
  assert.deepEqual([...(await lab.branches()).keys()], ["dev", "main"]);
  assert.deepEqual(await list(), ["other"]);
  const dev = await lab.ok("pg", "create", "dev");
  assert.match(String(await lab.value(dev, "show server_version")), /^16/);
  await lab.ok("pg", "stop", "main", "--tenant-id", first);
  assert.match(
    String(await lab.value(await lab.ok("pg", "start", "main", "--tenant-id", first), "show server_version")),
    /^17/,
  );
  await lab.ok("stop");
  await lab.ok("start", "--all");
  assert.deepEqual(await lab.column(main, tables), ["mine"]);
  assert.deepEqual(await lab.column(other, tables), ["theirs"]);

  // Deleting asks, and never takes what is in use.
  assert.equal((await failure(lab, "tenant", "delete", SECOND, "--force"))[0], 5);
  await lab.ok("tenant", "use", first);
  const [inUse, by] = await failure(lab, "tenant", "delete", SECOND, "--force");
  assert.equal(inUse, 5);
  assert.match(by, /has computes: dev, other/);
  await lab.ok("pg", "destroy", "dev", "--force", ...here);
  await lab.ok("pg", "destroy", "other", "--force", ...here);
  const [declined, hint] = await failure(lab, "tenant", "delete", SECOND);
  assert.equal(declined, 12);
  assert.match(hint, /2 branches \(dev, main\).*Add --force/s);
  assert.equal((await tenantsOf(lab)).size, 2);
  const deleted = await lab.json("tenant", "delete", SECOND, "--force");
  assert.deepEqual(deleted["branches"], ["dev", "main"]);
  assert.equal(existsSync(join(lab.neonDirectory, "pageserver", "tenants", SECOND)), false);
  assert.deepEqual([...(await tenantsOf(lab)).keys()], [first]);
  for (const args of [["use"], ["delete", "--force"]]) {
    assert.equal((await failure(lab, "tenant", ...args, SECOND))[0], 3);
  }
  assert.equal((await failure(lab, "branch", ...here))[0], 3);
  assert.deepEqual(await lab.column(main, tables), ["mine"]);
});

test("a creation that is interrupted or refused leaves nothing", { timeout: 300_000 }, async () => {
  await using lab = await Lab.init();
  const [first = ""] = [...(await tenantsOf(lab)).keys()];
  assert.equal((await failure(lab, "tenant", "create", first))[0], 4);
  assert.equal((await failure(lab, "tenant", "create", "xyz"))[0], 2);
  assert.equal((await failure(lab, "tenant", "create", "--pg-version", "9"))[0], 2);
  assert.equal((await failure(lab, "tenant", "create", "--pg-bin", "/nowhere"))[0], 10);

  const temporary = join(lab.neonDirectory, "new-tenant");
  const started = (): Promise<unknown> => until("initdb to begin", () => existsSync(temporary));
  const interrupted = startNeon(lab, ["tenant", "create", SECOND]);
  const end = finish(interrupted);
  await started();
  interrupted.kill("SIGINT");
  assert.equal((await end).code, 130);
  assert.equal(existsSync(temporary), false);
  assert.deepEqual([...(await tenantsOf(lab)).keys()], [first]);

  // Killed: what is left does not keep it from being created again.
  const killed = startNeon(lab, ["tenant", "create", SECOND]);
  const killedEnd = finish(killed);
  await started();
  killed.kill("SIGKILL");
  await killedEnd;
  const made = await lab.json("tenant", "create", SECOND);
  assert.equal(made["ok"], true, JSON.stringify(made));
  assert.equal(existsSync(temporary), false);
  await lab.ok("branch", "dev", "--tenant-id", SECOND);
  await lab.ok("stop");
  await until("nothing to run", () => processesBelow(lab.directory).length === 0);
});
