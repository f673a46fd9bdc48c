import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { toLsn } from "../../src/base/lsn.ts";
import { RealFiles } from "../../src/storage/real-files.ts";
import { TimelineStore } from "../../src/storage/store.ts";
import { StoreCache } from "../../src/storage/store-cache.ts";
import { SeededRandom } from "../support/random.ts";
import { HISTORY_KEYS, START_LSN, expectedChain } from "./kill-history.ts";

const KILLS = 4;

/** Runs a writer and kills it somewhere after a number of flushes; returns the last LSN that it called durable. */
async function writeAndKill(directory: string, flushes: number): Promise<number> {
  const program = fileURLToPath(new URL("kill-writer.ts", import.meta.url));
  const child = spawn(process.execPath, [program, directory], { stdio: ["ignore", "pipe", "inherit"] });
  const exited = once(child, "exit");
  let output = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
    if (output.split("\n").length > flushes) child.kill("SIGKILL");
  });
  const [, signal] = (await exited) as [number | null, string | null];
  assert.equal(signal, "SIGKILL");
  const complete = output.split("\n").slice(0, -1);
  return Number(complete.at(-1));
}

test("a process that writes may be killed at any time", async (t) => {
  const random = SeededRandom.forTest(t);
  const directory = await mkdtemp(join(tmpdir(), "store-kill-"));
  const files = new RealFiles();
  const options = { directory: join(directory, "line"), startLsn: toLsn(START_LSN) };
  try {
    await using cache = new StoreCache({ capacityBytes: 1 << 20 }, { files });
    await (await TimelineStore.create(options, { files, cache }))[Symbol.asyncDispose]();
    for (let i = 0; i < KILLS; i++) {
      const acknowledged = await writeAndKill(options.directory, random.between(1, 12));
      await using store = await TimelineStore.open(options, { files, cache });
      assert.ok(store.durableLsn >= acknowledged && acknowledged > START_LSN);
      assert.equal((await readdir(options.directory)).length, store.layers().length + 2);
      for (const key of HISTORY_KEYS) {
        const lsn = random.between(START_LSN, store.durableLsn);
        for (const [at, upTo] of [
          [lsn, lsn],
          [2 ** 50, store.durableLsn],
        ] as const) {
          const { values } = await store.get(key, toLsn(at));
          const expected = expectedChain(key.block, upTo);
          assert.deepEqual(
            values.map((value) => [value.lsn, Buffer.from(value.bytes).toString("hex")]),
            expected.map((value) => [value.lsn, Buffer.from(value.bytes).toString("hex")]),
          );
        }
      }
    }
  } finally {
    await rm(directory, { recursive: true });
  }
});
