import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { parseTenantId } from "../../src/base/ids.ts";
import { Repository, newConfig, repositoryState } from "../../src/repository/repository.ts";
import { temporaryDirectory } from "./support.ts";

const CONFIG = newConfig({
  tenantId: parseTenantId("0123456789abcdef0123456789abcdef"),
  pgVersion: 17,
  pageserverPort: 9898,
});

async function makeRepository(root: string): Promise<Repository> {
  const repository = await Repository.create(root, CONFIG);
  await repository.finishCreation();
  return repository;
}

function failure(code: ErrorCode, pattern: RegExp): (error: unknown) => boolean {
  return (error) =>
    error instanceof NeonError &&
    error.code === code &&
    pattern.test(error.message) &&
    error.hint !== undefined;
}

test("a new repository keeps its secrets", async (t) => {
  const root = temporaryDirectory(t);
  const repository = await makeRepository(root);
  assert.equal(statSync(repository.configPath).mode & 0o777, 0o600);
  assert.equal(statSync(repository.pageserverDirectory).mode & 0o777, 0o700);
  assert.notEqual(
    newConfig({ tenantId: CONFIG.defaultTenantId, pgVersion: 17, pageserverPort: 1 }).pageserver.authToken,
    CONFIG.pageserver.authToken,
  );
});

test("it is found from below, through a link, and by its own path", async (t) => {
  const root = temporaryDirectory(t);
  await makeRepository(root);
  const below = join(root, "a", "b");
  mkdirSync(below, { recursive: true });
  assert.equal((await Repository.find(below)).root, root);
  const elsewhere = temporaryDirectory(t);
  symlinkSync(below, join(elsewhere, "link"));
  assert.equal((await Repository.find(join(elsewhere, "link"))).root, root);
  assert.equal((await Repository.find(elsewhere, root)).root, root);
  assert.equal((await Repository.find(elsewhere, join(root, ".neon"))).root, root);
  assert.deepEqual((await Repository.find(below)).config, CONFIG);
});

test("where there is none, the error names the next step", async (t) => {
  const root = temporaryDirectory(t);
  await assert.rejects(Repository.find(root), failure(ErrorCode.NotFound, /no neon repository in/));
  await assert.rejects(Repository.find(root, "nowhere"), failure(ErrorCode.NotFound, /nowhere/));
});

test("a file called .neon is another tool's and does not hide a repository above", async (t) => {
  const root = temporaryDirectory(t);
  const below = join(root, "below");
  mkdirSync(below);
  writeFileSync(join(below, ".neon"), "{}");
  await assert.rejects(Repository.find(below), failure(ErrorCode.NotFound, /is a file/));
  await makeRepository(root);
  assert.equal((await Repository.find(below)).root, root);
  assert.equal(readFileSync(join(below, ".neon"), "utf8"), "{}");
  await assert.rejects(Repository.create(below, CONFIG));
});

test("a half-made repository is recognised and can be cleared", async (t) => {
  const root = temporaryDirectory(t);
  const directory = join(root, ".neon");
  mkdirSync(join(directory, "locks", "init"), { recursive: true });
  assert.equal(await repositoryState(root), "none");
  const repository = await Repository.create(root, CONFIG);
  assert.equal(await repositoryState(root), "unfinished");
  await assert.rejects(Repository.find(root), failure(ErrorCode.Conflict, /half made/));
  mkdirSync(join(directory, "init", "pgdata"), { recursive: true });
  await Repository.removeUnfinished(root);
  assert.equal(await repositoryState(root), "none");
  assert.equal(existsSync(repository.pageserverDirectory), false);
  await makeRepository(root);
  assert.equal(await repositoryState(root), "complete");
  await assert.rejects(Repository.removeUnfinished(root), failure(ErrorCode.Exists, /already/));
});

test("a .neon directory of somebody else is left alone", async (t) => {
  const root = temporaryDirectory(t);
  mkdirSync(join(root, ".neon"));
  writeFileSync(join(root, ".neon", "theirs"), "x");
  assert.equal(await repositoryState(root), "foreign");
  await assert.rejects(Repository.find(root), failure(ErrorCode.NotFound, /no config\.toml/));
  await assert.rejects(Repository.removeUnfinished(root), failure(ErrorCode.Conflict, /no neon repository/));
});

test("settings are changed on disk and in memory", async (t) => {
  const root = temporaryDirectory(t);
  const repository = await makeRepository(root);
  await Promise.all([
    repository.changeSetting("computes.a.port", 5000),
    repository.changeSetting("computes.b.port", 5001),
    repository.changeSetting("pageserver.listen", "127.0.0.1:1234"),
  ]);
  assert.deepEqual((await Repository.find(root)).config.computes, { a: { port: 5000 }, b: { port: 5001 } });
  assert.equal(statSync(repository.configPath).mode & 0o777, 0o600);
  await repository.changeSetting("computes.a.port", undefined);
  assert.equal(repository.config.computes["a"], undefined);
});

test("directories of computes whose names have slashes do not meet", async (t) => {
  const repository = await makeRepository(temporaryDirectory(t));
  const names = ["a", "a/b", "a-b", "a_b", "a/b/c"];
  assert.equal(new Set(names.map((name) => repository.computeDirectory(name))).size, names.length);
});
