/** Two ends of a connection in this process: what one sends the other receives. It can be cut at any byte. */
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import type { Channel } from "../../src/pgwire/channel.ts";

/** A CopyData message has a type and a length before its payload. */
const FRAME_HEAD_SIZE = 5;
const WAITING_MAX = 16;

export interface MemoryChannelOptions {
  /** The connection breaks when this many bytes have been sent, both directions together. */
  readonly cutAfterBytes?: number;
  /** Sees each payload on its way; what it returns is delivered. `from` is 0 or 1, the end that sends. */
  readonly onPayload?: (payload: Uint8Array, from: 0 | 1) => Uint8Array;
}

class Link {
  sent = 0;
  failure: NeonError | undefined;
  readonly ends: MemoryEnd[] = [];
  readonly options: MemoryChannelOptions;

  constructor(options: MemoryChannelOptions) {
    this.options = options;
  }

  /** What has arrived before can still be received. */
  cut(reason = "the connection was cut"): void {
    this.failure ??= new NeonError(ErrorCode.Unreachable, reason);
    for (const end of this.ends) end.wakeAll();
  }
}

class MemoryEnd implements Channel {
  bytesSent = 0;
  bytesReceived = 0;
  private readonly link: Link;
  private readonly side: 0 | 1;
  private readonly inbox: Uint8Array[] = [];
  private ended = false;
  private otherEnded = false;
  private waiters: (() => void)[] = [];

  constructor(link: Link, side: 0 | 1) {
    this.link = link;
    this.side = side;
    link.ends.push(this);
  }

  private get other(): MemoryEnd {
    return this.link.ends[1 - this.side] as MemoryEnd;
  }

  async receive(): Promise<Uint8Array | undefined> {
    for (;;) {
      const payload = this.inbox.shift();
      if (payload) {
        this.bytesReceived += payload.length + FRAME_HEAD_SIZE;
        this.other.wakeAll();
        return payload;
      }
      if (this.otherEnded) return undefined;
      if (this.link.failure) throw this.link.failure;
      await this.change();
    }
  }

  async send(payload: Uint8Array): Promise<void> {
    const { link } = this;
    if (link.failure) throw link.failure;
    if (this.ended) throw new Error("nothing is sent after the end");
    const size = payload.length + FRAME_HEAD_SIZE;
    this.bytesSent += size;
    link.sent += size;
    if (link.sent > (link.options.cutAfterBytes ?? Number.POSITIVE_INFINITY)) {
      link.cut();
      throw link.failure ?? new Error("cut");
    }
    const own = new Uint8Array(payload);
    this.other.inbox.push(link.options.onPayload?.(own, this.side) ?? own);
    this.other.wakeAll();
    while (this.other.inbox.length > WAITING_MAX && !link.failure && !this.other.ended) await this.change();
  }

  async end(): Promise<void> {
    this.ended = true;
    this.other.otherEnded = true;
    this.other.wakeAll();
    this.wakeAll();
  }

  wakeAll(): void {
    for (const wake of this.waiters.splice(0)) wake();
  }

  private change(): Promise<void> {
    return new Promise((resolve) => {
      this.waiters.push(resolve);
    });
  }
}

/** The two ends, and a way to break the connection. */
export function memoryChannelPair(options: MemoryChannelOptions = {}): {
  ends: [Channel, Channel];
  cut: (reason?: string) => void;
  /** Both directions together. */
  bytes: () => number;
} {
  const link = new Link(options);
  const ends: [Channel, Channel] = [new MemoryEnd(link, 0), new MemoryEnd(link, 1)];
  return {
    ends,
    cut: (reason) => {
      link.cut(reason);
    },
    bytes: () => link.sent,
  };
}
