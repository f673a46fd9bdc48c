/**
 * Where every WAL record starts, so that any LSN can be rounded down to a record's end and so that the start of the
 * record before it (`xl_prev` of the next one) is known at any point in history.
 *
 * WAL is cut into windows of 64 KiB. A window's value is the list of record starts in it, as offsets into the window
 * divided by 8 (records are 8-aligned), u16 little-endian, ascending. Values are read at the end of the timeline that
 * wrote them: a window grows by being put again.
 *
 * A crash may cut off a record in the middle. Where Postgres goes on behind it, it declares the record abandoned. There
 * is no record then, but the one before ends where it began: so its start is in the list too, with bit 15 set. In lists
 * of LSNs it stands as an *abandoned* entry, 4 bytes before its place (a page header is there, or the record before).
 */
import { corrupt } from "../../base/errors.ts";
import { type Lsn, lsnAdd } from "../../base/lsn.ts";
import { RECORD_WINDOW_BYTES, windowOfLsn, windowStart } from "./keyspace.ts";

const STARTS_MAX = RECORD_WINDOW_BYTES / 8;
const ABANDONED_BIT = 0x8000;
const ABANDONED_DISTANCE = 4;

/** The entry of a list of starts for a record that began at `lsn` and has no end. */
export function abandonedEntry(lsn: Lsn): Lsn {
  return lsnAdd(lsn, -ABANDONED_DISTANCE);
}

export function isAbandoned(entry: Lsn): boolean {
  return entry % 8 === 8 - ABANDONED_DISTANCE;
}

/** Where the record of an entry starts, or would have. */
export function startOfEntry(entry: Lsn): Lsn {
  return isAbandoned(entry) ? lsnAdd(entry, ABANDONED_DISTANCE) : entry;
}

/** An entry as it is stored. */
function encodeEntry(entry: Lsn): number {
  const offset = (startOfEntry(entry) % RECORD_WINDOW_BYTES) / 8;
  return isAbandoned(entry) ? offset | ABANDONED_BIT : offset;
}

function decodeEntry(base: Lsn, stored: number): Lsn {
  const start = lsnAdd(base, (stored & ~ABANDONED_BIT) * 8);
  return (stored & ABANDONED_BIT) === 0 ? start : abandonedEntry(start);
}

/** The window that is being filled. */
export class OpenRecordWindow {
  private readonly starts = new Uint16Array(STARTS_MAX);
  private count = 0;
  private windowNumber = -1;
  private dirty = false;

  /** The window's number, -1 before the first record. */
  get window(): number {
    return this.windowNumber;
  }

  /** True if there are starts that no stored value has yet. */
  get unsaved(): boolean {
    return this.dirty;
  }

  /** Adds a record, or the entry of an abandoned one. The caller has saved the previous window when the record begins a new one. */
  add(startLsn: Lsn): void {
    const window = windowOfLsn(startLsn);
    if (window !== this.windowNumber) {
      this.windowNumber = window;
      this.count = 0;
    }
    this.starts[this.count++] = encodeEntry(startLsn);
    this.dirty = true;
  }

  /** Goes on with a window that was stored before. */
  resume(window: number, starts: readonly Lsn[]): void {
    this.windowNumber = window;
    this.count = 0;
    for (const start of starts) this.starts[this.count++] = encodeEntry(start);
    this.dirty = false;
  }

  /** The value to store now; the window counts as saved. */
  save(): Uint8Array {
    this.dirty = false;
    const bytes = new Uint8Array(this.count * 2);
    for (let i = 0; i < this.count; i++) {
      const start = this.starts[i] as number;
      bytes[2 * i] = start & 0xff;
      bytes[2 * i + 1] = start >> 8;
    }
    return bytes;
  }

  /** Starts in the open window, ascending. */
  list(): Lsn[] {
    const base = windowStart(Math.max(0, this.windowNumber));
    return Array.from(this.starts.subarray(0, this.count), (start) => decodeEntry(base, start));
  }
}

/** The record starts that a stored window holds, ascending, abandoned ones included. */
export function decodeRecordWindow(window: number, bytes: Uint8Array): Lsn[] {
  if (bytes.length % 2 !== 0 || bytes.length / 2 > STARTS_MAX) {
    throw corrupt(`record index of window ${window} has ${bytes.length} bytes`, {
      window,
      length: bytes.length,
    });
  }
  const base = windowStart(window);
  const starts: Lsn[] = [];
  let previous = -1;
  for (let i = 0; i < bytes.length; i += 2) {
    const start = (bytes[i] as number) | ((bytes[i + 1] as number) << 8);
    const offset = start & ~ABANDONED_BIT;
    if (offset <= previous || offset >= STARTS_MAX) {
      throw corrupt(`record index of window ${window} is not ascending at byte ${i}`, { window, offset: i });
    }
    previous = offset;
    starts.push(decodeEntry(base, start));
  }
  return starts;
}
