/**
 * Damaged WAL for as long as NEON_FUZZ_SECONDS says (40 when it says nothing): random bytes, flipped bits with checksums made
 * right again, pieces cut off and put elsewhere, through the decoder; damaged records through everything that reads them,
 * redo first of all. Whatever comes, there is a record or a typed error with its place, soon, with little memory, and never
 * a byte written beside a page.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32cUpdate } from "../../src/base/crc32c.ts";
import { NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { CheckpointState } from "../../src/pageserver/ingest/checkpoint-state.ts";
import { redoCheckpointState } from "../../src/pageserver/ingest/checkpoint-redo.ts";
import { checkSupported } from "../../src/pageserver/ingest/ingest-rmgr.ts";
import { PAGE_SIZE, Rmgr } from "../../src/postgres/constants.ts";
import { PageBuffer } from "../../src/postgres/page/layout.ts";
import { redoBlock } from "../../src/postgres/redo/apply.ts";
import {
  clogPagesOfXact,
  clogTruncation,
  clogZeroedPage,
  redoClogPage,
} from "../../src/postgres/redo/clog.ts";
import {
  commitTsPagesOfXact,
  commitTsTruncation,
  redoCommitTsPage,
} from "../../src/postgres/redo/commit-ts.ts";
import { RedoContext } from "../../src/postgres/redo/context.ts";
import {
  multixactMemberPages,
  multixactOffsetPages,
  multixactTruncation,
  redoMultixactMembersPage,
  redoMultixactOffsetsPage,
} from "../../src/postgres/redo/multixact.ts";
import { forEachImplicitVisibilityClear } from "../../src/postgres/redo/visibility.ts";
import { parseXactRecord } from "../../src/postgres/redo/xact.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import type { PgVersion } from "../../src/postgres/versions/version.ts";
import { SUPPORTED_VERSIONS } from "../../src/postgres/versions/versions.ts";
import { decodeRecord } from "../../src/postgres/wal/decode-record.ts";
import { restoreBlockImage } from "../../src/postgres/wal/image.ts";
import { WalRecord } from "../../src/postgres/wal/record.ts";
import { WalStream } from "../../src/postgres/wal/stream.ts";
import { SeededRandom } from "../support/random.ts";
import { type Corpus, type WalPiece, makeCorpus } from "./fuzz-corpus.ts";
import { fuzzIngest } from "./fuzz-ingest.ts";
import { damage, damagedRecord, fuzz, isTyped } from "./fuzz.ts";

const GUARD_SIZE = 64;
const GUARD_BYTE = 0xa5;

/** Makes the checksum of the record at an offset right; it must lie within one page. */
function sealAgain(bytes: Uint8Array, at: number): void {
  if (bytes.length - at < 24) return;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const length = view.getUint32(at, true);
  if (length < 24 || at + length > bytes.length) return;
  const state = crc32cUpdate(crc32cUpdate(-1, bytes, at + 24, at + length), bytes, at, at + 20);
  view.setUint32(at + 20, (state ^ -1) >>> 0, true);
}

/** Feeds bytes in random pieces; everything about the outcome that must always hold. */
function decodeAll(random: SeededRandom, piece: WalPiece, bytes: Uint8Array, startLsn: number): number {
  const stream = new WalStream({ ...piece.options, startLsn: toLsn(startLsn) });
  let records = 0;
  let last = startLsn;
  const chunk = random.pick([bytes.length, bytes.length, 8192, 8191, 1000, 61]);
  for (let at = 0; at < bytes.length; at += chunk) {
    const part = bytes.subarray(at, at + chunk);
    try {
      stream.feed(toLsn(startLsn + at), part);
      for (let record = stream.next(); record; record = stream.next()) {
        assert.ok(record.lsn >= last && record.endLsn > record.lsn);
        assert.ok(record.offset >= 0 && record.offset + record.length <= record.bytes.length);
        last = record.lsn;
        records++;
      }
    } catch (error) {
      if (!isTyped(error)) throw error;
      assert.ok(error instanceof NeonError && typeof error.data["lsn"] === "string", String(error));
      assert.throws(
        () => stream.next(),
        (again) => again === error,
        "a failed stream stays failed",
      );
      break;
    }
  }
  assert.ok(stream.position >= startLsn);
  return records;
}

