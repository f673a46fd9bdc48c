/**
 * SCRAM-SHA-256, server side. The server keeps keys from which the password cannot be computed, in the text form that
 * Postgres uses in pg_authid too:
 *
 *     SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>      salt and keys in base64
 *
 * Source: RFC 5802, RFC 7677; PostgreSQL 17, src/backend/libpq/auth-scram.c for names and formats.
 */
import { createHash, createHmac, pbkdf2, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { ErrorCode, NeonError, corrupt } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";
import { SqlState } from "./errors.ts";
import { SCRAM_MECHANISM, saslPrepare } from "./scram.ts";
import { WireError } from "./wire-errors.ts";

const KEY_SIZE = 32;
const SALT_SIZE = 16;
const NONCE_SIZE = 18;
/** As Postgres' default: what makes guessing dear, without making every login dear. */
const ITERATIONS = 4096;
const ITERATIONS_MAX = 4_000_000;
const CLIENT_MESSAGE_LENGTH_MAX = 4096;

export interface ScramVerifier {
  readonly iterations: number;
  readonly salt: Uint8Array;
  readonly storedKey: Uint8Array;
  readonly serverKey: Uint8Array;
}

/** What the server keeps of a password. */
export async function makeScramVerifier(
  password: string,
  random: Random,
  options: { salt?: Uint8Array; iterations?: number } = {},
): Promise<ScramVerifier> {
  const salt = options.salt ?? random.bytes(SALT_SIZE);
  const iterations = options.iterations ?? ITERATIONS;
  const salted = await promisify(pbkdf2)(saslPrepare(password), salt, iterations, KEY_SIZE, "sha256");
  const clientKey = createHmac("sha256", salted).update("Client Key").digest();
  return {
    iterations,
    salt,
    storedKey: createHash("sha256").update(clientKey).digest(),
    serverKey: createHmac("sha256", salted).update("Server Key").digest(),
  };
}

export function formatScramVerifier(verifier: ScramVerifier): string {
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString("base64");
  const { iterations, salt, storedKey, serverKey } = verifier;
  return `${SCRAM_MECHANISM}$${iterations}:${base64(salt)}$${base64(storedKey)}:${base64(serverKey)}`;
}

const VERIFIER_TEXT =
  /^SCRAM-SHA-256\$(\d{1,7}):([A-Za-z0-9+/=]{1,400})\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)$/;

/** Undefined for anything that is no verifier. */
export function parseScramVerifier(text: string): ScramVerifier | undefined {
  const [, iterations, salt, storedKey, serverKey] = VERIFIER_TEXT.exec(text) ?? [];
  if (iterations === undefined || salt === undefined || storedKey === undefined || serverKey === undefined)
    return undefined;
  const rounds = Number(iterations);
  if (rounds < 1 || rounds > ITERATIONS_MAX) return undefined;
  return {
    iterations: rounds,
    salt: Buffer.from(salt, "base64"),
    storedKey: Buffer.from(storedKey, "base64"),
    serverKey: Buffer.from(serverKey, "base64"),
  };
}

/**
 * Keys for a user that does not exist: the same for the same name, so that an attempt to log in tells nothing, and such
 * that no password fits.
 */
export function mockScramVerifier(user: string, secret: Uint8Array): ScramVerifier {
  const part = (label: string): Buffer => createHmac("sha256", secret).update(`${label} ${user}`).digest();
  return {
    iterations: ITERATIONS,
    salt: part("salt").subarray(0, SALT_SIZE),
    storedKey: part("stored key"),
    serverKey: part("server key"),
  };
}

/** One authentication dialogue. */
export class ScramServer {
  private readonly verifier: ScramVerifier;
  private readonly nonceTail: string;
  /** The hash of our certificate where the connection is encrypted, to which the client may bind its proof. */
  private readonly certificateHash: Uint8Array | undefined;
  private state:
    { gs2Header: string; clientFirstBare: string; nonce: string; serverFirst: string } | undefined;
  private binding = false;

  constructor(
    verifier: ScramVerifier,
    random: Random,
    options: { certificateHash?: Uint8Array | undefined; nonceTail?: string } = {},
  ) {
    this.verifier = verifier;
    this.nonceTail = options.nonceTail ?? Buffer.from(random.bytes(NONCE_SIZE)).toString("base64");
    this.certificateHash = options.certificateHash;
  }

