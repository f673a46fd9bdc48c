/**
 * Follows one compute: streams its WAL into a sink and tells it what is durable here. Reconnects by itself for as
 * long as it lives; only an error of the sink stops it for good.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { NeonError, assert, messageOf } from "../../base/errors.ts";
import type { WriterEpoch } from "../../base/ids.ts";
import { type Lsn, formatLsn } from "../../base/lsn.ts";
import type { Clock } from "../../base/seams.ts";
import {
  type ComputeIdentity,
  type ComputeSource,
  checkContinues,
  connectToCompute,
  ensureSlot,
  verifyIdentity,
} from "./compute-source.ts";
import { type FlushOptions, queryFlushPosition } from "./flush-position.ts";
import { SinkError, WalSession } from "./wal-session.ts";

/** Pause before the next attempt to connect; after a while of this it doubles up to the maximum. */
const RETRY_DELAY_MS_MIN = 50;
/** A compute that is just being built and started is not to wait for us. */
const EAGER_MS = 30_000;
const RETRY_DELAY_MS_MAX = 1_000;

/** Where received WAL goes. */
export interface WalSink {
  /** End of the last complete record: where streaming starts, each time a connection is made. */
  readonly resumeLsn: Lsn;
  /**
   * Takes bytes that continue what was accepted before, or `resumeLsn` after a reconnect: whatever lay beyond it from
   * the connection before is sent again. The bytes are a view, valid until the returned promise settles (or until the
   * return, if there is none). While it is pending nothing more is read. An error stops the receiver.
   */
  accept(lsn: Lsn, bytes: Uint8Array): Promise<void> | void;
  /** End of the complete records that are on disk: what is reported to the compute as flushed. */
  readonly durableLsn: Lsn;
  /** Calls `listener` after each change of `durableLsn`; returns what unsubscribes it. */
  onDurable(listener: () => void): () => void;
}

export interface ReceiverOptions {
  readonly source: ComputeSource;
  readonly systemId: bigint;
  readonly epoch: WriterEpoch;
  /** Name of the physical replication slot; made when missing. Lower-case letters, digits and underscores. */
  readonly slotName: string;
  /** Postgres' timeline number; 1 unless said otherwise. */
  readonly timelineNumber?: number;
  /** The server has the command READ_REPLICATION_SLOT; true unless said otherwise. */
  readonly canReadSlot?: boolean;
}

/** The part of a pino logger that is used. */
export interface ReceiverLog {
  info(data: object, message: string): void;
  warn(data: object, message: string): void;
  error(data: object, message: string): void;
}

export interface ReceiverDependencies {
  readonly sink: WalSink;
  readonly clock: Clock;
  readonly log: ReceiverLog;
}

export interface ReceiverState {
  /** `waiting`: the last connection failed or ended, the next attempt is due. `stopped`: for good. */
  readonly kind: "connecting" | "streaming" | "waiting" | "stopped";
  /** Why the last connection failed or ended; absent while all is well. */
  readonly error?: string;
  /** When it came into this state; milliseconds since 1970. */
  readonly since: number;
  /** End of the WAL that the compute said it had flushed, when it last said so. */
  readonly remoteFlushLsn?: Lsn;
  /** End of what was received, and when the compute said anything last, milliseconds since 1970. */
  readonly heard?: { readonly lsn: Lsn; readonly unixMs: number };
}

export class Receiver implements AsyncDisposable {
  private readonly options: ReceiverOptions;
  private readonly identity: ComputeIdentity;
  private readonly dependencies: ReceiverDependencies;
  private readonly abort = new AbortController();
  private current: Omit<ReceiverState, "remoteFlushLsn" | "heard">;
  private lastHeard: ReceiverState["heard"];
  private remoteFlushLsn: Lsn | undefined;
  private running: Promise<void> | undefined;
  private session: WalSession | undefined;

  constructor(options: ReceiverOptions, dependencies: ReceiverDependencies) {
    assert(/^[a-z0-9_]{1,63}$/.test(options.slotName), `slot name ${options.slotName}`);
    this.options = options;
    const { systemId, epoch, timelineNumber = 1 } = options;
    this.identity = { systemId, epoch, timelineNumber };
    this.dependencies = dependencies;
    this.current = { kind: "waiting", since: dependencies.clock.now() };
  }

