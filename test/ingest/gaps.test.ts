/** Blocks behind the end of their relation. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { lsnAdd } from "../../src/base/lsn.ts";
import { GAP_BLOCKS_MAX } from "../../src/pageserver/ingest/ingest.ts";
import { Rmgr } from "../../src/postgres/constants.ts";
import type { WalRecord } from "../../src/postgres/wal/record.ts";
import { Lab } from "../pageserver/branch-harness.ts";
import { RELATION, block, bytes, makeRecord } from "../postgres/redo-builder.ts";
import { makeIngest } from "./support.ts";

test(
  "a block far behind the end of its relation is refused, with the place",
  { timeout: 300_000 },
  async () => {
    await using lab = new Lab();
    const ingest = await makeIngest(lab);
    const start = ingest.state.lastRecordLsn;
    const insert = (blockNumber: number, at: number): WalRecord => {
      const blocks = [block(0, blockNumber, { willInit: true, data: new Uint8Array(8) })];
      const spec = { rmgr: Rmgr.Heap, info: 0x80, blocks, main: bytes(1, 0, 0) };
      return makeRecord(spec, lsnAdd(start, at), lsnAdd(start, at + 64));
    };
    assert.throws(
      () => ingest.ingest(insert(GAP_BLOCKS_MAX + 1, 0)),
      (error) =>
        error instanceof NeonError && error.code === ErrorCode.Unsupported && error.data["blocks"] === 0,
    );
    assert.equal(ingest.state.lastRecordLsn, start);
    await ingest.ingest(insert(5000, 0));
    assert.throws(() => ingest.ingest(insert(0xffff_fffe, 64)), NeonError);
    const [spcOid, dbOid, relNumber] = RELATION;
    assert.equal(ingest.state.relations.find(spcOid, dbOid, relNumber)?.size(0), 5001);
  },
);
