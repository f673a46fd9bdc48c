/**
 * The messages in the DATA of a call. A length is compared with the limit before anything is kept for it.
 * Source: github.com/grpc/grpc, "gRPC over HTTP2", Length-Prefixed-Message. Big-endian.
 *
 *   offset  size  field
 *        0     1  1: compressed as the header grpc-encoding says; 0: as it is
 *        1     4  length of the message
 *        5        the message
 */
import { GrpcCode, GrpcError } from "./grpc-status.ts";

export const MESSAGE_HEADER_SIZE = 5;
const PARTS_MAX = 64;

export interface ReceivedMessage {
  readonly compressed: boolean;
  readonly bytes: Uint8Array;
}

export class MessageDecoder {
  private readonly sizeMax: number;
  private parts: Uint8Array[] = [];
  /** Fed and not given back yet. */
  sizeBytes = 0;

  constructor(options: { sizeMax: number }) {
    this.sizeMax = options.sizeMax;
  }

  /** Takes the bytes over. */
  feed(chunk: Uint8Array): void {
    this.parts.push(chunk);
    this.sizeBytes += chunk.length;
    // Single bytes cost more to keep than they are.
    if (this.parts.length >= PARTS_MAX) this.join();
  }

  /** Whether there are bytes that are no whole message. */
  get isInside(): boolean {
    return this.sizeBytes > 0;
  }

  /** The next message, if all of it is here. Throws RESOURCE_EXHAUSTED for one that is too long. */
  next(): ReceivedMessage | undefined {
    if (this.sizeBytes < MESSAGE_HEADER_SIZE) return undefined;
    let head = this.parts[0];
    if (head === undefined || head.length < MESSAGE_HEADER_SIZE) head = this.join();
    const flag = head[0] ?? 0;
    if (flag > 1) throw new GrpcError(GrpcCode.Internal, `a message begins with the byte ${flag}`);
    const length = new DataView(head.buffer, head.byteOffset, head.byteLength).getUint32(1, false);
    if (length > this.sizeMax) {
      throw new GrpcError(
        GrpcCode.ResourceExhausted,
        `a message of ${length} bytes is longer than ${this.sizeMax}`,
      );
    }
    const end = MESSAGE_HEADER_SIZE + length;
    if (this.sizeBytes < end) return undefined;
    if (head.length < end) head = this.join();
    if (head.length === end) this.parts.shift();
    else this.parts[0] = head.subarray(end);
    this.sizeBytes -= end;
    return { compressed: flag === 1, bytes: head.subarray(MESSAGE_HEADER_SIZE, end) };
  }

  private join(): Uint8Array {
    const joined = Buffer.concat(this.parts);
    this.parts = [joined];
    return joined;
  }
}