  /** Begins to follow; returns at once. */
  start(): void {
    this.running ??= this.follow();
  }

  get state(): ReceiverState {
    const remoteFlushLsn = this.session?.remoteFlushLsn ?? this.remoteFlushLsn;
    const heard = this.session?.heard ?? this.lastHeard;
    return {
      ...this.current,
      ...(remoteFlushLsn === undefined ? {} : { remoteFlushLsn }),
      ...(heard === undefined ? {} : { heard }),
    };
  }

  /**
   * An LSN such that every commit that has returned lies at or below it, the end of a complete and flushed record.
   * Uses a connection of its own. Throws `unreachable`, `timeout`, or `conflict` if another compute answers.
   */
  flushPosition(options?: FlushOptions): Promise<Lsn> {
    return queryFlushPosition(this.options.source, this.options.epoch, options);
  }

  private enter(kind: ReceiverState["kind"], error?: string): void {
    const since = this.dependencies.clock.now();
    this.current = error === undefined ? { kind, since } : { kind, since, error };
  }

  private async follow(): Promise<void> {
    let delayMs = RETRY_DELAY_MS_MIN;
    let eagerUntil = performance.now() + EAGER_MS;
    let lastError: string | undefined;
    while (!this.abort.signal.aborted) {
      // A failure stays visible while the next attempt is under way.
      this.enter("connecting", lastError);
      let outcome: unknown;
      try {
        await this.streamOnce(() => {
          delayMs = RETRY_DELAY_MS_MIN;
          eagerUntil = performance.now() + EAGER_MS;
          lastError = undefined;
        });
      } catch (error) {
        outcome = error;
      }
      if (this.abort.signal.aborted) break;
      if (outcome instanceof SinkError) {
        this.stopFor(outcome);
        return;
      }
      const message = outcome === undefined ? "the compute ended the stream" : describe(outcome);
      if (message !== lastError) this.dependencies.log.warn({ error: message }, "receive WAL");
      lastError = message;
      this.enter("waiting", message);
      await sleep(delayMs, undefined, { signal: this.abort.signal }).catch(() => undefined);
      if (performance.now() > eagerUntil) delayMs = Math.min(delayMs * 2, RETRY_DELAY_MS_MAX);
    }
    this.enter("stopped");
  }

  private stopFor(error: SinkError): void {
    const message = describe(error.cause);
    this.dependencies.log.error({ error: message }, "take in WAL; the receiver stops");
    this.enter("stopped", message);
  }

  /** One connection, from start to end. Resolves when the compute ends the stream in order. */
  private async streamOnce(onStreaming: () => void): Promise<void> {
    const { source, slotName, canReadSlot = true } = this.options;
    const { sink, clock, log } = this.dependencies;
    const mode = canReadSlot ? "physical" : "database";
    await using connection = await connectToCompute(source, mode, this.abort.signal);
    this.remoteFlushLsn = await verifyIdentity(connection, this.identity);
    const startLsn = sink.resumeLsn;
    checkContinues(this.remoteFlushLsn, startLsn);
    await ensureSlot(connection, slotName, mode);
    const { timelineNumber } = this.identity;
    await connection.beginCopyBoth(
      `START_REPLICATION SLOT ${slotName} PHYSICAL ${formatLsn(startLsn)} TIMELINE ${timelineNumber}`,
    );
    const session = new WalSession(
      { connection, startLsn, remoteFlushLsn: this.remoteFlushLsn },
      { sink, clock },
    );
    this.session = session;
    try {
      onStreaming();
      this.enter("streaming");
      log.info({ lsn: formatLsn(startLsn), epoch: this.identity.epoch }, "receiving WAL");
      await session.run();
    } finally {
      this.remoteFlushLsn = session.remoteFlushLsn;
      this.lastHeard = session.heard;
      this.session = undefined;
      connection.destroy();
      await session.drain();
    }
  }

  /** Stops following and closes the connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.abort.abort(new Error("the receiver was closed"));
    await this.running;
    if (this.current.kind !== "stopped") this.enter("stopped");
  }
}

function describe(error: unknown): string {
  const hint = error instanceof NeonError && error.hint !== undefined ? ` ${error.hint}` : "";
  return messageOf(error) + hint;
}
