/**
 * The beginning of a connection on the server: requests for encryption, cancellation, the start-up packet, and the
 * proof of who the client is. Everything here happens before anybody is let in, so all of it is small and timed.
 */
import { once } from "node:events";
import type { Socket } from "node:net";
import { type SecureContext, TLSSocket } from "node:tls";
import { ByteReader } from "../base/bytes.ts";
import { ErrorCode, NeonError, corrupt, messageOf } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import { describeFrame } from "./backend.ts";
import {
  encodeAuthenticationCleartext,
  encodeAuthenticationOk,
  encodeAuthenticationSasl,
  encodeNegotiateProtocolVersion,
  encodeSaslContinue,
  encodeSaslFinal,
} from "./encode-backend.ts";
import type { FrameConnection } from "./frame-connection.ts";
import { Frontend } from "./frontend.ts";
import { ScramServer, passwordError } from "./scram-server.ts";
import { readStartupPacket } from "./startup.ts";
import type { Admission } from "./statement.ts";

/** What a server shows of itself on encrypted connections. */
export interface ServerTls {
  readonly context: SecureContext;
  /** SHA-256 of the certificate, for channel binding. */
  readonly certificateHash: Uint8Array;
}

/** The name by which libpq asks for this protocol inside TLS. */
const ALPN = "postgresql";
/** Requests for encryption before the start-up packet. */
const REQUESTS_MAX = 4;

export type Beginning =
  | { readonly kind: "cancel"; readonly processId: number; readonly secret: number }
  | {
      readonly kind: "startup";
      /** The encrypted one, if it is. */
      readonly socket: Socket;
      readonly encrypted: boolean;
      readonly minor: number;
      readonly parameters: ReadonlyMap<string, string>;
    };

/** Until the start-up packet has come; undefined if the client goes away before. `current` tells of a change of socket. */
export async function negotiate(
  raw: Socket,
  tls: ServerTls | undefined,
  current: (socket: Socket) => void,
): Promise<Beginning | undefined> {
  let socket = raw;
  let encrypted = false;
  const encrypt = async (context: SecureContext): Promise<void> => {
    socket = await upgrade(socket, context);
    current(socket);
    encrypted = true;
  };
  for (let requests = 0; requests < REQUESTS_MAX; requests++) {
    const packet = await readStartupPacket(socket);
    switch (packet?.kind) {
      case undefined:
        return undefined;
      case "cancel":
        return packet;
      case "startup":
        return { ...packet, socket, encrypted };
      case "gss":
        socket.write("N");
        break;
      case "ssl":
        if (encrypted || !tls) {
          socket.write("N");
          break;
        }
        // What comes before the answer was not encrypted, whoever sent it.
        if (socket.readableLength > 0) throw corrupt("data behind a request for encryption");
        socket.write("S");
        await encrypt(tls.context);
        break;
      case "tls":
        if (encrypted || !tls) throw corrupt("TLS is not available on this connection");
        await encrypt(tls.context);
        break;
    }
  }
  throw corrupt("too many requests for encryption");
}

async function upgrade(socket: Socket, context: SecureContext): Promise<TLSSocket> {
  const secure = new TLSSocket(socket, { isServer: true, secureContext: context, ALPNProtocols: [ALPN] });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  secure.once("secure", () => resolve());
  secure.once("close", () => reject(new Error("the client closed the connection")));
  secure.once("error", reject);
  // Errors later on find their own listeners.
  secure.on("error", () => undefined);
  try {
    await promise;
  } catch (error) {
    socket.destroy();
    throw new NeonError(ErrorCode.Unreachable, `TLS handshake: ${messageOf(error)}`, { cause: error });
  }
  return secure;
}

/** Answers a client that wants a newer minor version of the protocol, or options that we do not have. */
export async function negotiateVersion(
  connection: FrameConnection,
  minor: number,
  parameters: ReadonlyMap<string, string>,
): Promise<void> {
  const unknown = [...parameters.keys()].filter((name) => name.startsWith("_pq_."));
  if (minor > 0 || unknown.length > 0) {
    await connection.write(encodeNegotiateProtocolVersion(0, unknown));
  }
}

/** Until the client has proven who it is. Throws `unreachable` (28P01) if it cannot. */
export async function authenticate<Identity>(
  connection: FrameConnection,
  admission: Admission<Identity>,
  options: {
    user: string;
    random: Random;
    certificateHash: Uint8Array | undefined;
    timeoutMs: number;
  },
): Promise<Identity> {
  if (admission.kind === "trust") {
    await connection.write(encodeAuthenticationOk());
    return admission.identity;
  }
  const { user, random, certificateHash, timeoutMs } = options;
  if (admission.kind === "cleartext") {
    await connection.write(encodeAuthenticationCleartext());
    const reader = new ByteReader(await passwordMessage(connection, timeoutMs));
    const password = reader.cstring();
    if (reader.remaining > 0) throw corrupt(`${reader.remaining} bytes behind the end of a password`);
    const identity = await admission.check(password);
    await connection.write(encodeAuthenticationOk());
    return identity;
  }
  const scram = new ScramServer(admission.verifier, random, { certificateHash });
  await connection.write(encodeAuthenticationSasl(scram.mechanisms));
  const initial = new ByteReader(await passwordMessage(connection, timeoutMs));
  const mechanism = initial.cstring();
  const length = initial.i32be();
  const clientFirst = length === -1 ? "" : initial.utf8(length);
  await connection.write(encodeSaslContinue(scram.begin(mechanism, clientFirst)));
  const final = new ByteReader(await passwordMessage(connection, timeoutMs));
  const serverFinal = scram.finish(final.utf8(final.remaining));
  if (serverFinal === undefined || admission.identity === undefined) throw passwordError(user);
  await connection.write(Buffer.concat([encodeSaslFinal(serverFinal), encodeAuthenticationOk()]));
  return admission.identity;
}

async function passwordMessage(connection: FrameConnection, timeoutMs: number): Promise<Uint8Array> {
  const frame = await connection.next(timeoutMs);
  if (!frame) throw new NeonError(ErrorCode.Unreachable, "the client left in the middle of the login");
  if (frame.type !== Frontend.Password) throw corrupt(`${describeFrame(frame)} during the login`);
  return new Uint8Array(frame.body);
}

/** Resolves when a socket is closed. */
export async function closed(socket: Socket): Promise<void> {
  if (!socket.closed) await once(socket, "close").catch(() => undefined);
}
