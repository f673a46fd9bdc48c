/**
 * WAL put together again from the records in layers, page after page as the compute wrote it: for what is not in the
 * WAL log any more. What lies before all history in its segment is void, declared to be the rest of an earlier record.
 */
import { type Lsn, lsnAdd, lsnMax } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import { WalLayout } from "../../postgres/wal/lay-out.ts";
import type { TimelineWal } from "../timeline/timeline-wal.ts";
import { layOut, storedRecords } from "../verify/stored-wal.ts";
import type { WalPiece } from "./wal-reader.ts";

/** Records gathered at a time; for each window the layers are read once. */
const WINDOW_BYTES = 16 * 1024 * 1024;
/** Bytes handed on at a time. */
const PIECE_BYTES = 16 * PAGE_SIZE;

/**
 * From an LSN, which may lie below the floor in its segment, to where the layers end. Pieces end at a page boundary or
 * at the end of a record.
 */
export async function* rebuiltWal(wal: TimelineWal, fromLsn: Lsn): AsyncGenerator<WalPiece> {
  const { segmentSize, systemId, pgVersion } = wal.cluster;
  const first = lsnMax(fromLsn, wal.floorLsn);
  let last = await wal.recordBoundary(first);
  const pieces = new Pieces(fromLsn);
  const layout = new WalLayout(
    {
      magic: pgVersion.walPageMagic,
      segmentSize,
      systemId,
      timeline: await wal.timelineNumber(),
      startLsn: last.endLsn,
    },
    (lsn, page) => pieces.add(lsn, page),
  );
  for (const { store, toLsn } of await wal.sections(last.endLsn)) {
    if (toLsn <= last.endLsn) continue;
    const span = { store, segmentSize, from: last, toLsn, windowBytes: WINDOW_BYTES };
    for await (const batch of storedRecords(span)) {
      for (const record of batch) {
        layOut(layout, record, last.endLsn, segmentSize);
        last = { previousLsn: record.startLsn, endLsn: record.endLsn };
        if (pieces.full) yield* pieces.take();
      }
    }
  }
  // Behind a switch to the next segment the rest is void.
  layout.skipTo(last.endLsn);
  const { lsn, bytes } = layout.unfinished;
  pieces.add(lsn, bytes);
  yield* pieces.take();
}

/** Copies pages into pieces, from an LSN on. */
class Pieces {
  private readonly ready: WalPiece[] = [];
  private buffer = new Uint8Array(PIECE_BYTES);
  private used = 0;
  private startLsn: Lsn;

  constructor(startLsn: Lsn) {
    this.startLsn = startLsn;
  }

  get full(): boolean {
    return this.ready.length > 0;
  }

  add(lsn: Lsn, page: Uint8Array): void {
    const skipped = Math.max(0, this.startLsn + this.used - lsn);
    if (skipped >= page.length) return;
    const bytes = page.subarray(skipped);
    this.buffer.set(bytes, this.used);
    this.used += bytes.length;
    if (this.used + PAGE_SIZE > PIECE_BYTES) this.cut();
  }

  *take(): Generator<WalPiece> {
    this.cut();
    yield* this.ready.splice(0);
  }

  private cut(): void {
    if (this.used === 0) return;
    this.ready.push({ lsn: this.startLsn, bytes: this.buffer.subarray(0, this.used) });
    this.startLsn = lsnAdd(this.startLsn, this.used);
    this.buffer = new Uint8Array(PIECE_BYTES);
    this.used = 0;
  }
}
