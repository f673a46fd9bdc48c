/**
 * Which request is worked on next. Normal ones begin at once while there is room; prefetch and background ones wait until
 * everything that has arrived by then has been looked at, and begin when no normal one waits, prefetch first. So that they
 * never wait for ever, one of them goes before every so many normal ones. A queue that is full refuses: SLOW_DOWN.
 */
import { PageClass } from "../../../base/page-api/page-model.ts";
import { slowDown } from "./grpc-status.ts";

export interface SchedulerLimits {
  /** Requests that are worked on at a time. */
  readonly running: number;
  /** Requests of a class that wait. */
  readonly waiting: number;
}

/** Normal requests that may go before one of the others that waits. */
const PATIENCE = 16;

interface Waiting {
  readonly start: () => void;
  readonly signal: AbortSignal;
}

/** In the order in which they are served. */
const LANES = ["normal", "prefetch", "background"] as const;
export type Lane = (typeof LANES)[number];

/** A class that is not known here is a normal one. */
export function laneOf(requestClass: PageClass): Lane {
  if (requestClass === PageClass.Prefetch) return "prefetch";
  return requestClass === PageClass.Background ? "background" : "normal";
}

export class RequestScheduler {
  private readonly limits: SchedulerLimits;
  private readonly queues: Readonly<Record<Lane, Waiting[]>> = { normal: [], prefetch: [], background: [] };
  private running = 0;
  private passedOver = 0;
  private isPlanned = false;

  constructor(limits: SchedulerLimits) {
    this.limits = limits;
  }

  waiting(lane: Lane): number {
    return this.queues[lane].length;
  }

  /** Does the work when it is its turn. Throws SLOW_DOWN at once if too many wait, and the signal's reason. */
  async run<T>(lane: Lane, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const free = this.running < this.limits.running && this.queues.normal.length === 0;
    if (lane === "normal" && free) this.running++;
    else await this.turn(lane, signal);
    try {
      signal.throwIfAborted();
      return await work();
    } finally {
      this.running--;
      if (this.someWait()) this.plan();
    }
  }

  private async turn(lane: Lane, signal: AbortSignal): Promise<void> {
    const queue = this.queues[lane];
    if (queue.length >= this.limits.waiting) {
      throw slowDown(`${queue.length} ${lane} requests wait already`);
    }
    await new Promise<void>((resolve) => {
      queue.push({ start: resolve, signal });
      this.plan();
    });
  }

  private someWait(): boolean {
    return LANES.some((lane) => this.queues[lane].length > 0);
  }

  /** After what has arrived by now. */
  private plan(): void {
    if (this.isPlanned) return;
    this.isPlanned = true;
    setImmediate(() => {
      this.isPlanned = false;
      this.startSome();
    });
  }

  private startSome(): void {
    while (this.running < this.limits.running) {
      const next = this.take();
      if (next === undefined) return;
      // Who has gone away must be told, but takes nobody's place; `run` gives it back.
      this.running++;
      next.start();
    }
  }

  private take(): Waiting | undefined {
    const { normal, prefetch, background } = this.queues;
    const other = prefetch.length > 0 ? prefetch : background;
    if (normal.length === 0 || (other.length > 0 && this.passedOver >= PATIENCE)) {
      this.passedOver = 0;
      return (other.length > 0 ? other : normal).shift();
    }
    if (other.length > 0) this.passedOver++;
    return normal.shift();
  }
}