  /** What the client may choose from. */
  get mechanisms(): string[] {
    return this.certificateHash === undefined ? [SCRAM_MECHANISM] : [SCRAM_PLUS_MECHANISM, SCRAM_MECHANISM];
  }

  /** server-first-message, from the mechanism that the client chose and its client-first-message. */
  begin(mechanism: string, clientFirst: string): string {
    if (!this.mechanisms.includes(mechanism)) {
      throw protocolError(`SASL mechanism "${mechanism.slice(0, 40)}" was not offered`);
    }
    this.binding = mechanism === SCRAM_PLUS_MECHANISM;
    checkLength(clientFirst);
    // gs2-cbind-flag, no authorization identity, then user (which the start-up packet has named) and nonce.
    const match = /^(n|y|p=([^,]*)),,((?:n=[^,]*),r=([!-+\--~]+)(?:,.*)?)$/s.exec(clientFirst);
    const [, flag, bindingType, bare, clientNonce] = match ?? [];
    if (flag === undefined || bare === undefined || clientNonce === undefined) {
      throw protocolError("malformed client-first-message");
    }
    if (
      this.binding !== (bindingType !== undefined) ||
      (this.binding && bindingType !== CHANNEL_BINDING_TYPE)
    ) {
      throw protocolError("the channel binding does not fit the mechanism");
    }
    // The client could bind and believes that we cannot: somebody in between has taken the offer out.
    if (flag === "y" && this.certificateHash !== undefined) {
      throw protocolError("the offer of channel binding has been lost on the way");
    }
    const nonce = clientNonce + this.nonceTail;
    const salt = Buffer.from(this.verifier.salt).toString("base64");
    const serverFirst = `r=${nonce},s=${salt},i=${this.verifier.iterations}`;
    this.state = { gs2Header: `${flag},,`, clientFirstBare: bare, nonce, serverFirst };
    return serverFirst;
  }

  /** server-final-message, from the client-final-message; undefined if the client does not know the password. */
  finish(clientFinal: string): string | undefined {
    checkLength(clientFinal);
    const { state } = this;
    if (!state) throw protocolError("client-final-message before the first");
    const match = /^(c=([A-Za-z0-9+/=]+),r=([^,]*)(?:,.*)?),p=([A-Za-z0-9+/]{43}=)$/s.exec(clientFinal);
    const [, withoutProof, binding, nonce, proofText] = match ?? [];
    if (withoutProof === undefined || binding === undefined || proofText === undefined) {
      throw protocolError("malformed client-final-message");
    }
    if (nonce !== state.nonce) throw protocolError("nonce mismatch");
    const header = Buffer.from(state.gs2Header, "latin1");
    const expected = this.binding
      ? Buffer.concat([header, this.certificateHash ?? new Uint8Array()])
      : header;
    if (binding !== expected.toString("base64")) {
      throw protocolError("the channel binding is that of another connection");
    }
    const authMessage = `${state.clientFirstBare},${state.serverFirst},${withoutProof}`;
    const { storedKey, serverKey } = this.verifier;
    const signature = createHmac("sha256", storedKey).update(authMessage).digest();
    const proof = Buffer.from(proofText, "base64");
    const clientKey = Buffer.from(proof.map((byte, i) => byte ^ (signature[i] ?? 0)));
    const candidate = createHash("sha256").update(clientKey).digest();
    if (!timingSafeEqual(candidate, storedKey)) return undefined;
    return `v=${createHmac("sha256", serverKey).update(authMessage).digest("base64")}`;
  }
}

export const SCRAM_PLUS_MECHANISM = "SCRAM-SHA-256-PLUS";
const CHANNEL_BINDING_TYPE = "tls-server-end-point";

/** The same for every reason, so that it tells nothing about users. */
export function passwordError(user: string): WireError {
  return new WireError(
    SqlState.InvalidPassword,
    ErrorCode.Unreachable,
    `password authentication failed for user "${user}"`,
    { hint: "Check the user and the password; `neon pageserver user list` shows the users of a pageserver." },
  );
}

function checkLength(message: string): void {
  if (message.length > CLIENT_MESSAGE_LENGTH_MAX) {
    throw corrupt(`SCRAM: message of ${message.length} characters`);
  }
}

function protocolError(what: string): NeonError {
  return corrupt(`SCRAM: ${what}`);
}
