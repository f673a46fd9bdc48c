/**
 * Sends a timeline's WAL to one client as Postgres' walsender does: what is stored, then what arrives, and only what is
 * durable here. A message ends at the end of a page or of a record. It ends when the client says so, or is silent for
 * too long; a client that does not keep up is waited for.
 */
import { ErrorCode, NeonError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import type { Clock } from "../../base/seams.ts";
import {
  type ReceivedStatus,
  decodeStandbyMessage,
  encodeKeepalive,
  encodeXlogData,
} from "../../pgwire/replication.ts";
import type { StatementChannel } from "../../pgwire/statement.ts";
import type { Follower } from "../timeline/followers.ts";
import type { TimelineWal } from "../timeline/timeline-wal.ts";
import { WalReader } from "./wal-reader.ts";

/** How long a client may say nothing, as Postgres' wal_sender_timeout; after half of it it is asked to. */
export const SENDER_TIMEOUT_MS = 60_000;
/** How often we look whether a timeline that nobody writes to is written to again, and is still there. */
const LOOK_MS = 500;

export interface WalSenderOptions {
  readonly wal: TimelineWal;
  readonly startLsn: Lsn;
  readonly channel: StatementChannel;
  readonly signal: AbortSignal;
  readonly clock: Clock;
  readonly timeoutMs?: number;
  /** Who the client is. */
  readonly client: Pick<Follower, "name" | "slot" | "user">;
  /** Told of what the client has, and what has been sent. */
  readonly onStatus: (status: ReceivedStatus) => void;
  readonly onSent: (lsn: Lsn) => void;
  /** Throws when the timeline is not there any more. */
  readonly check: () => void;
}

export class WalSender implements Follower {
  readonly name: string;
  readonly slot: string | undefined;
  readonly user: string;
  readonly startedAt: number;
  sentBytes = 0;
  reported: Follower["reported"];
  private readonly options: WalSenderOptions;
  private readonly reader: WalReader;
  private readonly timeoutMs: number;
  private clientEnded = false;
  private clientFailure: unknown;
  private lastHeard = performance.now();
  /** When it was asked for a sign of life, and has given none since. */
  private askedAt: number | undefined;
  private replyWanted = false;
  private wake: () => void = () => undefined;

  constructor(options: WalSenderOptions) {
    this.options = options;
    const { name, slot, user } = options.client;
    this.name = name;
    this.slot = slot;
    this.user = user;
    this.startedAt = options.clock.now();
    this.reader = new WalReader(options.wal, options.startLsn);
    this.timeoutMs = options.timeoutMs ?? SENDER_TIMEOUT_MS;
  }

  get sentLsn(): Lsn {
    return this.reader.position;
  }

  /** Until the client has ended its side. Throws when it is lost, or the WAL cannot be read. */
  async run(): Promise<void> {
    const { signal } = this.options;
    const onAbort = (): void => this.wake();
    signal.addEventListener("abort", onAbort);
    using _present = this.options.wal.followers.add(this);
    const listening = this.listen();
    try {
      while (!this.clientEnded) {
        signal.throwIfAborted();
        if (this.clientFailure !== undefined) throw this.clientFailure;
        await this.keepAlive();
        if (!(await this.sendSome())) await this.waitForMore();
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      await this.reader.close();
    }
    await listening;
  }

  /** True if there may be more at once. */
  private async sendSome(): Promise<boolean> {
    const { wal, channel, clock, onSent } = this.options;
    const endLsn = wal.endLsn;
    if (this.reader.position >= endLsn) return false;
    const { lsn, bytes } = await this.reader.next(endLsn);
    await channel.send(encodeXlogData({ lsn, bytes, serverEndLsn: wal.endLsn, nowMs: clock.now() }));
    this.sentBytes += bytes.length;
    onSent(this.reader.position);
    return true;
  }

  private async waitForMore(): Promise<void> {
    const { wal, check } = this.options;
    check();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.wake = resolve;
    using _listener = wal.onDurable(resolve);
    const timer = setTimeout(resolve, Math.min(LOOK_MS, this.timeoutMs / 2));
    try {
      // What came between the last look and the listener is not waited for.
      const isOver = this.clientEnded || this.clientFailure !== undefined || this.options.signal.aborted;
      if (wal.endLsn <= this.reader.position && !isOver && !this.replyWanted) await promise;
    } finally {
      clearTimeout(timer);
      this.wake = () => undefined;
    }
  }

  /** Asks a silent client for a sign of life, answers one that asks, and gives up one that is silent for too long. */
  private async keepAlive(): Promise<void> {
    const now = performance.now();
    const { askedAt } = this;
    // Never without having been asked: it may be we who were busy.
    if (askedAt !== undefined && now - askedAt > this.timeoutMs / 2) {
      throw new NeonError(
        ErrorCode.Timeout,
        `the connection is closed: the client has said nothing for ${this.timeoutMs / 1000} s`,
      );
    }
    const ask = askedAt === undefined && now - this.lastHeard > this.timeoutMs / 2;
    if (!ask && !this.replyWanted) return;
    if (ask) this.askedAt = now;
    this.replyWanted = false;
    const { wal, channel, clock } = this.options;
    await channel.send(
      encodeKeepalive({ serverEndLsn: wal.endLsn, nowMs: clock.now(), replyRequested: ask }),
    );
  }

  /** Takes what the client says, until it ends its side. */
  private async listen(): Promise<void> {
    try {
      for (;;) {
        const payload = await this.options.channel.receive();
        if (payload === undefined) break;
        this.lastHeard = performance.now();
        this.askedAt = undefined;
        const status = decodeStandbyMessage(payload);
        if (status === undefined) continue;
        this.reported = status;
        this.options.onStatus(status);
        if (!status.replyRequested) continue;
        this.replyWanted = true;
        this.wake();
      }
      this.clientEnded = true;
    } catch (error) {
      this.clientFailure = error;
    }
    this.wake();
  }
}
