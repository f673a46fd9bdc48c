/**
 * The counters and settings that Postgres keeps in its checkpoints and in pg_control, followed record by record:
 * what a start-up after replaying exactly this much WAL would have computed.
 *
 * It is kept in the store like a page: an image now and then, and in between the records that change it; reading it
 * at an LSN applies the same `apply` again. Xids are 32-bit and compared modulo 2^32; the epoch is counted.
 *
 * Stored form (little-endian, 92 bytes):
 *   offset  size  field
 *        0     4  version of this layout (1)
 *        4     4  timelineNumber
 *        8     4  nextXidEpoch
 *       12     4  nextXid
 *       16     4  nextOid
 *       20     4  nextMulti
 *       24     4  nextMultiOffset
 *       28     4  oldestXid
 *       32     4  oldestXidDb
 *       36     4  oldestMulti
 *       40     4  oldestMultiDb
 *       44     4  oldestCommitTsXid
 *       48     4  newestCommitTsXid
 *       52     8  timeUnixSeconds (signed)
 *       60     4  maxConnections
 *       64     4  maxWorkerProcesses
 *       68     4  maxWalSenders
 *       72     4  maxPreparedTransactions
 *       76     4  maxLocksPerTransaction
 *       80     4  walLevel
 *       84     1  walLogHints
 *       85     1  trackCommitTimestamp
 *       86     1  fullPageWrites
 *       87     5  (zero)
 */
import { ByteReader, ByteWriter } from "../../base/bytes.ts";
import { assert, corrupt } from "../../base/errors.ts";
import type { CheckPoint } from "../../postgres/checkpoint.ts";

const LAYOUT_VERSION = 1;
const STORED_SIZE = 92;
const FIRST_NORMAL_XID = 3;

/** Fields in the order in which they are stored: u32, after the time i32, then bytes. */
const COUNTERS = [
  "timelineNumber",
  "nextXidEpoch",
  "nextXid",
  "nextOid",
  "nextMulti",
  "nextMultiOffset",
  "oldestXid",
  "oldestXidDb",
  "oldestMulti",
  "oldestMultiDb",
  "oldestCommitTsXid",
  "newestCommitTsXid",
] as const;
const LIMITS = [
  "maxConnections",
  "maxWorkerProcesses",
  "maxWalSenders",
  "maxPreparedTransactions",
  "maxLocksPerTransaction",
  "walLevel",
] as const;
const SWITCHES = ["walLogHints", "trackCommitTimestamp", "fullPageWrites"] as const;

/** Modulo-2^32 order of xids and multixact ids: negative if `a` is older. */
export function compareXids(a: number, b: number): number {
  return (a - b) | 0;
}

export class CheckpointState {
  timelineNumber = 1;
  nextXidEpoch = 0;
  nextXid = FIRST_NORMAL_XID;
  nextOid = 0;
  nextMulti = 1;
  nextMultiOffset = 0;
  oldestXid = FIRST_NORMAL_XID;
  oldestXidDb = 0;
  oldestMulti = 1;
  oldestMultiDb = 0;
  oldestCommitTsXid = 0;
  newestCommitTsXid = 0;
  timeUnixSeconds = 0;
  maxConnections = 0;
  maxWorkerProcesses = 0;
  maxWalSenders = 0;
  maxPreparedTransactions = 0;
  maxLocksPerTransaction = 0;
  walLevel = 0;
  walLogHints = false;
  trackCommitTimestamp = false;
  fullPageWrites = true;

  /** The next xid with its epoch. */
  get nextFullXid(): bigint {
    return (BigInt(this.nextXidEpoch) << 32n) | BigInt(this.nextXid);
  }

  /**
   * The epoch of an xid that was given out lately, perhaps in the record that is about to be applied. Throws `corrupt`
   * for one from before the first epoch.
   */
  epochOf(xid: number): number {
    if (compareXids(xid, this.nextXid) < 0) {
      const epoch = xid > this.nextXid ? this.nextXidEpoch - 1 : this.nextXidEpoch;
      if (epoch < 0) throw corrupt(`xid ${xid} cannot have been given out yet`, { xid });
      return epoch;
    }
    return xid < this.nextXid ? this.nextXidEpoch + 1 : this.nextXidEpoch;
  }

  /** Moves the next xid past one that was seen. True if it moved. */
  advancePastXid(xid: number): boolean {
    if (xid < FIRST_NORMAL_XID || compareXids(xid, this.nextXid) < 0) return false;
    const next = (xid + 1) >>> 0;
    // Ids below 3 are special: after 2^32 - 1 comes 3, in the next epoch.
    const normal = next < FIRST_NORMAL_XID ? FIRST_NORMAL_XID : next;
    if (normal < this.nextXid) this.nextXidEpoch++;
    this.nextXid = normal;
    return true;
  }

