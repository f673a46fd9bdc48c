import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { acquireLock, tryLock, withLock } from "../../src/repository/lock.ts";
import { bootId, processStartTime } from "../../src/repository/process.ts";
import { temporaryDirectory } from "./support.ts";

const CHILD = join(import.meta.dirname, "lock-child.ts");

function startChild(t: TestContext, ...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [CHILD, ...args], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  });
  return child;
}

test("of several processes only one is inside at a time", async (t) => {
  const path = join(temporaryDirectory(t), "lock");
  writeFileSync(`${path}.counter`, "0");
  const children = [1, 2, 3, 4].map(() => startChild(t, "count", path, "25"));
  for (const [code] of await Promise.all(children.map((child) => once(child, "exit")))) assert.equal(code, 0);
  assert.equal(readFileSync(`${path}.counter`, "utf8"), "100");
  assert.deepEqual(readdirSync(path), [], "no claim is left");
});

test("within one process too", async (t) => {
  const path = join(temporaryDirectory(t), "deep", "lock");
  let inside = 0;
  const visit = (): Promise<void> =>
    withLock(path, "it", async () => {
      assert.equal(++inside, 1);
      await new Promise((resolve) => setTimeout(resolve, 1));
      inside--;
    });
  await Promise.all([visit(), visit(), visit()]);
});

test("a holder that is killed loses the lock, one that lives keeps it", async (t) => {
  const path = join(temporaryDirectory(t), "lock");
  const child = startChild(t, "hold", path);
  if (child.stdout) await once(child.stdout, "data");
  assert.deepEqual(tryLock(path), { heldBy: child.pid });
  await assert.rejects(
    acquireLock(path, "the thing", { waitMs: 50 }),
    (error) =>
      error instanceof NeonError &&
      error.code === ErrorCode.Conflict &&
      error.message.includes("the thing") &&
      error.message.includes(String(child.pid)),
  );
  child.kill("SIGKILL");
  await once(child, "exit");
  const lock = await acquireLock(path, "the thing", { waitMs: 5000 });
  lock.release();
  lock.release();
});

test("claims of an earlier boot and of a number that was used again count for nothing", (t) => {
  const path = join(temporaryDirectory(t), "lock");
  mkdirSync(path);
  const start = processStartTime(process.pid) ?? "";
  const boot = bootId().replaceAll("-", "");
  writeFileSync(join(path, `${process.pid}-${start}-anotherboot-aa`), "");
  writeFileSync(join(path, `${process.pid}-${Number(start) - 1}-${boot}-bb`), "");
  const lock = tryLock(path);
  assert.ok("release" in lock);
  assert.equal(readdirSync(path).length, 1);
  lock.release();
});

test("an aborted wait ends", async (t) => {
  const path = join(temporaryDirectory(t), "lock");
  const lock = await acquireLock(path, "it");
  const abort = new AbortController();
  const waiting = acquireLock(path, "it", { signal: abort.signal });
  abort.abort();
  await assert.rejects(waiting);
  lock.release();
  assert.equal(existsSync(path), true);
});

test("a process is known by its start time, a dead one is not known", async (t) => {
  assert.ok(processStartTime(process.pid));
  assert.equal(processStartTime(process.pid), processStartTime(process.pid));
  for (const pid of [0, -1, 1.5, 2 ** 30]) assert.equal(processStartTime(pid), undefined);
  const child = startChild(t, "hold", join(temporaryDirectory(t), "lock"));
  const pid = child.pid ?? 0;
  assert.ok(processStartTime(pid));
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.equal(processStartTime(pid), undefined);
});
