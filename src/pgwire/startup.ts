/**
 * Start-up packets, as a server reads them: a big-endian length that counts itself, a code, and for a protocol version
 * the parameters as name and value pairs.
 * Source: PostgreSQL 17 documentation, "Message Formats"; src/backend/tcop/backend_startup.c for the limits.
 */
import type { Socket } from "node:net";
import { ByteReader } from "../base/bytes.ts";
import { ErrorCode, NeonError, corrupt, messageOf } from "../base/errors.ts";
import { RequestCode } from "./frontend.ts";

/** As Postgres' MAX_STARTUP_PACKET_LENGTH. */
const PACKET_SIZE_MAX = 10_000;
const PACKET_SIZE_MIN = 8;
const PARAMETERS_MAX = 200;
/** First byte of a TLS handshake that comes without an SSLRequest before it. */
const TLS_HANDSHAKE = 0x16;

export type StartupPacket =
  | { readonly kind: "ssl" }
  | { readonly kind: "gss" }
  /** The peer speaks TLS at once; nothing has been taken from the socket. */
  | { readonly kind: "tls" }
  | { readonly kind: "cancel"; readonly processId: number; readonly secret: number }
  | {
      readonly kind: "startup";
      /** Minor version of protocol 3. */
      readonly minor: number;
      readonly parameters: ReadonlyMap<string, string>;
    };

/** The next start-up packet; undefined when the peer closes before it has sent one. Throws `corrupt`, `unsupported`. */
export async function readStartupPacket(socket: Socket): Promise<StartupPacket | undefined> {
  const first = await readExactly(socket, 1);
  if (!first) return undefined;
  if (first[0] === TLS_HANDSHAKE) {
    socket.unshift(first);
    return { kind: "tls" };
  }
  const rest = await readExactly(socket, 3);
  if (!rest) return undefined;
  const length = new ByteReader(Buffer.concat([first, rest])).u32be();
  if (length < PACKET_SIZE_MIN || length > PACKET_SIZE_MAX) {
    throw corrupt(`start-up packet claims a length of ${length}`, { length, lengthMax: PACKET_SIZE_MAX });
  }
  const body = await readExactly(socket, length - 4);
  return body && decodeStartupBody(body);
}

/** Decodes what follows the length. */
export function decodeStartupBody(body: Uint8Array): StartupPacket {
  const reader = new ByteReader(body);
  const code = reader.u32be();
  if (code === RequestCode.Ssl) return { kind: "ssl" };
  if (code === RequestCode.GssEncryption) return { kind: "gss" };
  if (code === RequestCode.Cancel) {
    return { kind: "cancel", processId: reader.i32be(), secret: reader.i32be() };
  }
  const major = code >>> 16;
  if (major !== 3) {
    throw new NeonError(ErrorCode.Unsupported, `protocol ${major}.${code & 0xffff} is not spoken here`, {
      hint: "Use a client of PostgreSQL 7.4 or newer.",
      data: { protocol: code },
    });
  }
  const parameters = new Map<string, string>();
  for (;;) {
    const name = reader.cstring();
    if (name === "") break;
    if (parameters.size >= PARAMETERS_MAX) throw corrupt(`more than ${PARAMETERS_MAX} start-up parameters`);
    parameters.set(name, reader.cstring());
  }
  if (reader.remaining > 0) {
    throw corrupt(`${reader.remaining} bytes behind the end of the start-up packet`);
  }
  return { kind: "startup", minor: code & 0xffff, parameters };
}

/**
 * Exactly so many bytes, and not one more from the socket, which may be upgraded to TLS afterwards; undefined when it
 * ends before. The socket must not be flowing.
 */
export async function readExactly(socket: Socket, sizeBytes: number): Promise<Uint8Array | undefined> {
  let arrived = Promise.withResolvers<void>();
  const wake = (): void => arrived.resolve();
  const failed = (error: unknown): void =>
    arrived.reject(new NeonError(ErrorCode.Unreachable, messageOf(error), { cause: error }));
  // Listened to once: a new listener is told at once of a buffer that has something, even if that is not enough, and
  // would be told again and again.
  socket.on("readable", wake).on("end", wake).on("close", wake).on("error", failed);
  try {
    for (;;) {
      const chunk: unknown = socket.read(sizeBytes);
      // At its end a stream gives what is left.
      if (chunk instanceof Uint8Array) return chunk.length === sizeBytes ? chunk : undefined;
      if (socket.readableEnded || socket.destroyed) return undefined;
      await arrived.promise;
      arrived = Promise.withResolvers<void>();
    }
  } finally {
    socket.off("readable", wake).off("end", wake).off("close", wake).off("error", failed);
  }
}
