/**
 * How many base backups run at a time. Each has buffers of its own for what it reads ahead of many layers and for what it
 * sends, so without a limit many of them would take what `memory_limit` does not allow. The others wait for their turn, in
 * the order in which they came. One whose client reads nothing for long while others wait loses its turn, and fails.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";

/** More at a time would not be quicker: one event loop makes them all. */
export const BACKUPS_AT_ONCE = 4;
/** How long a client may read nothing while others wait, in milliseconds. */
const IDLE_MS_MAX = 60_000;
/** How often that is looked at, as a part of it. */
const CHECKS_PER_IDLE = 10;

export interface BackupTurnsOptions {
  readonly atOnce?: number;
  readonly idleMsMax?: number;
}

interface Running {
  readonly iterator: AsyncIterator<Uint8Array>;
  /** Since when nothing was asked for; undefined while it is working. */
  idleSince: number | undefined;
  isEnded: boolean;
}

export class BackupTurns {
  private readonly atOnce: number;
  private readonly idleMsMax: number;
  private readonly running = new Set<Running>();
  private readonly waiting: (() => void)[] = [];
  /** Turns that are used, or handed on this moment. */
  private taken = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor({ atOnce = BACKUPS_AT_ONCE, idleMsMax = IDLE_MS_MAX }: BackupTurnsOptions = {}) {
    this.atOnce = atOnce;
    this.idleMsMax = idleMsMax;
  }

  /** Backups that have their turn. */
  get runningCount(): number {
    return this.running.size;
  }

  get waitingCount(): number {
    return this.waiting.length;
  }

  /** A stream that begins when it is its turn, which is its own until it ends or is closed. */
  async *inTurn(stream: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    const own: Running = { iterator: stream[Symbol.asyncIterator](), idleSince: undefined, isEnded: false };
    await this.begin(own);
    try {
      for (;;) {
        if (own.isEnded) throw notRead(this.idleMsMax);
        own.idleSince = undefined;
        const next = await own.iterator.next();
        if (next.done) return;
        own.idleSince = performance.now();
        yield next.value;
      }
    } finally {
      this.end(own);
      await own.iterator.return?.();
    }
  }

  private async begin(own: Running): Promise<void> {
    if (this.taken < this.atOnce) {
      this.taken++;
    } else {
      const turn = Promise.withResolvers<void>();
      this.waiting.push(turn.resolve);
      this.watch();
      await turn.promise;
    }
    this.running.add(own);
  }

  private end(own: Running): void {
    if (own.isEnded) return;
    own.isEnded = true;
    this.running.delete(own);
    const next = this.waiting.shift();
    if (next === undefined) this.taken--;
    else next();
  }

  /** As long as somebody waits, turns that are not used are taken away. */
  private watch(): void {
    this.timer ??= setInterval(() => {
      if (this.waiting.length === 0) {
        clearInterval(this.timer);
        this.timer = undefined;
        return;
      }
      for (const own of this.running) {
        if (own.idleSince === undefined || performance.now() - own.idleSince < this.idleMsMax) continue;
        this.end(own);
        // What it has read ahead goes now; its client hears of it when it reads again.
        void own.iterator.return?.().catch(() => undefined);
        return;
      }
    }, this.idleMsMax / CHECKS_PER_IDLE);
    this.timer.unref();
  }
}

function notRead(idleMsMax: number): NeonError {
  return new NeonError(
    ErrorCode.Timeout,
    `the base backup was not read for ${Math.round(idleMsMax / 1000)} s while others waited for their turn`,
    { hint: "Ask for it again, and read it without long pauses." },
  );
}
