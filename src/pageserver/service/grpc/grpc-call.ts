/**
 * One call on an HTTP/2 stream: its metadata, the messages that come in, one at a time, those that go out, and its end.
 * What is read ahead of whoever takes it is bounded, and so is what has been sent but not taken by the client.
 * Source: github.com/grpc/grpc, "gRPC over HTTP2".
 */
import { type IncomingHttpHeaders, type ServerHttp2Stream, constants } from "node:http2";
import { type OutgoingMessage, wholeMessage } from "../../../base/page-api/page-responses.ts";
import { ACCEPTED_ENCODINGS, type Encoding, answerEncoding, compress, decompress } from "./compression.ts";
import { GrpcCode, GrpcError, type GrpcStatus, OK } from "./grpc-status.ts";
import { MESSAGE_HEADER_SIZE, MessageDecoder } from "./message-decoder.ts";

export interface CallLimits {
  /** Of a request, compressed or not. */
  readonly messageSizeMax: number;
  /** Sent to a client and not taken by it. */
  readonly unsentBytesMax: number;
  /** How long a client may take nothing of what is sent. */
  readonly stallMs: number;
}

/** Bytes that wait for all clients together. */
export interface UnsentBytes {
  total: number;
}

/** Bytes of a client that are kept before anybody takes them; a piece that comes at once may go beyond. */
const READ_AHEAD_MAX = 16 * 1024;
/** Below this, compression costs more than it spares. */
const COMPRESSED_SIZE_MIN = 1024;
const TIMEOUT = /^(\d{1,8})([HMSmun])$/;
const TIMEOUT_UNITS_MS: Readonly<Record<string, number>> = {
  H: 3_600_000,
  M: 60_000,
  S: 1000,
  m: 1,
  u: 0.001,
  n: 0.000_001,
};
/** setTimeout knows no longer one. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class GrpcCall {
  readonly path: string;
  /** Aborted when the client goes away, its deadline passes, or the server stops. */
  readonly signal: AbortSignal;
  /** Since when a message of the client is waited for, by `performance.now()`; undefined while none is. */
  idleSince: number | undefined;
  messagesReceived = 0;
  /** By `performance.now()`. */
  readonly startedAt = performance.now();
  private readonly stream: ServerHttp2Stream;
  private readonly headers: IncomingHttpHeaders;
  private readonly limits: CallLimits;
  private readonly decoder: MessageDecoder;
  private readonly encoding: Encoding;
  private readonly unsent: UnsentBytes;
  private readonly aborter = new AbortController();
  private ownUnsent = 0;
  private halfClosed = false;
  private responded = false;
  private finished = false;
  private deadlineTimer: NodeJS.Timeout | undefined;
  /** Whoever waits for something to come or to go. */
  private wake: (() => void) | undefined;

  constructor(
    stream: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    options: { limits: CallLimits; unsent: UnsentBytes },
  ) {
    this.stream = stream;
    this.headers = headers;
    this.limits = options.limits;
    this.unsent = options.unsent;
    this.signal = this.aborter.signal;
    this.path = headers[":path"] ?? "";
    this.decoder = new MessageDecoder({ sizeMax: options.limits.messageSizeMax });
    this.encoding = answerEncoding(this.metadata("grpc-encoding"), this.metadata("grpc-accept-encoding"));
    stream.on("data", (chunk: Uint8Array) => {
      this.decoder.feed(chunk);
      if (this.decoder.sizeBytes >= READ_AHEAD_MAX) stream.pause();
      this.wakeUp();
    });
    stream.on("end", () => {
      this.halfClosed = true;
      this.wakeUp();
    });
    // A stream that its client has reset would keep what was written to it until the session ends.
    stream.on("aborted", () => this.onGone());
    stream.on("close", () => this.onGone());
    if (stream.aborted || stream.destroyed) this.onGone();
    else this.watchDeadline();
  }

  /** The value of a header; undefined if it is not there. */
  metadata(name: string): string | undefined {
    const value = this.headers[name];
    return Array.isArray(value) ? value.join(", ") : value;
  }

  /** Whether the call has ended, one way or the other. */
  get isOver(): boolean {
    return this.finished || this.signal.aborted;
  }

  /** The next message of the client, a view; undefined when it has sent its last. Throws what aborted the call. */
  async receive(): Promise<Uint8Array | undefined> {
    for (;;) {
      const message = this.receiveNow();
      if (message !== undefined) return message;
      if (this.halfClosed) {
        if (this.decoder.isInside) throw new GrpcError(GrpcCode.Internal, "a message is cut off");
        return undefined;
      }
      if (this.stream.isPaused()) this.stream.resume();
      this.idleSince ??= performance.now();
      await this.woken();
      this.idleSince = undefined;
    }
  }

  /** The next message if all of it is here. Throws what `receive` would throw. */
  receiveNow(): Uint8Array | undefined {
    this.signal.throwIfAborted();
    const message = this.decoder.next();
    if (message === undefined) return undefined;
    this.messagesReceived++;
    return message.compressed ? this.decompressed(message.bytes) : message.bytes;
  }

  /** The only message of a call that has one. */
  async receiveOne(): Promise<Uint8Array> {
    const message = await this.receive();
    if (message === undefined) throw new GrpcError(GrpcCode.Unimplemented, "the call has no message");
    return message;
  }

  private decompressed(bytes: Uint8Array): Uint8Array {
    return decompress(this.metadata("grpc-encoding"), bytes, this.limits.messageSizeMax);
  }

  /** Resolves when the client has taken enough of what was sent before for more. `compressible`: not compressed yet. */
  async send(message: OutgoingMessage, compressible = true): Promise<void> {
    this.respond();
    const isCompressed =
      compressible && this.encoding !== "identity" && message.sizeBytes >= COMPRESSED_SIZE_MIN;
    const sent = isCompressed ? await this.compressed(message) : message;
    const head = headOf(sent, isCompressed ? 1 : 0);
    await this.write({ sizeBytes: head.length + sent.sizeBytes, parts: [head, ...sent.parts] });
  }

  /** Whether answers are compressed, so that only `send` may be used. */
  get isCompressing(): boolean {
    return this.encoding !== "identity";
  }

  /** Sends several messages, each with the head that gRPC wants, as `send` would without compression. */
  async sendFramed(messages: OutgoingMessage): Promise<void> {
    this.respond();
    await this.write(messages);
  }

  private async write({ sizeBytes, parts }: OutgoingMessage): Promise<void> {
    while (this.ownUnsent > this.limits.unsentBytesMax) await this.drained();
    this.signal.throwIfAborted();
    this.ownUnsent += sizeBytes;
    this.unsent.total += sizeBytes;
    const { stream } = this;
    // All pieces go out together.
    stream.cork();
    const last = parts.length - 1;
    for (let index = 0; index < last; index++) stream.write(parts[index]);
    stream.write(parts[last] ?? NOTHING, () => {
      this.ownUnsent -= sizeBytes;
      this.unsent.total -= sizeBytes;
      this.wakeUp();
    });
    stream.uncork();
  }

  private async compressed({ parts }: OutgoingMessage): Promise<OutgoingMessage> {
    return wholeMessage(await compress(this.encoding, Buffer.concat(parts)));
  }

  /** Ends the call. What has been sent still goes out. Only the first end counts. */
  finish(status: GrpcStatus = OK): void {
    if (this.finished) return;
    this.finished = true;
    clearTimeout(this.deadlineTimer);
    const { stream } = this;
    if (stream.destroyed || stream.closed) return;
    const trailers = { "grpc-status": status.code, "grpc-message": encodeDetails(status.details) };
    const done = (): void => {
      // A client that goes on sending is told that nobody listens.
      if (!this.halfClosed) stream.close(constants.NGHTTP2_NO_ERROR);
    };
    // What still comes is let through to nowhere.
    stream.removeAllListeners("data");
    if (this.responded) {
      stream.once("wantTrailers", () => {
        stream.sendTrailers(trailers);
        setImmediate(done);
      });
      stream.end();
      const timer = setTimeout(() => stream.destroy(), this.limits.stallMs);
      stream.once("close", () => clearTimeout(timer));
    } else {
      stream.respond({ ...RESPONSE_HEADERS, ...trailers }, { endStream: true });
      setImmediate(done);
    }
    stream.resume();
  }

  /** Stops whatever is being done for the call. */
  abort(reason: Error): void {
    clearTimeout(this.deadlineTimer);
    if (!this.signal.aborted) this.aborter.abort(reason);
    this.wakeUp();
  }

  private onGone(): void {
    this.abort(cancelled());
    // Not before the frame that resets it, if it is we who do that.
    setImmediate(() => this.stream.destroy());
  }

  private respond(): void {
    if (this.responded || this.stream.destroyed || this.stream.closed) return;
    this.responded = true;
    this.stream.respond(
      { ...RESPONSE_HEADERS, "grpc-encoding": this.encoding, "grpc-accept-encoding": ACCEPTED_ENCODINGS },
      { waitForTrailers: true },
    );
  }

  private watchDeadline(): void {
    const text = this.metadata("grpc-timeout");
    if (text === undefined) return;
    const match = TIMEOUT.exec(text);
    const unitMs = TIMEOUT_UNITS_MS[match?.[2] ?? ""];
    if (match === null || unitMs === undefined) {
      this.abort(new GrpcError(GrpcCode.InvalidArgument, "grpc-timeout is no time such as 10S"));
      return;
    }
    const timeoutMs = Math.min(Number(match[1]) * unitMs, TIMER_MS_MAX);
    this.deadlineTimer = setTimeout(() => {
      this.abort(new GrpcError(GrpcCode.DeadlineExceeded, "the deadline of the call has passed"));
    }, timeoutMs);
  }

  private async woken(): Promise<void> {
    if (this.signal.aborted) return;
    await new Promise<void>((resolve) => {
      this.wake = resolve;
    });
  }

  private async drained(): Promise<void> {
    const timer = setTimeout(() => {
      this.abort(new GrpcError(GrpcCode.Unavailable, "the client takes nothing of what is sent"));
      this.stream.close(constants.NGHTTP2_CANCEL);
    }, this.limits.stallMs);
    try {
      await this.woken();
    } finally {
      clearTimeout(timer);
    }
    this.signal.throwIfAborted();
  }

  private wakeUp(): void {
    const { wake } = this;
    this.wake = undefined;
    wake?.();
  }
}

const RESPONSE_HEADERS = { ":status": 200, "content-type": "application/grpc" } as const;

const NOTHING = new Uint8Array();

function headOf({ sizeBytes }: OutgoingMessage, flag: number): Uint8Array {
  const head = Buffer.allocUnsafe(MESSAGE_HEADER_SIZE);
  head[0] = flag;
  head.writeUInt32BE(sizeBytes, 1);
  return head;
}

/** Percent-encoded: only what is printable in ASCII, without the percent sign itself, stands for itself. */
function encodeDetails(text: string): string {
  let encoded = "";
  for (const byte of new TextEncoder().encode(text)) {
    encoded +=
      byte >= 0x20 && byte <= 0x7e && byte !== 0x25
        ? String.fromCharCode(byte)
        : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return encoded;
}

function cancelled(): Error {
  return new DOMException("the call was cancelled", "AbortError");
}