/** Some pages of real WAL from the start of a record on, damaged in one of several ways. */
function damagedPiece(
  random: SeededRandom,
  corpus: Corpus,
): { piece: WalPiece; bytes: Uint8Array; start: number } {
  const piece = random.pick(corpus.pieces);
  const from = random.pick(piece.starts);
  const length = random.between(1, 6) * PAGE_SIZE;
  const bytes = piece.bytes.slice(from, from + length);
  const start = piece.options.startLsn + from;
  switch (random.below(6)) {
    case 0:
      damage(random, bytes, 0, bytes.length);
      break;
    case 1: {
      // A record in one piece, whose checksum is made right.
      damage(random, bytes, 0, Math.min(bytes.length, 200));
      sealAgain(bytes, 0);
      break;
    }
    case 2:
      // Something from elsewhere.
      bytes.set(random.pick(corpus.pieces).bytes.subarray(0, random.below(bytes.length)), 0);
      break;
    case 3: {
      // Moved by some bytes.
      const at = random.below(bytes.length);
      bytes.copyWithin(at, random.below(bytes.length));
      break;
    }
    case 4:
      bytes.fill(random.pick([0, 0xff]), random.below(bytes.length));
      break;
    default: {
      const at = random.below(bytes.length);
      bytes.set(random.bytes(Math.min(64, bytes.length - at)), at);
    }
  }
  return { piece, bytes: random.chance(0.3) ? bytes.subarray(0, random.below(bytes.length)) : bytes, start };
}

/** Redo into a page between two guards. */
class Target {
  readonly page: PageBuffer;
  private readonly memory = new Uint8Array(PAGE_SIZE + 2 * GUARD_SIZE).fill(GUARD_BYTE);

  constructor() {
    this.page = new PageBuffer(this.memory.subarray(GUARD_SIZE, GUARD_SIZE + PAGE_SIZE));
  }

  check(): void {
    for (let i = 0; i < GUARD_SIZE; i++) {
      assert.equal(this.memory[i], GUARD_BYTE);
      assert.equal(this.memory[GUARD_SIZE + PAGE_SIZE + i], GUARD_BYTE);
    }
  }
}

/** Everything that reads records: what each says is a typed error, or nothing. */
class Readers {
  applied = 0;
  refused = 0;
  private readonly target = new Target();
  private readonly slru = new Target();
  private readonly image = new Target();
  private readonly context = new Map(
    SUPPORTED_VERSIONS.map((version) => [version, new RedoContext({ version, hintBitsLogged: true })]),
  );

  try(read: () => void): void {
    try {
      read();
      this.applied++;
    } catch (error) {
      if (!isTyped(error)) throw error;
      this.refused++;
    }
    this.target.check();
    this.slru.check();
    this.image.check();
  }

  all(record: WalRecord, page: Uint8Array | undefined, blockIndex: number, version: PgVersion): void {
    this.try(() => {
      checkSupported(record, version);
    });
    for (let i = 0; i < record.blockCount; i++) {
      const block = record.blocks[i];
      if (!block?.hasImage) continue;
      this.try(() => {
        restoreBlockImage(record, block, version, this.image.page.bytes);
      });
    }
    if (blockIndex < record.blockCount) {
      if (page) this.target.page.bytes.set(page);
      else this.target.page.bytes.fill(0);
      this.try(() => {
        redoBlock(this.target.page, record, blockIndex, this.context.get(version) as RedoContext);
      });
    }
    this.try(() => {
      forEachImplicitVisibilityClear(record, () => undefined);
    });
    this.try(() => {
      redoCheckpointState(new CheckpointState(), record, version);
    });
    this.slrus(record, version);
  }

  private slrus(record: WalRecord, version: PgVersion): void {
    const { bytes } = this.slru.page;
    this.try(() => {
      clogTruncation(record, version);
      commitTsTruncation(record, version);
      multixactTruncation(record);
      const zeroed = clogZeroedPage(record, version);
      if (zeroed !== undefined) redoClogPage(bytes, zeroed, record, version);
    });
    if (record.rmgr === Rmgr.Xact)
      this.try(() => {
        const xact = parseXactRecord(record, version);
        clogPagesOfXact(xact, (number) => {
          redoClogPage(bytes, number, record, version);
        });
        commitTsPagesOfXact(xact, (number) => {
          redoCommitTsPage(bytes, number, record, version);
        });
      });
    if (record.rmgr === Rmgr.Multixact)
      this.try(() => {
        multixactOffsetPages(record, version, (number) => {
          redoMultixactOffsetsPage(bytes, number, record, version);
        });
        multixactMemberPages(record, version, (number) => {
          redoMultixactMembersPage(bytes, number, record, version);
        });
      });
  }
}

