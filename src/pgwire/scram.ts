/**
 * SCRAM-SHA-256, client side, without channel binding. Source: RFC 5802, RFC 7677, PostgreSQL 17's
 * src/common/saslprep.c for what happens to a password that SASLprep refuses (it is used as it is).
 */
import { createHash, createHmac, pbkdf2, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { ErrorCode, NeonError, assert, corrupt } from "../base/errors.ts";
import type { Random } from "../base/seams.ts";

export const SCRAM_MECHANISM = "SCRAM-SHA-256";

const NONCE_SIZE = 18;
const KEY_SIZE = 32;
/** A server that asks for more rounds is not answered: it would keep a core busy for seconds. */
const ITERATIONS_MAX = 4_000_000;
/** No channel binding: the header `n,,` in base64. */
const CHANNEL_BINDING = "biws";
const SERVER_MESSAGE_LENGTH_MAX = 4096;

export class ScramClient {
  private readonly password: string;
  private readonly nonce: string;
  private serverSignature: Buffer | undefined;
  private proven = false;

  constructor(password: string, random: Random) {
    this.password = saslPrepare(password);
    this.nonce = Buffer.from(random.bytes(NONCE_SIZE)).toString("base64");
  }

  /** True once the server has proven that it knows the password too. */
  get verified(): boolean {
    return this.proven;
  }

  private firstBare(): string {
    // Postgres takes the user from the start-up packet and ignores the one here.
    return `n=,r=${this.nonce}`;
  }

  /** client-first-message. */
  start(): Uint8Array {
    return Buffer.from(`n,,${this.firstBare()}`);
  }

  /** client-final-message, from the server-first-message. */
  async answer(serverFirst: string): Promise<Uint8Array> {
    const { nonce, salt, iterations } = parseServerFirst(serverFirst);
    if (!nonce.startsWith(this.nonce) || nonce.length === this.nonce.length) {
      throw corrupt("SCRAM: the server's nonce does not continue ours");
    }
    const salted = await promisify(pbkdf2)(this.password, salt, iterations, KEY_SIZE, "sha256");
    const clientKey = hmac(salted, "Client Key");
    const storedKey = createHash("sha256").update(clientKey).digest();
    const withoutProof = `c=${CHANNEL_BINDING},r=${nonce}`;
    const authMessage = `${this.firstBare()},${serverFirst},${withoutProof}`;
    const proof = xor(clientKey, hmac(storedKey, authMessage));
    this.serverSignature = hmac(hmac(salted, "Server Key"), authMessage);
    return Buffer.from(`${withoutProof},p=${proof.toString("base64")}`);
  }

  /** Checks the server-final-message; throws if the server does not know the password. */
  verify(serverFinal: string): void {
    const attributes = parseAttributes(serverFinal);
    const refusal = attributes.get("e");
    if (refusal !== undefined)
      throw new NeonError(ErrorCode.Unreachable, `SCRAM: the server says ${refusal}`);
    const signature = Buffer.from(attributes.get("v") ?? "", "base64");
    const expected = this.serverSignature;
    if (!expected || signature.length !== expected.length || !timingSafeEqual(signature, expected)) {
      throw new NeonError(ErrorCode.Unreachable, "SCRAM: the server does not know the password");
    }
    this.proven = true;
  }
}

function parseServerFirst(message: string): { nonce: string; salt: Buffer; iterations: number } {
  const attributes = parseAttributes(message);
  const nonce = attributes.get("r");
  const salt = Buffer.from(attributes.get("s") ?? "", "base64");
  const iterations = Number(attributes.get("i"));
  if (nonce === undefined || salt.length === 0) throw corrupt("SCRAM: nonce or salt is missing");
  if (!Number.isInteger(iterations) || iterations < 1 || iterations > ITERATIONS_MAX) {
    throw corrupt(`SCRAM: ${attributes.get("i")} iterations`, { iterations_max: ITERATIONS_MAX });
  }
  return { nonce, salt, iterations };
}

/** `a=value,b=value…`; values have no comma. */
function parseAttributes(message: string): Map<string, string> {
  if (message.length > SERVER_MESSAGE_LENGTH_MAX)
    throw corrupt(`SCRAM: message of ${message.length} characters`);
  const attributes = new Map<string, string>();
  for (const part of message.split(",")) {
    if (part[1] !== "=") throw corrupt("SCRAM: malformed message");
    attributes.set(part.slice(0, 1), part.slice(2));
  }
  return attributes;
}

const NON_ASCII_SPACE = /[\u{a0}\u{1680}\u{2000}-\u{200b}\u{202f}\u{205f}\u{3000}]/gu;
const MAPPED_TO_NOTHING =
  /\u{ad}|\u{34f}|\u{1806}|[\u{180b}-\u{180d}]|\u{200c}|\u{200d}|\u{2060}|[\u{fe00}-\u{fe0f}]|\u{feff}/gu;
const PROHIBITED =
  /\p{Cc}|\p{Co}|\p{Cs}|\u{340}|\u{341}|\u{6dd}|\u{70f}|\u{180e}|\u{200e}|\u{200f}|[\u{2028}-\u{202e}]|[\u{2061}-\u{206f}]|[\u{2ff0}-\u{2ffb}]|[\u{fff9}-\u{ffff}]/u;

/** SASLprep (RFC 4013) as far as passwords need it; one that it refuses is used unchanged. */
export function saslPrepare(password: string): string {
  const prepared = password.replace(NON_ASCII_SPACE, " ").replace(MAPPED_TO_NOTHING, "").normalize("NFKC");
  return prepared === "" || PROHIBITED.test(prepared) ? password : prepared;
}

function hmac(key: Uint8Array, message: string): Buffer {
  return createHmac("sha256", key).update(message).digest();
}

function xor(a: Buffer, b: Buffer): Buffer {
  assert(a.length === b.length, "keys of one size");
  return Buffer.from(a.map((byte, i) => byte ^ (b[i] ?? 0)));
}
