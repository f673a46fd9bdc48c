/** Which records of a timeline are on disk, who waits for that, and when the next sync is due. */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";

/** The part of the WAL log that is needed here. */
interface SyncedLog {
  /** Makes everything appended so far durable; resolves with the end of what is. Calls are coalesced. */
  sync(): Promise<Lsn>;
}

interface Waiter {
  readonly lsn: Lsn;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

export class Durability {
  private durable: Lsn;
  private readonly onError: (error: unknown) => void;
  /** Ends of raw WAL and of the complete records in it, not yet known to be on disk. */
  private readonly taken: { rawEnd: Lsn; recordEnd: Lsn }[] = [];
  private readonly listeners = new Set<() => void>();
  private readonly waiters = new Set<Waiter>();
  private syncing = false;
  private syncAgain = false;
  private failure: Error | undefined;

  /** `onError` is told of a sync that failed. */
  constructor(durable: Lsn, onError: (error: unknown) => void) {
    this.durable = durable;
    this.onError = onError;
  }

  /** End of the complete records that are on disk. */
  get lsn(): Lsn {
    return this.durable;
  }

  /** What was replayed from disk is durable. The torn end of it is no failure, so `failure` is what counts now. */
  startAt(lsn: Lsn, failure: Error | undefined): void {
    this.durable = lsn;
    this.failure = failure;
  }

  onDurable(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Raw WAL up to `rawEnd` was appended, with complete records up to `recordEnd`: has them synced. */
  add(log: SyncedLog, rawEnd: Lsn, recordEnd: Lsn): void {
    this.taken.push({ rawEnd, recordEnd });
    this.requestSync(log);
  }

  /** What was appended but is not durable has been thrown away. */
  forgetTaken(): void {
    this.taken.length = 0;
  }

  /** Resolves when everything up to `lsn` is on disk; rejects when that cannot come any more. */
  waitFor(lsn: Lsn, timeoutMs: number): Promise<void> {
    if (this.durable >= lsn) return Promise.resolve();
    if (this.failure && !this.isComing(lsn)) return Promise.reject(this.failure);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.waiters.delete(waiter);
        reject(timedOut(lsn, this.durable, timeoutMs));
      }, timeoutMs);
      const waiter: Waiter = {
        lsn,
        resolve: () => {
          clearTimeout(timer);
          resolve();
        },
        reject: (error) => {
          clearTimeout(timer);
          reject(error);
        },
      };
      this.waiters.add(waiter);
    });
  }

  /** Nothing more is added: whoever waits for what is not being synced already is told why. */
  fail(error: Error): void {
    this.failure = error;
    this.settle();
  }

  private requestSync(log: SyncedLog): void {
    if (this.syncing) {
      this.syncAgain = true;
      return;
    }
    this.syncing = true;
    log.sync().then(
      (rawDurable) => {
        this.syncing = false;
        this.advance(rawDurable);
        if (!this.syncAgain) return;
        this.syncAgain = false;
        this.requestSync(log);
      },
      (error: unknown) => {
        this.syncing = false;
        this.taken.length = 0;
        if (this.failure === undefined) this.onError(error);
        else this.settle();
      },
    );
  }

  private advance(rawDurable: Lsn): void {
    let covered = 0;
    for (const { rawEnd, recordEnd } of this.taken) {
      if (rawEnd > rawDurable) break;
      covered++;
      if (recordEnd > this.durable) this.durable = recordEnd;
    }
    this.taken.splice(0, covered);
    if (covered > 0) this.settle();
  }

  private isComing(lsn: Lsn): boolean {
    return this.syncing && this.taken.some((taken) => taken.recordEnd >= lsn);
  }

  private settle(): void {
    for (const waiter of this.waiters) {
      if (this.durable >= waiter.lsn) waiter.resolve();
      else if (this.failure && !this.isComing(waiter.lsn)) waiter.reject(this.failure);
      else continue;
      this.waiters.delete(waiter);
    }
    for (const listener of this.listeners) listener();
  }
}

function timedOut(wanted: Lsn, reached: Lsn, timeoutMs: number): NeonError {
  return new NeonError(
    ErrorCode.Timeout,
    `waited ${timeoutMs / 1000} s for ${formatLsn(wanted)}; the pageserver has ${formatLsn(reached)}`,
    {
      hint: "`neon status` shows whether the compute is connected.",
      data: { wanted: formatLsn(wanted), reached: formatLsn(reached) },
    },
  );
}
