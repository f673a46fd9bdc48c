/** A conversation in two directions over one connection, as CopyBoth gives it: whole payloads, in order. */
export interface Channel {
  /** The next payload, which belongs to the caller; undefined once the other side has ended. */
  receive(): Promise<Uint8Array | undefined>;
  /** Resolves when more can be sent. */
  send(payload: Uint8Array): Promise<void>;
  /** Says that nothing more is sent. Idempotent. */
  end(): Promise<void>;
  /** Bytes on the wire, framing included. */
  readonly bytesSent: number;
  readonly bytesReceived: number;
}
