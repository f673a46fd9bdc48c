/**
 * One socket as frames, both ways, with back-pressure both ways. Reads ahead by a bounded number of bytes only, so that
 * a peer that sends faster than we take waits; it keeps reading up to that bound even when nobody wants a frame, so
 * that a peer that goes away is noticed.
 */
import type { Socket } from "node:net";
import { ErrorCode, NeonError, assert, messageOf } from "../base/errors.ts";
import { type Frame, FrameReader } from "./frame.ts";

/** How far we read ahead of whoever takes the frames. */
const READ_AHEAD_BYTES = 2 ** 16;
/** How long the peer may take nothing of what we have sent. */
export const WRITE_STALL_MS = 120_000;

export interface FrameConnectionOptions {
  /** Longest body of a frame. */
  readonly bodySizeMax: number;
  /** How the peer is called in errors. */
  readonly peer: string;
  readonly writeStallMs?: number | undefined;
}

export class FrameConnection {
  readonly socket: Socket;
  private readonly peer: string;
  private readonly writeStallMs: number;
  private readonly reader: FrameReader;
  private readonly chunks: Uint8Array[] = [];
  private queuedBytes = 0;
  private waiter: PromiseWithResolvers<Frame | undefined> | undefined;
  private ended = false;
  private failure: unknown;
  private readonly gone = new AbortController();
  private received = 0;
  private sent = 0;

  constructor(socket: Socket, options: FrameConnectionOptions) {
    this.socket = socket;
    this.peer = options.peer;
    this.writeStallMs = options.writeStallMs ?? WRITE_STALL_MS;
    this.reader = new FrameReader({ bodySizeMax: options.bodySizeMax });
    socket.on("data", (chunk: Uint8Array) => this.onData(chunk));
    socket.on("end", () => this.onEnd());
    socket.on("error", (error) => this.fail(this.lost(messageOf(error), error)));
    socket.on("close", () => this.onEnd());
  }

  get bytesReceived(): number {
    return this.received;
  }

  get bytesSent(): number {
    return this.sent;
  }

  /** Aborted when the connection is lost or closed, with the reason. */
  get signal(): AbortSignal {
    return this.gone.signal;
  }

  /** Longest body accepted from the next frame on. */
  set bodySizeMax(sizeBytes: number) {
    this.reader.bodySizeMax = sizeBytes;
  }

  /**
   * The next frame, whose body is valid until the next call; undefined when the peer has closed between two frames.
   * Throws `timeout`, `unreachable`, or `corrupt` for a frame that cannot be.
   */
  async next(timeoutMs: number): Promise<Frame | undefined> {
    assert(this.waiter === undefined, "one reader at a time");
    const frame = this.poll();
    if (frame) return frame;
    if (this.failure !== undefined) throw this.failure;
    if (this.ended) return undefined;
    const waiter = Promise.withResolvers<Frame | undefined>();
    this.waiter = waiter;
    this.socket.resume();
    const timer = setTimeout(() => {
      this.waiter = undefined;
      waiter.reject(
        new NeonError(ErrorCode.Timeout, `${this.peer} has sent nothing for ${timeoutMs / 1000} s`),
      );
    }, timeoutMs);
    try {
      return await waiter.promise;
    } finally {
      clearTimeout(timer);
    }
  }

  /** A frame that is here already. Throws `corrupt` for one that cannot be. */
  poll(): Frame | undefined {
    for (;;) {
      const frame = this.reader.next();
      if (frame) return frame;
      const chunk = this.chunks.shift();
      if (!chunk) break;
      this.queuedBytes -= chunk.length;
      this.reader.feed(chunk);
    }
    if (!this.ended) this.socket.resume();
    return undefined;
  }

  /**
   * Resolves when the socket can take more. Throws `unreachable`, or `timeout` when the peer takes nothing for long. The
   * bytes must stay as they are until `onWritten` is called, if ever: when the operating system has them.
   */
  async write(bytes: Uint8Array, onWritten?: () => void): Promise<void> {
    const { socket } = this;
    this.checkWritable();
    this.sent += bytes.length;
    const written = onWritten && ((error?: Error | null) => (error ? undefined : onWritten()));
    // What the operating system has taken at once is gone, whatever the stream says of its buffer.
    if (socket.write(bytes, written) || socket.writableLength === 0) return;
    await this.drained();
  }

  /** Writes two pieces, one behind the other, without copying them together. Both must stay as they are for good. */
  async writeBoth(head: Uint8Array, body: Uint8Array): Promise<void> {
    const { socket } = this;
    this.checkWritable();
    this.sent += head.length + body.length;
    socket.cork();
    socket.write(head);
    socket.write(body);
    socket.uncork();
    if (socket.writableLength < socket.writableHighWaterMark) return;
    await this.drained();
  }

  /** Closes at once. */
  destroy(reason?: unknown): void {
    this.fail(reason ?? this.lost("the connection was closed"));
    this.socket.destroy();
  }

  /** Sends what was written, then closes; at once if the peer does not take it in time. Resolves when it is closed. */
  async close(timeoutMs: number): Promise<void> {
    if (!this.socket.closed) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, timeoutMs);
      this.socket.once("close", resolve);
      // Whatever still arrives is of no interest, but it must be read for the end to be seen.
      this.socket.removeAllListeners("data").resume();
      this.socket.end();
      await promise;
      clearTimeout(timer);
    }
    this.destroy();
  }

  private onData(chunk: Uint8Array): void {
    this.received += chunk.length;
    this.chunks.push(chunk);
    this.queuedBytes += chunk.length;
    const waiter = this.waiter;
    if (waiter) {
      try {
        const frame = this.poll();
        if (!frame) return;
        this.waiter = undefined;
        waiter.resolve(frame);
      } catch (error) {
        this.waiter = undefined;
        waiter.reject(error);
      }
    }
    if (this.queuedBytes >= READ_AHEAD_BYTES) this.socket.pause();
  }

  private onEnd(): void {
    if (this.ended) return;
    this.ended = true;
    const waiter = this.waiter;
    this.waiter = undefined;
    waiter?.resolve(undefined);
    if (!this.gone.signal.aborted) this.gone.abort(this.lost("the connection was closed"));
  }

  /** The first failure counts; whoever reads or writes gets it, now or later. */
  private fail(error: unknown): void {
    this.failure ??= error;
    this.ended = true;
    const waiter = this.waiter;
    this.waiter = undefined;
    waiter?.reject(this.failure);
    if (!this.gone.signal.aborted) this.gone.abort(this.failure);
  }

  private checkWritable(): void {
    if (this.failure !== undefined) throw this.failure;
    if (this.socket.destroyed || !this.socket.writable) throw this.lost("the connection is closed");
  }

  private async drained(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onDrain = (): void => resolve();
    const onClose = (): void => reject(this.failure ?? this.lost("the connection was closed"));
    const timer = setTimeout(() => {
      const error = new NeonError(
        ErrorCode.Timeout,
        `${this.peer} has taken nothing of what was sent for ${this.writeStallMs / 1000} s`,
      );
      this.destroy(error);
      reject(error);
    }, this.writeStallMs);
    this.socket.once("drain", onDrain).once("close", onClose);
    try {
      await promise;
    } finally {
      clearTimeout(timer);
      this.socket.off("drain", onDrain).off("close", onClose);
    }
  }

  private lost(what: string, cause?: unknown): NeonError {
    return new NeonError(ErrorCode.Unreachable, `${this.peer}: ${what}`, { cause });
  }
}
