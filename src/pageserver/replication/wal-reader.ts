/**
 * Reads a timeline's WAL forward from an LSN, piece by piece: from the WAL log where it is there as it came, else put
 * together again from layers. Which of the two changes as segments are removed and logs are given up; the bytes do not.
 */
import { assert } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnAlignDown, lsnMin } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/constants.ts";
import type { RawWal, TimelineWal } from "../timeline/timeline-wal.ts";
import { rebuiltWal } from "./rebuilt-wal.ts";

/** Longest piece: as Postgres' MAX_SEND_SIZE. */
const PIECE_BYTES = 16 * PAGE_SIZE;

export interface WalPiece {
  readonly lsn: Lsn;
  /** The reader's to keep. Ends at the end of a page or of a record. */
  readonly bytes: Uint8Array;
}

export class WalReader {
  private readonly wal: TimelineWal;
  private at: Lsn;
  private rebuilt: AsyncGenerator<WalPiece> | undefined;

  constructor(wal: TimelineWal, fromLsn: Lsn) {
    this.wal = wal;
    this.at = fromLsn;
  }

  /** Where the next piece begins. */
  get position(): Lsn {
    return this.at;
  }

  /** The next piece; all of it is durable. `toLsn` is the end of a durable record behind the position. */
  async next(toLsn: Lsn): Promise<WalPiece> {
    assert(toLsn > this.at, "there is more to read");
    const piece = await this.read(toLsn);
    assert(piece.lsn === this.at && piece.bytes.length > 0, `WAL goes on at ${formatLsn(this.at)}`);
    this.at = lsnAdd(this.at, piece.bytes.length);
    return piece;
  }

  async close(): Promise<void> {
    await this.rebuilt?.return(undefined);
    this.rebuilt = undefined;
  }

  private async read(toLsn: Lsn): Promise<WalPiece> {
    for (;;) {
      const { raw } = this.wal;
      if (raw === undefined || raw.fromLsn > this.at) return this.readLayers(raw);
      await this.close();
      try {
        return await this.readLog(raw, toLsn);
      } catch (error) {
        // Meanwhile the segment may have been removed, or the log given up: then all of it is in layers.
        const now = this.wal.raw;
        if (now !== undefined && now.fromLsn <= this.at) throw error;
      }
    }
  }

  private async readLog(raw: RawWal, toLsn: Lsn): Promise<WalPiece> {
    const full = lsnAlignDown(lsnAdd(this.at, PIECE_BYTES), PAGE_SIZE);
    return { lsn: this.at, bytes: await raw.read(this.at, lsnMin(full, toLsn)) };
  }

  private async readLayers(raw: RawWal | undefined): Promise<WalPiece> {
    for (let isNew = false; ; isNew = true) {
      this.rebuilt ??= rebuiltWal(this.wal, this.at);
      const { value, done } = await this.rebuilt.next();
      if (done !== true) return raw === undefined ? value : this.upTo(value, raw.fromLsn);
      this.rebuilt = undefined;
      // The layers have grown since it was begun; but one that gives nothing at all would do so for ever.
      assert(!isNew, `the layers have WAL behind ${formatLsn(this.at)}`);
    }
  }

  /** What lies behind the LSN is read from the log. */
  private async upTo(piece: WalPiece, lsn: Lsn): Promise<WalPiece> {
    if (piece.lsn + piece.bytes.length <= lsn) return piece;
    await this.close();
    return { lsn: piece.lsn, bytes: piece.bytes.subarray(0, lsn - piece.lsn) };
  }
}
