/**
 * Damages records of a real server and applies them to real pages: whatever comes, redo either applies it or says
 * `corrupt` or `unsupported`, and never touches a byte outside of the page.
 */
import assert from "node:assert/strict";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { PAGE_SIZE } from "../../src/postgres/constants.ts";
import { PageBuffer } from "../../src/postgres/page/layout.ts";
import { redoBlock } from "../../src/postgres/redo/apply.ts";
import { RedoContext } from "../../src/postgres/redo/context.ts";
import { POSTGRES_17 } from "../../src/postgres/versions/postgres-17.ts";
import { decodeRecord } from "../../src/postgres/wal/decode-record.ts";
import { WalRecord } from "../../src/postgres/wal/record.ts";
import type { SeededRandom } from "../support/random.ts";

const GUARD_SIZE = 64;
const GUARD_BYTE = 0xa5;
/** One block out of so many is tried. */
const OBSERVE_EACH = 7;

export class RecordMangler {
  applied = 0;
  refused = 0;
  private observed = 0;
  private readonly random: SeededRandom;
  private readonly context: RedoContext;
  private readonly memory = new Uint8Array(PAGE_SIZE + 2 * GUARD_SIZE).fill(GUARD_BYTE);
  private readonly page = new PageBuffer(this.memory.subarray(GUARD_SIZE, GUARD_SIZE + PAGE_SIZE));
  private readonly record = new WalRecord();

  constructor(random: SeededRandom, hintBitsLogged: boolean, version = POSTGRES_17) {
    this.random = random;
    this.context = new RedoContext({ version, hintBitsLogged });
  }

  observe(record: WalRecord, blockIndex: number, page: PageBuffer): void {
    if (this.observed++ % OBSERVE_EACH !== 0) return;
    this.page.bytes.set(page.bytes);
    if (this.random.chance(0.3)) this.damagePage();
    const damaged = this.damage(record);
    if (damaged === undefined || blockIndex >= damaged.blockCount) return;
    try {
      redoBlock(this.page, damaged, blockIndex, this.context);
      this.applied++;
    } catch (error) {
      this.refused++;
      this.checkError(error);
    }
    for (let i = 0; i < GUARD_SIZE; i++) {
      assert.equal(this.memory[i], GUARD_BYTE);
      assert.equal(this.memory[GUARD_SIZE + PAGE_SIZE + i], GUARD_BYTE);
    }
  }

  private checkError(error: unknown): void {
    if (!(error instanceof NeonError)) throw error;
    assert(error.code === ErrorCode.Corrupt || error.code === ErrorCode.Unsupported, error.code);
    for (const field of ["rmgr", "info", "lsn"]) assert(error.data[field] !== undefined, error.message);
  }

  /** Changes header fields, line pointers or any bytes. */
  private damagePage(): void {
    const { random } = this;
    const area = random.pick([24, 60, PAGE_SIZE]);
    for (let i = random.between(1, 3); i > 0; i--) this.page.bytes[random.below(area)] = random.below(256);
    if (random.chance(0.2)) this.page.bytes[PAGE_SIZE - 1 - random.below(16)] = random.below(256);
  }

  /** A copy with some bytes behind the fixed header changed, or with the main data cut; undefined if undecodable. */
  private damage(original: WalRecord): WalRecord | undefined {
    const { random, record } = this;
    const bytes = original.bytes.slice(original.offset, original.offset + original.length);
    const view = new DataView(bytes.buffer);
    if (random.chance(0.1)) bytes[16] = random.below(256);
    for (let i = random.between(0, 3); i > 0; i--) {
      // Mostly what redo reads, which comes last; images are long and of no interest.
      const reach = random.pick([8, 40, bytes.length - 24]);
      const at = bytes.length - 1 - random.below(Math.min(reach, bytes.length - 24));
      bytes[at] = random.chance(0.5) ? random.below(256) : random.pick([0, 1, 255]);
    }
    try {
      decodeRecord(record, bytes, view, 0, bytes.length, this.context.version);
    } catch (error) {
      if (error instanceof NeonError) return undefined;
      throw error;
    }
    record.lsn = original.lsn;
    record.endLsn = original.endLsn;
    if (random.chance(0.2)) record.mainLength = random.below(record.mainLength + 1);
    for (const block of record.blocks.slice(0, record.blockCount)) {
      if (random.chance(0.2)) block.dataLength = random.below(block.dataLength + 1);
      // What consistency checking adds is not what redo should lean on.
      if (random.chance(0.1)) block.willInit = !block.willInit;
    }
    return record;
  }
}
