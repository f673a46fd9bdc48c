/**
 * Where valid WAL ends. After a crash a segment file goes on with zeros, with half a record or with bytes of an
 * earlier use; whatever is not a complete, linked, checksummed record is not WAL, and that is no error.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { WalStream, type WalStreamOptions } from "./stream.ts";

export interface EndOfWal {
  /** End of the last complete record; `startLsn` when there is none. */
  readonly endLsn: Lsn;
  /** Start of that record; the given `previousLsn` (or 0/0) when there is none. */
  readonly previousLsn: Lsn;
  /** Complete records found. */
  readonly recordCount: number;
  /** What is wrong with the bytes behind the end; undefined when there are none, or part of a record. */
  readonly invalid: NeonError | undefined;
}

/** Finds the end from bytes that are pushed. */
export class EndOfWalScan {
  private readonly stream: WalStream;
  private recordCount = 0;
  private invalid: NeonError | undefined;

  constructor(options: WalStreamOptions) {
    this.stream = new WalStream(options);
  }

  /** The LSN of the byte wanted next. */
  get wantedLsn(): Lsn {
    return this.stream.fedLsn;
  }

  /** Looks at the bytes at `wantedLsn`; false once the end is found and more bytes are of no use. */
  feed(bytes: Uint8Array): boolean {
    if (this.invalid) return false;
    try {
      this.stream.feed(this.stream.fedLsn, bytes);
      while (this.stream.next()) this.recordCount++;
      return true;
    } catch (error) {
      if (!(error instanceof NeonError) || error.code !== ErrorCode.Corrupt) throw error;
      this.invalid = error;
      return false;
    }
  }

  /** The end as far as bytes were fed. */
  get result(): EndOfWal {
    return {
      endLsn: this.stream.position,
      previousLsn: this.stream.previousLsn,
      recordCount: this.recordCount,
      invalid: this.invalid,
    };
  }
}

/**
 * Finds the end by reading from `options.startLsn` on. `read` returns some bytes at an LSN, or none (undefined or
 * empty) when it has none there; bytes must stay unchanged until it is called again.
 */
export async function findEndOfWal(
  options: WalStreamOptions,
  read: (lsn: Lsn) => Promise<Uint8Array | undefined> | Uint8Array | undefined,
): Promise<EndOfWal> {
  const scan = new EndOfWalScan(options);
  for (;;) {
    const bytes = await read(scan.wantedLsn);
    if (!bytes || bytes.length === 0 || !scan.feed(bytes)) return scan.result;
  }
}
