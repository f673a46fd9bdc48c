/** A disk without room: nothing half made, nothing acknowledged lost, and it goes on by itself when there is room again. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { appendFileSync, cpSync, mkdirSync, readdirSync, renameSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLsn } from "../../src/base/lsn.ts";
import { type Json, sleep } from "./cli.ts";
import { refusal, refused } from "./refusals.ts";
import { Lab, isPending, killAndWait } from "./support.ts";

interface SmallDisk {
  resize(sizeMib: number): void;
  /** Shrinks it so far that only this much is left. */
  leave(freeMib: number): void;
}

/** A small file system in memory; undefined where that is not possible. */
function smallDisk(lab: Lab, directory: string, sizeMib: number): SmallDisk | undefined {
  const mount = (...args: string[]): boolean => spawnSync("mount", args, { stdio: "ignore" }).status === 0;
  if (process.getuid?.() !== 0 || process.platform !== "linux") return undefined;
  if (!mount("-t", "tmpfs", "-o", `size=${sizeMib}m,mode=755`, "tmpfs", directory)) return undefined;
  lab.atEnd(() => {
    spawnSync("umount", ["-l", directory], { stdio: "ignore" });
  });
  const resize = (mib: number): void => assert(mount("-o", `remount,size=${Math.ceil(mib)}m`, directory));
  return {
    resize,
    leave: (freeMib) => {
      const { blocks, bfree, bsize } = statfsSync(directory);
      resize(((blocks - bfree) * bsize) / 2 ** 20 + freeMib);
    },
  };
}

test("disk full: init and pg create", { timeout: 300_000 }, async (t) => {
  await using lab = new Lab();
  const disk = smallDisk(lab, lab.directory, 8);
  if (!disk) return t.skip("only root can mount a small file system");
  const full = refusal(9, "resource", /disk is full|no space|ENOSPC/i, /make room/i);
  for (const sizeMib of [8, 24, 44]) {
    disk.resize(sizeMib);
    await refused(lab, ["init"], full);
    assert.deepEqual(readdirSync(lab.directory), [], `nothing is left of init with ${sizeMib} MiB`);
  }
  disk.resize(300);
  await lab.ok("init");
  disk.leave(15);
  await refused(lab, ["pg", "create", "main"], full);
  assert.deepEqual((await lab.json("pg", "list"))["computes"], []);
  assert.equal((await lab.branches()).get("main")?.["writer"], null);
  disk.resize(300);
  const uri = await lab.ok("pg", "create", "main");
  assert.equal(await lab.value(uri, "select 1"), 1);
  return undefined;
});

test("disk full at the pageserver while WAL flows", { timeout: 300_000 }, async (t) => {
  await using lab = await Lab.init();
  await lab.ok("stop");
  const directory = join(lab.neonDirectory, "pageserver");
  renameSync(directory, `${directory}.moved`);
  mkdirSync(directory, { mode: 0o700 });
  const disk = smallDisk(lab, directory, 300);
  if (!disk) return t.skip("only root can mount a small file system");
  cpSync(`${directory}.moved`, directory, { recursive: true });
  rmSync(`${directory}.moved`, { recursive: true });
  await lab.ok("start");
  const uri = await lab.ok("pg", "create", "main");
  const client = await lab.connect(uri);
  await client.query("create table t (id int primary key, filler text)");
  const acknowledged: number[] = [];
  const insert = async (): Promise<void> => {
    const id = acknowledged.length;
    await client.query(
      `insert into t select ${id}, string_agg(md5(i || '/' || ${id}), '') from generate_series(1, 20000) i`,
    );
    acknowledged.push(id);
  };

  disk.leave(12);
  const [first] = await writeUntilStuck(insert);
  // Its log has no room either, and that must not end it.
  fillUp(join(directory, "pageserver.log"));
  assert(await isPending(first, 2500), "the commit waits");
  const status = await lab.json("status");
  assert.equal((status["pageserver"] as Json)["state"], "running");
  const [main] = status["branches"] as Json[];
  assert.match(String(main?.["error"]), /cannot write WAL, so commits wait: .*no space/i);
  const end = parseLsn(String(main?.["last_record_lsn"])) ?? 0;
  assert(end > 0x1600000, "what it has stays visible");
  assert.match((await lab.run("status")).stderr, /branch main: the pageserver cannot write WAL/);
  disk.resize(300);
  await within(30_000, first, "it goes on by itself");

  // A start on a full disk is refused, and works when there is room again.
  disk.leave(12);
  const [again] = await writeUntilStuck(insert);
  fillUp(join(directory, "pageserver.log"));
  await killAndWait(await lab.pageserverPid());
  await refused(lab, ["start"], refusal(9, "resource", /did not start: .*no space/i, /make room/));
  disk.resize(600);
  await lab.ok("start");
  await within(30_000, again, "it goes on after the start");

  await insert();
  await client.end();
  t.diagnostic(`${acknowledged.length} rows`);
  assert.deepEqual(await lab.column(uri, "select id from t order by id"), acknowledged);
  await lab.ok("branch", "after");
  const branch = await lab.ok("pg", "create", "after");
  assert.deepEqual(await lab.column(branch, "select id from t order by id"), acknowledged);
  const lengths = "select distinct length(filler) from t";
  assert.deepEqual(await lab.column(branch, lengths), await lab.column(uri, lengths));
  return undefined;
});

/** The commit that does not return; in a list, because a promise in a promise would be waited for. */
async function writeUntilStuck(insert: () => Promise<void>): Promise<[Promise<void>]> {
  for (let count = 0; count < 200; count++) {
    const running = insert();
    if (await isPending(running, 2000)) return [running];
    await running;
  }
  throw new Error("a full disk does not stop the commits");
}

function within(timeoutMs: number, running: Promise<void>, what: string): Promise<void> {
  const timer = sleep(timeoutMs).then(() => assert.fail(`${what}: not within ${timeoutMs / 1000} s`));
  return Promise.race([running, timer]);
}

/** Appends to a file until its disk is full. */
function fillUp(path: string): void {
  for (let size = 2 ** 20; size >= 1;) {
    try {
      appendFileSync(path, " ".repeat(size));
    } catch {
      size = Math.floor(size / 2);
    }
  }
}
