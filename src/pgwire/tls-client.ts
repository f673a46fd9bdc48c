/**
 * Encryption as a client: what each `sslmode` demands, as libpq has it.
 *
 *   disable      never
 *   allow        only if the server does not let us in otherwise
 *   prefer       if the server can; without it otherwise
 *   require      always; the certificate is checked if there is a file to check it against
 *   verify-ca    always; the certificate must be signed by one of the file
 *   verify-full  the same, and it must be for the host that was asked for
 *
 * The file is `sslrootcert`, else ~/.postgresql/root.crt; `system` stands for what the system trusts. One difference:
 * a file that is named and does not exist is an error in every mode that may encrypt.
 * Source: PostgreSQL 17 documentation, "SSL Support"; src/interfaces/libpq/fe-secure-openssl.c, initialize_SSL.
 */
import { readFileSync } from "node:fs";
import { type Socket, isIP } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { type ConnectionOptions, type TLSSocket, connect as connectTls } from "node:tls";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";
import { decodeServerMessage } from "./backend.ts";
import { encodeSslRequest } from "./frontend.ts";
import { readExactly } from "./startup.ts";
import { type LibpqTarget, formatTarget } from "./uri.ts";

/** How a connection is tried; the next way is tried where the one before fails. */
export type Attempt = "plain" | "tls" | "tls-if-offered";

export const ATTEMPTS: Readonly<Record<LibpqTarget["sslMode"], readonly Attempt[]>> = {
  disable: ["plain"],
  allow: ["plain", "tls"],
  prefer: ["tls-if-offered", "plain"],
  require: ["tls"],
  "verify-ca": ["tls"],
  "verify-full": ["tls"],
};

/** A certificate that is not accepted, or a handshake that fails: `prefer` goes on without encryption. */
export class HandshakeError extends NeonError {
  constructor(target: LibpqTarget, cause: unknown) {
    super(ErrorCode.Unreachable, `${formatTarget(target)}: TLS: ${messageOf(cause)}`, {
      hint: hintFor(systemCode(cause)),
      cause,
    });
    this.name = "HandshakeError";
  }
}

/**
 * Asks the server for encryption; the encrypted socket, or undefined if it has none to offer. Throws `unreachable`,
 * `HandshakeError`, and `usage` for a file of certificates that cannot be read.
 */
export async function requestTls(socket: Socket, target: LibpqTarget): Promise<TLSSocket | undefined> {
  const trust = trustOf(target);
  socket.write(encodeSslRequest());
  const answer = (await readExactly(socket, 1))?.[0];
  if (answer === undefined) throw refused(target, "the server closed the connection");
  if (answer === 0x4e) return undefined;
  if (answer === 0x45)
    throw refused(target, (await readRefusal(socket)) ?? "the server refuses the connection");
  if (answer !== 0x53) throw refused(target, "the server does not speak Postgres' protocol");
  // What comes before the handshake was not encrypted, whoever sent it.
  if (socket.readableLength > 0) throw refused(target, "data in the clear behind the offer of encryption");
  const secure = connectTls({
    socket,
    host: target.host,
    ...(isIP(target.host) === 0 ? { servername: target.host } : {}),
    ALPNProtocols: ["postgresql"],
    ...trust,
  });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  secure.once("secureConnect", resolve);
  secure.once("error", reject);
  secure.once("close", () => reject(new Error("the server closed the connection")));
  secure.on("error", () => undefined);
  try {
    await promise;
  } catch (error) {
    socket.destroy();
    throw new HandshakeError(target, error);
  }
  return secure;
}

/** The reason of a server that answers an SSLRequest with an error (too many connections, for example). */
async function readRefusal(socket: Socket): Promise<string | undefined> {
  const head = await readExactly(socket, 4);
  const length = head ? Buffer.from(head).readUInt32BE() : 0;
  // A server of long ago sends a text without a length here; its first letters make a huge one.
  if (length < 5 || length > 30_000) return undefined;
  const body = await readExactly(socket, length - 4);
  return body && decodeServerMessage(body).message;
}

type Trust = Pick<ConnectionOptions, "ca" | "rejectUnauthorized" | "checkServerIdentity">;

/** What is checked of the server's certificate. Reads the file of trusted certificates. */
export function trustOf(
  target: Pick<LibpqTarget, "sslMode" | "sslRootCert">,
  home: string = homedir(),
): Trust {
  const { sslMode, sslRootCert } = target;
  if (sslRootCert === "system") return { rejectUnauthorized: true };
  const path = sslRootCert ?? join(home, ".postgresql", "root.crt");
  const needed = sslRootCert !== undefined || sslMode === "verify-ca" || sslMode === "verify-full";
  const ca = readCertificates(path, needed);
  if (ca === undefined) return { rejectUnauthorized: false };
  if (sslMode === "verify-full") return { ca, rejectUnauthorized: true };
  return { ca, rejectUnauthorized: true, checkServerIdentity: () => undefined };
}

function readCertificates(path: string, needed: boolean): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    if (!needed && systemCode(error) === "ENOENT") return undefined;
    throw new NeonError(
      ErrorCode.Usage,
      `the certificates to check the server against cannot be read: ${messageOf(error)}`,
      {
        hint: "Put the server's certificate (`neon pageserver cert` makes one) or its CA there, or name a file: sslrootcert=/path",
        data: { path },
        cause: error,
      },
    );
  }
}

export function noTls(target: LibpqTarget): NeonError {
  return new NeonError(
    ErrorCode.Unreachable,
    `${formatTarget(target)}: the server has no encryption, but sslmode=${target.sslMode} demands it`,
    {
      hint: "Switch TLS on at the server (`neon pageserver cert`), or use sslmode=disable in a network you trust.",
    },
  );
}

function refused(target: LibpqTarget, what: string): NeonError {
  return new NeonError(ErrorCode.Unreachable, `${formatTarget(target)}: ${what}`);
}

function hintFor(code: string | undefined): string {
  if (code === "ERR_TLS_CERT_ALTNAME_INVALID")
    return "The certificate is for other names: use one of those, make a new one for this name, or sslmode=verify-ca.";
  return "Get the server's certificate from its owner and name it: sslrootcert=/path/server.crt";
}
