/** Origins in the config, upstreams of branches, what is known of an origin's branches. */
import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { parseTenantId } from "../../src/base/ids.ts";
import { toLsn } from "../../src/base/lsn.ts";
import {
  addOrigin,
  checkOriginName,
  forgetUpstream,
  originUri,
  parseOriginArgument,
  readUpstreams,
  removeOrigin,
  renameOrigin,
  setOriginUri,
  setUpstream,
  withAbsolutePaths,
} from "../../src/repository/origins.ts";
import { Repository, newConfig } from "../../src/repository/repository.ts";
import { readTracking, trackedBranch, trackingPath, writeTracking } from "../../src/repository/tracking.ts";
import { temporaryDirectory } from "./support.ts";

const TENANT = parseTenantId("0".repeat(32));
const OTHER_TENANT = parseTenantId("1".repeat(32));
const TIMELINE = "a".repeat(32);

async function emptyRepository(t: TestContext): Promise<Repository> {
  const config = newConfig({ tenantId: TENANT, pgVersion: 17, pageserverPort: 9898 });
  const repository = await Repository.create(temporaryDirectory(t), config);
  await repository.finishCreation();
  return repository;
}

function code(expected: string): (error: unknown) => boolean {
  return (error) => (error as { code?: string }).code === expected;
}

test("names of origins, and ORIGIN[:OTHER]", () => {
  for (const good of ["origin", "staging-2", "a.b", "ünïcode"]) checkOriginName(good);
  for (const bad of ["", "a/b", "a:b", "-x", "a b", "..", ".a", "x".repeat(101), "a@b", "0".repeat(32)]) {
    assert.throws(() => checkOriginName(bad), code("usage"), bad);
  }
  assert.deepEqual(parseOriginArgument("staging"), { origin: "staging", branch: undefined });
  assert.deepEqual(parseOriginArgument("staging:feature/x"), { origin: "staging", branch: "feature/x" });
  for (const bad of ["", ":main", "staging:", "staging:a:b", "staging:a b", "a/b:main"]) {
    assert.throws(() => parseOriginArgument(bad), code("usage"), bad);
  }
});

test("origins are added, changed, renamed and removed, and nothing else in the config changes", async (t) => {
  const repository = await emptyRepository(t);
  const before = readFileSync(repository.configPath, "utf8");
  await addOrigin(repository, "a.b", "postgresql://me:secret@h");
  await addOrigin(repository, "two", "postgresql://h2");
  await assert.rejects(addOrigin(repository, "two", "postgresql://h3"), code("exists"));
  assert.equal(statSync(repository.configPath).mode & 0o777, 0o600);
  assert.deepEqual(repository.config.origins, { "a.b": "postgresql://me:secret@h", two: "postgresql://h2" });
  await setOriginUri(repository, "two", "postgresql://h3");
  assert.equal(originUri(repository, "two"), "postgresql://h3");
  await assert.rejects(setOriginUri(repository, "three", "postgresql://h"), code("not_found"));
  await assert.rejects(renameOrigin(repository, "two", "a.b"), code("exists"));
  await renameOrigin(repository, "two", "three");
  assert.throws(() => originUri(repository, "two"), /no origin "two"/);
  await removeOrigin(repository, "a.b");
  await assert.rejects(removeOrigin(repository, "a.b"), code("not_found"));
  await removeOrigin(repository, "three");
  assert.deepEqual(repository.config.origins, {});
  assert.ok(readFileSync(repository.configPath, "utf8").startsWith(before));
});

test("paths in a URI are made absolute", () => {
  const made = (uri: string): string => withAbsolutePaths(uri, "/home/ada");
  assert.equal(made("postgresql://h?sslmode=require"), "postgresql://h?sslmode=require");
  assert.equal(
    made("postgresql://h?sslrootcert=a%20b.crt"),
    "postgresql://h?sslrootcert=/home/ada/a%20b.crt",
  );
  assert.equal(made("postgresql://h?sslrootcert=/x.crt"), "postgresql://h?sslrootcert=/x.crt");
  assert.equal(made("postgresql://h?sslrootcert=system"), "postgresql://h?sslrootcert=system");
  assert.equal(made("postgresql://h/db?a=b&passfile=../p"), "postgresql://h/db?a=b&passfile=/home/p");
  assert.equal(made("postgresql://h?passfile=%zz"), "postgresql://h?passfile=%zz");
});

test("upstreams follow their origin", async (t) => {
  const repository = await emptyRepository(t);
  assert.equal(readUpstreams(repository).size, 0);
  await addOrigin(repository, "one", "postgresql://h");
  const other = "b".repeat(32);
  await Promise.all([
    setUpstream(repository, TIMELINE, { origin: "one", branch: "main" }),
    setUpstream(repository, other, { origin: "two", branch: "x" }),
  ]);
  await renameOrigin(repository, "one", "uno");
  assert.deepEqual(readUpstreams(repository).get(TIMELINE), { origin: "uno", branch: "main" });
  assert.deepEqual(readUpstreams(repository).get(other), { origin: "two", branch: "x" });
  await removeOrigin(repository, "uno");
  assert.deepEqual([...readUpstreams(repository).keys()], [other]);
  await forgetUpstream(repository, other);
  assert.equal(readUpstreams(repository).size, 0);
  for (const damage of ["", "[]", "{", '{"format":"neon upstreams","version":2,"upstreams":{}}']) {
    writeFileSync(join(repository.directory, "upstreams.json"), damage);
    assert.equal(readUpstreams(repository).size, 0, damage);
  }
});

test("what an origin had is kept per tenant; a damaged file means that nothing is known", async (t) => {
  const repository = await emptyRepository(t);
  assert.equal(readTracking(repository, "one"), undefined);
  const lineage = { entries: [{ startLsn: toLsn(0x100), epoch: "e" }], endLsn: toLsn(0x2000) };
  const main = { name: "main", lastRecordLsn: toLsn(0x2000), lineage };
  const contact = (tenantId: typeof TENANT, contactedAt: number, branches: (typeof main)[]): object => ({
    contactedAt,
    tenants: [{ tenantId, branches }],
  });
  type Contact = Parameters<typeof writeTracking>[2];
  await writeTracking(repository, "one", contact(TENANT, 1000, [main]) as Contact);
  await writeTracking(repository, "one", contact(OTHER_TENANT, 2000, []) as Contact);
  const read = readTracking(repository, "one");
  assert.equal(read?.contactedAt, 2000);
  assert.deepEqual(trackedBranch(read, TENANT, "main"), main);
  assert.equal(trackedBranch(read, OTHER_TENANT, "main"), undefined);
  await writeTracking(repository, "one", contact(TENANT, 3000, []) as Contact);
  assert.equal(trackedBranch(readTracking(repository, "one"), TENANT, "main"), undefined);
  const path = trackingPath(repository, "one");
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const good = readFileSync(path, "utf8");
  for (const damage of [
    "",
    "null",
    good.slice(0, -5),
    good.replace("tenant_id", "x"),
    good.replace("000", "x"),
  ]) {
    writeFileSync(path, damage);
    assert.equal(readTracking(repository, "one"), undefined, damage);
  }
  writeFileSync(path, good);
  assert.notEqual(readTracking(repository, "one"), undefined);
  await addOrigin(repository, "one", "postgresql://h");
  await setOriginUri(repository, "one", "postgresql://h2");
  assert.equal(readTracking(repository, "one"), undefined);
});
