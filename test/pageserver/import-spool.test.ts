/** What an archive holds is put aside before it is read in another order: the same from memory and from disk, and nothing is left. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { ErrorCode } from "../../src/base/errors.ts";
import { packDataDirectory } from "../../src/compute/data-directory.ts";
import { readDataDirectory } from "../../src/pageserver/basebackup/import.ts";
import { Spool } from "../../src/pageserver/basebackup/spool.ts";
import { FaultyFiles } from "../../src/storage/faulty-files.ts";
import { compareKeys } from "../../src/storage/key.ts";
import { TestPostgres } from "../support/postgres.ts";
import { SeededRandom } from "../support/random.ts";

const PATH = "/tenant/staging/out-1";

function pack(server: TestPostgres): AsyncIterable<Uint8Array> {
  return packDataDirectory(server.dataDir) as AsyncIterable<Uint8Array>;
}

/** All values, as one digest. */
async function digestOf(server: TestPostgres, spool: Spool): Promise<string> {
  const hash = createHash("sha256");
  let last: Parameters<typeof compareKeys>[0] | undefined;
  for await (const batch of (await readDataDirectory(pack(server), spool)).values) {
    for (const { key, bytes } of batch) {
      assert.ok(last === undefined || compareKeys(last, key) < 0);
      last = key;
      hash.update(JSON.stringify(key)).update(bytes);
    }
  }
  return hash.digest("hex");
}

test("a data directory is the same from memory and from disk", { timeout: 120_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using server = await TestPostgres.create({ start: false });
  const files = new FaultyFiles({ random: () => random.u32() });
  const digests: string[] = [];
  for (const memoryBytes of [1 << 30, random.below(10 << 20), 0]) {
    await using spool = new Spool(PATH, files, { memoryBytes });
    digests.push(await digestOf(server, spool));
    const put = (await files.readWhole(PATH))?.length ?? 0;
    assert.equal(put > 0, memoryBytes < 1 << 30);
    if (memoryBytes === 0) assert.ok(put > 10 << 20);
  }
  assert.equal(new Set(digests).size, 1);
  assert.equal(await files.readWhole(PATH), undefined, "it goes away");
});

test("an archive for which there is no room on the disk", { timeout: 120_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  await using server = await TestPostgres.create({ start: false });
  const files = new FaultyFiles({ random: () => random.u32(), capacityBytes: 8 << 20 });
  const spool = new Spool(PATH, files, { memoryBytes: 1 << 20 });
  await assert.rejects(digestOf(server, spool), {
    code: ErrorCode.Resource,
    message: /put an archive aside/,
  });
  await spool[Symbol.asyncDispose]();
  assert.deepEqual(await files.list("/tenant/staging"), []);
});

test("no more of an archive is read while the disk is behind", async (t) => {
  const random = SeededRandom.forTest(t);
  await using server = await TestPostgres.create({ start: false });
  const files = new FaultyFiles({ random: () => random.u32() });
  let put = 0;
  let most = 0;
  let taken = 0;
  const watched = Object.assign(Object.create(files) as FaultyFiles, {
    open: async (...args: Parameters<FaultyFiles["open"]>) => {
      const handle = await files.open(...args);
      const write = handle.write.bind(handle);
      handle.write = async (bytes, position) => {
        await write(bytes, position);
        put = position + bytes.length;
      };
      return handle;
    },
  });
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const chunk of pack(server)) {
      taken += chunk.length;
      most = Math.max(most, taken - put);
      yield chunk;
    }
  }
  await using spool = new Spool(PATH, watched, { memoryBytes: 0 });
  const { values } = await readDataDirectory(counted(), spool);
  for await (const batch of values) assert.ok(batch.length > 0);
  assert.ok(taken > 20 << 20);
  // Much of an archive is not wanted, and never written: the bytes behind count only up to what is missing in the end.
  assert.ok(most - (taken - put) < 4 << 20, `${most} bytes behind, ${taken - put} of them not wanted`);
});
