/** When a compute can be verified, and why not. */
import assert from "node:assert/strict";
import { renameSync } from "node:fs";
import { after, before, describe, it } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { lsnAdd } from "../../src/base/lsn.ts";
import { readDirectoryState } from "../../src/compute/directory-setup.ts";
import { Seed, Workshop, kill, query } from "./support.ts";

async function notChecked(running: Promise<unknown>, pattern: RegExp): Promise<void> {
  await assert.rejects(running, (error) => {
    assert.ok(error instanceof NeonError && error.code === ErrorCode.NotChecked, String(error));
    assert.match(`${error.message} ${error.hint}`, pattern);
    return true;
  });
}

describe("verifying computes", { timeout: 300_000 }, () => {
  let seed: Seed;
  before(async () => {
    seed = await Seed.create();
  });
  after(() => seed[Symbol.dispose]());

  it("compares a directory that was stopped cleanly at the end of its branch, and no other", async () => {
    await using shop = await Workshop.create(seed);
    const { manager, pageserver } = shop;
    const info = await manager.create({ name: "main", branch: "main", commit: "remote", start: true });
    await query(info, "create table t as select 1 as one");
    await notChecked(manager.verify("main"), /it is running .*neon pg stop main/);

    await manager.stop("main");
    const end = readDirectoryState(info.pgdata)?.endLsn;
    const found = await manager.verify("main");
    assert.deepEqual(found, { pages: 1, differences: [], omitted: 0, lsn: end });
    assert.deepEqual(
      pageserver.compared.map(({ directory, lsn }) => [directory, lsn]),
      [[info.pgdata, end]],
    );

    // Somebody else has written to the branch.
    const branchEnd = pageserver.end;
    pageserver.end = lsnAdd(branchEnd, 64);
    await notChecked(manager.verify("main"), /its directory is of .* has gone on to .*neon pg start main/);
    pageserver.end = branchEnd;

    renameSync(info.pgdata, `${info.pgdata}.away`);
    await notChecked(manager.verify("main"), /no data directory/);
    renameSync(`${info.pgdata}.away`, info.pgdata);

    const again = await manager.start("main");
    assert.ok(again.pid);
    kill(again.pid);
    while ((await manager.get("main")).state === "running") await new Promise(setImmediate);
    await notChecked(manager.verify("main"), /it ended without being stopped/);
    await manager.stop("main");
    await notChecked(manager.verify("main"), /it was not stopped cleanly/);
    assert.equal(pageserver.compared.length, 1);
    await assert.rejects(manager.verify("nobody"), { code: ErrorCode.NotFound });
  });
});
