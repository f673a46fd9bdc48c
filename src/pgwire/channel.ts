/**
 * A conversation in two directions over one connection: what CopyBoth gives. Each payload arrives whole and in order.
 * Both ends of the protocol use the same class; they differ only in what may come beside the data.
 * Source: PostgreSQL 17 documentation, "COPY Operations" and "Streaming Replication Protocol".
 */
import { ByteReader } from "../base/bytes.ts";
import { ErrorCode, NeonError, assert, corrupt } from "../base/errors.ts";
import { Backend, describeFrame } from "./backend.ts";
import { Frontend, encodeCopyData, encodeCopyDataHead, encodeCopyDone } from "./frontend.ts";
import type { FrameConnection } from "./frame-connection.ts";
import type { Frame } from "./frame.ts";
import { errorFromResponse } from "./wire-errors.ts";

/** Longest payload of one CopyData, on both ends. */
export const COPY_DATA_SIZE_MAX = 2 ** 22;
/** Shorter payloads are copied behind their head, since two pieces cost more than one. */
const COPIED_SIZE_MAX = 2 ** 15;
/** How long the other side may send nothing while we wait for it, unless the maker of the channel says otherwise. */
export const CHANNEL_SILENCE_MS = 10 * 60_000;

export interface Channel {
  /**
   * The next payload, which belongs to the caller; undefined once the other side has ended. Rejects with the error of
   * the other side (its own code where it is one of ours), or `unreachable` or `timeout` when the connection is lost.
   */
  receive(): Promise<Uint8Array | undefined>;
  /** Resolves when the socket can take more. The payload has been handed over when this returns. */
  send(payload: Uint8Array): Promise<void>;
  /** Says that nothing more is sent. The other side may go on sending. Idempotent. */
  end(): Promise<void>;
  /** Bytes on the wire, framing included, since the channel was opened. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}

export class CopyChannel implements Channel {
  private readonly connection: FrameConnection;
  private readonly side: "client" | "server";
  private readonly silenceMs: number;
  private readonly sentBefore: number;
  private readonly receivedBefore: number;
  private weEnded = false;
  private theyEnded = false;

  constructor(connection: FrameConnection, side: "client" | "server", silenceMs = CHANNEL_SILENCE_MS) {
    this.connection = connection;
    this.side = side;
    this.silenceMs = silenceMs;
    this.sentBefore = connection.bytesSent;
    this.receivedBefore = connection.bytesReceived;
  }

  get bytesSent(): number {
    return this.connection.bytesSent - this.sentBefore;
  }

  get bytesReceived(): number {
    return this.connection.bytesReceived - this.receivedBefore;
  }

  /** Whether the other side has said that it sends nothing more. */
  get otherEnded(): boolean {
    return this.theyEnded;
  }

  async receive(): Promise<Uint8Array | undefined> {
    while (!this.theyEnded) {
      const frame = await this.connection.next(this.silenceMs);
      if (!frame) throw this.lost("closed the connection in the middle of a transfer");
      const payload = this.take(frame);
      if (payload) return payload;
    }
    return undefined;
  }

  /** A payload that is here already, without waiting; undefined if none is, or the other side has ended. */
  receiveNow(): Uint8Array | undefined {
    while (!this.theyEnded) {
      const frame = this.connection.poll();
      if (!frame) return undefined;
      const payload = this.take(frame);
      if (payload) return payload;
    }
    return undefined;
  }

  async send(payload: Uint8Array): Promise<void> {
    assert(!this.weEnded, "nothing is sent after the end of a channel");
    assert(payload.length <= COPY_DATA_SIZE_MAX, `a payload of ${payload.length} bytes is too long`);
    await this.connection.write(encodeCopyData(payload));
  }

  /** Like `send`, for a payload that nobody changes any more: a long one is not copied. */
  async sendOwned(payload: Uint8Array): Promise<void> {
    if (payload.length < COPIED_SIZE_MAX) return this.send(payload);
    assert(!this.weEnded, "nothing is sent after the end of a channel");
    assert(payload.length <= COPY_DATA_SIZE_MAX, `a payload of ${payload.length} bytes is too long`);
    return this.connection.writeBoth(encodeCopyDataHead(payload.length), payload);
  }

  /** CopyData frames that the caller has put together. They stay as they are until `onWritten` is called, if ever. */
  async sendFrames(frames: Uint8Array, onWritten: () => void): Promise<void> {
    assert(!this.weEnded, "nothing is sent after the end of a channel");
    await this.connection.write(frames, onWritten);
  }

  async end(): Promise<void> {
    if (this.weEnded) return;
    this.weEnded = true;
    await this.connection.write(encodeCopyDone());
  }

  /** The payload of a frame; undefined for one that carries none. */
  private take(frame: Frame): Uint8Array | undefined {
    if (frame.type === Backend.CopyData) return new Uint8Array(frame.body);
    if (frame.type === Backend.CopyDone) {
      this.theyEnded = true;
      return undefined;
    }
    if (this.side === "client") this.takeFromServer(frame);
    else this.takeFromClient(frame);
    return undefined;
  }

  private takeFromServer(frame: Frame): void {
    switch (frame.type) {
      case Backend.ErrorResponse:
        this.theyEnded = true;
        throw errorFromResponse(frame.body);
      case Backend.NoticeResponse:
      case Backend.ParameterStatus:
        return;
      default:
        throw corrupt(`${describeFrame(frame)} in the middle of a transfer`, { type: frame.type });
    }
  }

  private takeFromClient(frame: Frame): void {
    switch (frame.type) {
      case Frontend.CopyFail: {
        this.theyEnded = true;
        const reason = new ByteReader(frame.body).cstring();
        throw new NeonError(ErrorCode.Failed, `the other side gave up: ${reason}`);
      }
      case Frontend.Flush:
      case Frontend.Sync:
        return;
      case Frontend.Terminate:
        throw this.lost("ended the session in the middle of a transfer");
      default:
        throw corrupt(`${describeFrame(frame)} in the middle of a transfer`, { type: frame.type });
    }
  }

  private lost(what: string): NeonError {
    return new NeonError(ErrorCode.Unreachable, `the other side ${what}`);
  }
}
