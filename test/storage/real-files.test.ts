import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import type { Files } from "../../src/base/seams.ts";
import { RealFiles } from "../../src/storage/real-files.ts";

/** What every implementation of `Files` has to do. */
async function conform(files: Files, root: string): Promise<void> {
  const directory = `${root}/a/b`;
  await files.makeDirectory(directory);
  await files.makeDirectory(directory);
  assert.deepEqual(await files.list(directory), []);
  await assert.rejects(files.list(`${root}/none`), { code: "ENOENT" });
  await assert.rejects(files.open(`${directory}/none`, "r"), { code: "ENOENT" });
  await assert.rejects(files.open(`${directory}/none`, "r+"), { code: "ENOENT" });
  assert.equal(await files.readWhole(`${directory}/none`), undefined);
  await files.remove(`${directory}/none`);

  const handle = await files.open(`${directory}/x`, "w");
  await handle.write(Uint8Array.of(1, 2, 3), 2);
  await handle.write(Uint8Array.of(9), 3);
  await handle.sync();
  assert.equal(await handle.size(), 5);
  const target = new Uint8Array(10);
  assert.equal(await handle.read(target, 1, 9, 1), 4);
  assert.deepEqual([...target], [0, 0, 1, 9, 3, 0, 0, 0, 0, 0]);
  assert.equal(await handle.read(target, 0, 10, 5), 0);
  await handle.truncate(3);
  await handle.truncate(4);
  await handle.close();
  assert.deepEqual([...((await files.readWhole(`${directory}/x`)) ?? [])], [0, 0, 1, 0]);

  await files.rename(`${directory}/x`, `${directory}/y`);
  await files.syncDirectory(directory);
  const again = await files.open(`${directory}/y`, "r+");
  await again.write(Uint8Array.of(7), 0);
  await again.close();
  const reader = await files.open(`${directory}/y`, "r");
  await assert.rejects(reader.write(Uint8Array.of(1), 0), { code: "EBADF" });
  await reader.close();
  assert.deepEqual([...((await files.readWhole(`${directory}/y`)) ?? [])], [7, 0, 1, 0]);
  await (await files.open(`${directory}/z`, "w")).close();
  assert.deepEqual(await files.list(directory), ["y", "z"]);
  await (await files.open(`${directory}/y`, "w")).close();
  assert.equal((await files.readWhole(`${directory}/y`))?.length, 0);
  await files.remove(`${directory}/y`);
  assert.deepEqual(await files.list(directory), ["z"]);
}

test("real files do what is expected of files", async () => {
  const root = await mkdtemp(join(tmpdir(), "real-files-"));
  try {
    await conform(new RealFiles(), root);
  } finally {
    await rm(root, { recursive: true });
  }
});

test("faulty files do it too, as long as no fault is ordered", () =>
  conform(new FaultyFiles({ random: () => 0 }), "/tenant"));