test("damaged WAL: records or typed errors, soon, with little memory", { timeout: 3_600_000 }, async (t) => {
  const random = SeededRandom.forTest(t);
  const corpus = await makeCorpus(random);
  t.diagnostic(
    `${corpus.samples.length} records, ${corpus.pieces.map((piece) => piece.bytes.length).join(" and ")} bytes of WAL`,
  );
  assert.ok(corpus.samples.length > 500 && corpus.pieces.every((piece) => piece.starts.length > 1000));

  await t.test("random bytes", async (sub) => {
    await fuzz(sub, 0.1, random.seed, () => {
      const piece = random.pick(corpus.pieces);
      const bytes = random.bytes(random.between(0, 20_000));
      const start = piece.options.startLsn + random.below(1000) * 8;
      // Let in by the header of the first page, now and then.
      const header = piece.bytes.subarray(PAGE_SIZE, PAGE_SIZE + 24);
      if (start % PAGE_SIZE === 0 && bytes.length >= header.length && random.chance(0.5)) bytes.set(header);
      decodeAll(random, piece, bytes, start);
    });
  });

  await t.test("real WAL, damaged", async (sub) => {
    let records = 0;
    const steps = await fuzz(sub, 0.4, random.seed, () => {
      const { piece, bytes, start } = damagedPiece(random, corpus);
      records += decodeAll(random, piece, bytes, start);
    });
    sub.diagnostic(`${records} records decoded`);
    assert.ok(records > steps, "most of the WAL before the damage is good");
  });

  await t.test("damaged records through everything that reads them", async (sub) => {
    const readers = new Readers();
    await fuzz(sub, 0.4, random.seed, () => {
      const sample = random.pick(corpus.samples);
      const version = random.chance(0.8) ? sample.version : random.pick(SUPPORTED_VERSIONS);
      const record = damagedRecord(random, sample, version);
      if (record === undefined) return;
      // Its own page, or that of quite another record.
      let page = random.chance(0.7) ? sample.page : random.pick(corpus.samples).page;
      if (page !== undefined && random.chance(0.5)) {
        page = page.slice();
        damage(random, page, 0, random.pick([24, 100, PAGE_SIZE]));
      }
      const index = random.chance(0.9) ? sample.blockIndex : random.below(record.blockCount + 1);
      readers.all(record, page, index, version);
    });
    sub.diagnostic(`${readers.applied} taken, ${readers.refused} refused`);
    assert.ok(readers.applied > 100 && readers.refused > 100);
  });

  await t.test("damaged records through ingest", (sub) =>
    fuzzIngest(sub, 0.1, { random, samples: corpus.samples }),
  );
});

test("records whose every field is random", { timeout: 3_600_000 }, (t) => {
  const random = SeededRandom.forTest(t);
  const readers = new Readers();
  const record = new WalRecord();
  for (let i = 0; i < 20_000; i++) {
    const main = random.bytes(random.below(120));
    const data = random.bytes(random.below(200));
    const bytes = new Uint8Array(24 + 20 + 2 + data.length + main.length);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, bytes.length, true);
    bytes[16] = random.below(16) << 4;
    bytes[17] = random.below(22);
    bytes.set([0, random.pick([0x20, 0x60, 0x22]), data.length & 255, data.length >> 8], 24);
    bytes.set(random.bytes(16), 28);
    bytes.set([255, main.length], 44);
    bytes.set(data, 46);
    bytes.set(main, 46 + data.length);
    try {
      decodeRecord(record, bytes, view, 0, bytes.length, POSTGRES_17);
    } catch (error) {
      if (isTyped(error)) continue;
      throw error;
    }
    readers.all(record, random.chance(0.5) ? random.bytes(PAGE_SIZE) : undefined, 0, POSTGRES_17);
  }
  assert.ok(readers.applied > 1000 && readers.refused > 1000);
});
