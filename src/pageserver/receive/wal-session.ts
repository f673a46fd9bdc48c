/**
 * One stream of WAL, from the answer to START_REPLICATION to its end: passes WAL on to the sink and reports what is
 * durable, at once when that changes, when asked, and every second.
 */
import { corrupt } from "../../base/errors.ts";
import { type Lsn, formatLsn, lsnAdd, lsnMax } from "../../base/lsn.ts";
import type { Clock } from "../../base/seams.ts";
import { Backend, decodeServerMessage, describeFrame } from "../../pgwire/backend.ts";
import type { PgConnection } from "../../pgwire/client.ts";
import { ServerError } from "../../pgwire/errors.ts";
import type { Frame } from "../../pgwire/frame.ts";
import { encodeCopyDone } from "../../pgwire/frontend.ts";
import { decodeReplicationMessage, encodeStandbyStatus } from "../../pgwire/replication.ts";
import type { WalSink } from "./receiver.ts";

const STATUS_INTERVAL_MS = 1_000;
/** A compute that is silent for this long is asked for a sign of life, and given up after the second. */
const SILENCE_ASK_MS = 10_000;
const SILENCE_MAX_MS = 30_000;

/** The sink failed; `cause` says how. Not the compute's fault, so another connection would not help. */
export class SinkError extends Error {
  constructor(cause: unknown) {
    super("take in WAL", { cause });
    this.name = "SinkError";
  }
}

/** Ends the stream of frames in order. */
class EndOfStream extends Error {}

export class WalSession {
  private readonly connection: PgConnection;
  private readonly sink: WalSink;
  private readonly clock: Clock;
  /** End of what was received. */
  private received: Lsn;
  private remoteFlush: Lsn;
  private lastHeardMs: number;
  /** Set while the sink is busy: then silence is our own. Never rejects; resolves to what went wrong. */
  private accepting: Promise<SinkError | undefined> | undefined;

  constructor(
    stream: { connection: PgConnection; startLsn: Lsn; remoteFlushLsn: Lsn },
    dependencies: { sink: WalSink; clock: Clock },
  ) {
    this.connection = stream.connection;
    this.received = stream.startLsn;
    this.remoteFlush = stream.remoteFlushLsn;
    this.sink = dependencies.sink;
    this.clock = dependencies.clock;
    this.lastHeardMs = this.clock.now();
  }

  /** End of the compute's flushed WAL, as far as it has said. */
  get remoteFlushLsn(): Lsn {
    return this.remoteFlush;
  }

  /** End of what was received, and when the compute said anything last. */
  get heard(): { readonly lsn: Lsn; readonly unixMs: number } {
    return { lsn: this.received, unixMs: this.lastHeardMs };
  }

  /** Runs to the end of the stream. Throws `SinkError`, `ServerError`, or what broke the connection. */
  async run(): Promise<void> {
    const unsubscribe = this.sink.onDurable(() => this.sendStatus(false));
    const timer = setInterval(() => this.onTick(), STATUS_INTERVAL_MS);
    try {
      // Postgres counts a standby as synchronous only once it has reported a position.
      this.sendStatus(false);
      await this.connection.streamTo((frame) => this.onFrame(frame));
    } catch (error) {
      if (!(error instanceof EndOfStream)) throw error;
    } finally {
      clearInterval(timer);
      unsubscribe();
    }
  }

  /** Waits until the sink has let go of the bytes it was last given. Throws the `SinkError` if that failed. */
  async drain(): Promise<void> {
    const failure = await this.accepting;
    if (failure) throw failure;
  }

  private onFrame(frame: Frame): Promise<void> | void {
    this.lastHeardMs = this.clock.now();
    switch (frame.type) {
      case Backend.CopyData:
        return this.onCopyData(frame.body);
      case Backend.ErrorResponse:
        throw new ServerError(decodeServerMessage(frame.body));
      case Backend.CopyDone:
        this.connection.send(encodeCopyDone());
        return undefined;
      case Backend.CommandComplete:
        throw new EndOfStream();
      case Backend.NoticeResponse:
      case Backend.ParameterStatus:
        return undefined;
      default:
        throw corrupt(`${describeFrame(frame)} in a WAL stream`, { type: frame.type });
    }
  }

  private onCopyData(body: Uint8Array): Promise<void> | void {
    const message = decodeReplicationMessage(body);
    this.remoteFlush = lsnMax(this.remoteFlush, message.serverEndLsn);
    if (message.kind === "keepalive") {
      if (message.replyRequested) this.sendStatus(false);
      return undefined;
    }
    if (message.lsn !== this.received) {
      throw corrupt(`the compute sent WAL at ${formatLsn(message.lsn)} after ${formatLsn(this.received)}`, {
        expected: formatLsn(this.received),
        found: formatLsn(message.lsn),
      });
    }
    this.received = lsnAdd(message.lsn, message.bytes.length);
    return this.accept(message.lsn, message.bytes);
  }

  private accept(lsn: Lsn, bytes: Uint8Array): Promise<void> | void {
    try {
      const pending = this.sink.accept(lsn, bytes);
      return pending && this.awaitSink(pending);
    } catch (error) {
      throw new SinkError(error);
    }
  }

  private async awaitSink(pending: Promise<void>): Promise<void> {
    this.accepting = pending.then(
      () => undefined,
      (error: unknown) => new SinkError(error),
    );
    const failure = await this.accepting;
    if (failure) throw failure;
    this.accepting = undefined;
    this.lastHeardMs = this.clock.now();
  }

  private onTick(): void {
    const silenceMs = this.accepting ? 0 : this.clock.now() - this.lastHeardMs;
    if (silenceMs > SILENCE_MAX_MS) {
      this.connection.destroy(corrupt(`the compute has been silent for ${Math.round(silenceMs / 1000)} s`));
      return;
    }
    this.sendStatus(silenceMs > SILENCE_ASK_MS);
  }

  private sendStatus(replyRequested: boolean): void {
    const durable = this.sink.durableLsn;
    this.connection.send(
      encodeStandbyStatus({
        writeLsn: lsnMax(this.received, durable),
        flushLsn: durable,
        applyLsn: durable,
        nowMs: this.clock.now(),
        replyRequested,
      }),
    );
  }
}