  /** Moves the next multixact id and member offset forward, never back. True if either moved. */
  advanceMultis(nextMulti: number, nextMultiOffset: number): boolean {
    let moved = false;
    if (compareXids(this.nextMulti, nextMulti) < 0) {
      this.nextMulti = nextMulti;
      moved = true;
    }
    if (compareXids(this.nextMultiOffset, nextMultiOffset) < 0) {
      this.nextMultiOffset = nextMultiOffset;
      moved = true;
    }
    return moved;
  }

  /** Begins or ends to keep times of commits. Those from before the beginning are not there to be asked for. */
  switchCommitTimestamps(on: boolean): void {
    if (on && this.oldestCommitTsXid === 0) {
      this.oldestCommitTsXid = this.nextXid;
      this.newestCommitTsXid = this.nextXid;
    }
    if (!on) {
      this.oldestCommitTsXid = 0;
      this.newestCommitTsXid = 0;
    }
    this.trackCommitTimestamp = on;
  }

  /** Takes note of the time of a commit, if times are kept; `xid` 0 is none. True if it is the newest. */
  advanceNewestCommitTs(xid: number): boolean {
    if (!this.trackCommitTimestamp || xid === 0) return false;
    if (this.newestCommitTsXid !== 0 && compareXids(this.newestCommitTsXid, xid) >= 0) return false;
    this.newestCommitTsXid = xid;
    return true;
  }

  /** Takes a shutdown checkpoint, which says how everything is. */
  assign(checkPoint: CheckPoint): void {
    this.timelineNumber = checkPoint.timeline;
    this.fullPageWrites = checkPoint.fullPageWrites;
    this.setNextFullXid(checkPoint.nextXid);
    this.nextOid = checkPoint.nextOid;
    this.nextMulti = checkPoint.nextMulti;
    this.nextMultiOffset = checkPoint.nextMultiOffset;
    this.oldestXid = checkPoint.oldestXid;
    this.oldestXidDb = checkPoint.oldestXidDb;
    this.oldestMulti = checkPoint.oldestMulti;
    this.oldestMultiDb = checkPoint.oldestMultiDb;
    this.oldestCommitTsXid = checkPoint.oldestCommitTsXid;
    this.newestCommitTsXid = checkPoint.newestCommitTsXid;
    this.timeUnixSeconds = checkPoint.timeSeconds;
  }

  /** Takes an online checkpoint, whose counters are lower bounds and whose next OID is not to be used. */
  advance(checkPoint: CheckPoint): void {
    if (checkPoint.nextXid > this.nextFullXid) this.setNextFullXid(checkPoint.nextXid);
    this.advanceMultis(checkPoint.nextMulti, checkPoint.nextMultiOffset);
    if (compareXids(this.oldestXid, checkPoint.oldestXid) < 0) {
      this.oldestXid = checkPoint.oldestXid;
      this.oldestXidDb = checkPoint.oldestXidDb;
    }
    if (compareXids(this.oldestMulti, checkPoint.oldestMulti) < 0) {
      this.oldestMulti = checkPoint.oldestMulti;
      this.oldestMultiDb = checkPoint.oldestMultiDb;
    }
    this.timeUnixSeconds = checkPoint.timeSeconds;
  }

  private setNextFullXid(full: bigint): void {
    this.nextXidEpoch = Number(full >> 32n);
    this.nextXid = Number(full & 0xffffffffn);
  }

  encode(): Uint8Array {
    const writer = new ByteWriter(STORED_SIZE).u32le(LAYOUT_VERSION);
    for (const field of COUNTERS) writer.u32le(this[field]);
    writer.i64le(BigInt(this.timeUnixSeconds));
    for (const field of LIMITS) writer.i32le(this[field]);
    for (const field of SWITCHES) writer.u8(Number(this[field]));
    writer.zeros(5);
    assert(writer.length === STORED_SIZE, `checkpoint state is ${writer.length} bytes`);
    return writer.finish();
  }

  static decode(bytes: Uint8Array): CheckpointState {
    const reader = new ByteReader(bytes);
    const layout = reader.u32le();
    if (layout !== LAYOUT_VERSION || bytes.length !== STORED_SIZE) {
      throw corrupt(`checkpoint state of layout ${layout}, ${bytes.length} bytes`, {
        layout,
        length: bytes.length,
      });
    }
    const state = new CheckpointState();
    for (const field of COUNTERS) state[field] = reader.u32le();
    state.timeUnixSeconds = Number(reader.i64le());
    for (const field of LIMITS) state[field] = reader.i32le();
    for (const field of SWITCHES) state[field] = reader.u8() !== 0;
    return state;
  }
}
